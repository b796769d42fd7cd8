"""Reading images: good, strange and broken files, and TFDS datasets without TensorFlow."""

import concurrent.futures
import io
import json
import shutil
import struct
import zipfile
import zlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath
from PIL import Image

from pegan_jax.config import ConfigError
from pegan_jax.data import records, sources
from pegan_jax.files import as_path
from pegan_jax.pixels import UnreadableImage, decode_image, with_channels

LIMIT = 10_000
RED = Image.new('RGB', (6, 4), (200, 30, 10))


def encode(image, kind='png', **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def huge_png(width, height):
    """A PNG whose header claims a size; its data end at once."""
    chunks = {b'IHDR': struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0), b'IDAT': b''}
    tails = [struct.pack('>I', len(d)) + n + d + struct.pack('>I', zlib.crc32(n + d)) for n, d in chunks.items()]
    return b'\x89PNG\r\n\x1a\n' + b''.join(tails)


# Decoding


@pytest.mark.parametrize('kind', ['png', 'webp', 'bmp', 'tiff', 'jpeg'])
def test_formats_are_read(kind):
    image = decode_image(encode(RED, kind, **({'lossless': True} if kind == 'webp' else {})), LIMIT)
    assert image.dtype == np.uint8 and image.shape == (4, 6, 3)
    np.testing.assert_allclose(image.astype(int) - [200, 30, 10], 0, atol=3 if kind == 'jpeg' else 0)


def test_sixteen_bit_grey_is_scaled():
    values = np.array([[0, 256, 257, 32768, 65535]], np.uint16)
    for kind in ('png', 'tiff'):
        image = decode_image(encode(Image.fromarray(values), kind), LIMIT)
        np.testing.assert_array_equal(image[0, :, 0], [0, 1, 1, 128, 255])
        assert image.shape == (1, 5, 3) and (image == image[..., :1]).all()


COLOURS = np.array([[[200, 100, 50, 0], [200, 100, 50, 255], [7, 7, 7, 51]]], np.uint8)


@pytest.mark.parametrize('mode', ['L', 'LA', 'RGB', 'RGBA', 'P', 'I;16'])
def test_grey_is_the_luminance_over_black(mode):
    if mode == 'I;16':
        image, want = Image.fromarray(np.array([[0, 257, 65535]], np.uint16)), [0, 1, 255]
    elif mode == 'P':
        image, want = Image.fromarray(COLOURS[..., :3]).quantize(3), [124, 124, 7]  # 59.8 + 58.7 + 5.7
    else:
        image = Image.fromarray(COLOURS).convert(mode)
        want = {'L': [124, 124, 7], 'RGB': [124, 124, 7], 'LA': [0, 124, 1], 'RGBA': [0, 124, 1]}[mode]
    pixels = decode_image(encode(image), LIMIT, 1)
    assert pixels.shape == (1, 3, 1) and pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels[0, :, 0], want)


def test_luminance_is_that_of_pillow_and_keeps_grey_exactly():
    colours = np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)
    np.testing.assert_array_equal(with_channels(colours, 1)[..., 0], Image.fromarray(colours).convert('L'))
    levels = np.arange(256, dtype=np.uint8)[None, :, None]
    np.testing.assert_array_equal(with_channels(with_channels(levels, 3), 1), levels)


def test_opacity_is_kept_and_255_where_there_is_none():
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(COLOURS)), LIMIT, 4), COLOURS)
    grey = decode_image(encode(Image.fromarray(COLOURS[..., 0])), LIMIT, 4)
    np.testing.assert_array_equal(grey[0], [[200, 200, 200, 255], [200, 200, 200, 255], [7, 7, 7, 255]])
    assert decode_image(encode(RED), LIMIT, 4)[0, 0].tolist() == [200, 30, 10, 255]


def test_transparency_is_composited_over_black():
    rgba = Image.fromarray(np.array([[[200, 100, 50, 0], [200, 100, 50, 255], [200, 100, 50, 51]]], np.uint8))
    expected = [[0, 0, 0], [200, 100, 50], [40, 20, 10]]
    np.testing.assert_array_equal(decode_image(encode(rgba), LIMIT)[0], expected)
    grey = Image.fromarray(np.array([[[200, 0], [200, 255], [200, 51]]], np.uint8), 'LA')
    np.testing.assert_array_equal(decode_image(encode(grey), LIMIT)[0, :, 0], [0, 200, 40])


def test_palettes_with_a_transparent_colour_are_read():
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), 'P')
    palette.putpalette([10, 20, 30, 40, 50, 60])
    np.testing.assert_array_equal(decode_image(encode(palette), LIMIT)[0], [[10, 20, 30], [40, 50, 60]])
    data = encode(palette, transparency=0)
    np.testing.assert_array_equal(decode_image(data, LIMIT)[0], [[0, 0, 0], [40, 50, 60]])


def test_cmyk_is_converted():
    image = decode_image(encode(RED.convert('CMYK'), 'jpeg', quality=95), LIMIT)
    np.testing.assert_allclose(image.astype(int) - [200, 30, 10], 0, atol=6)


def test_exif_rotation_is_applied():
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :16] = 255  # left half white
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise: left becomes top
    image = decode_image(encode(Image.fromarray(pixels), 'jpeg', exif=exif), LIMIT)
    assert image.shape == (32, 16, 3) and image[:12].min() > 240 and image[20:].max() < 15


BROKEN = {
    'empty': (b'', 'empty file'),
    'text': (b'hello, I am no image', 'not an image'),
    'cut png': (
        encode(Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)))[:1500],
        'decoded',
    ),
    'cut jpeg': (encode(Image.effect_noise((64, 64), 90), 'jpeg')[:1200], 'cannot be decoded'),
    'cut header': (encode(RED)[:20], 'not an image'),
    'large': (huge_png(200, 300), '200 x 300 pixels, more than data.max_pixels=10000'),
    'bomb': (huge_png(60_000, 60_000), 'pixels'),
    'floats': (encode(Image.fromarray(np.zeros((2, 2), np.float32)), 'tiff'), 'float pixels'),
    'other format': (encode(RED, 'pdf'), 'not an image'),
    'heic': (b'\0\0\0\x18ftypheic' + bytes(40), 'a HEIC photograph, which needs|not an image'),
}


@pytest.mark.parametrize('case', BROKEN)
@pytest.mark.parametrize('draft', [False, True])
def test_broken_images_are_refused_with_the_reason(case, draft):
    data, reason = BROKEN[case]
    with pytest.raises(UnreadableImage, match=reason):
        decode_image(data, LIMIT, draft=draft)


def test_the_limit_is_inclusive():
    assert decode_image(encode(RED), 24).shape == (4, 6, 3)
    with pytest.raises(UnreadableImage, match='6 x 4 pixels'):
        decode_image(encode(RED), 23)


# Folders


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / 'images'
    for name in ('b.png', 'a/z.JPG', 'a/c/y.webp', 'a.png', '.hidden.png', '.cache/x.png', 'notes.txt'):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        kind = {'.JPG': 'jpeg', '.webp': 'webp'}.get((root / name).suffix, 'png')
        (root / name).write_bytes(encode(RED, kind))
    return root


def names(files, root):
    return [p.relative_to(root).as_posix() for p in files.paths]


def test_folders_are_read_in_sorted_order_with_sub_folders(folder, tmp_path, caplog):
    files = sources.open_folder(str(folder), LIMIT, tmp_path / 'work')
    assert names(files, folder) == ['a.png', 'a/c/y.webp', 'a/z.JPG', 'b.png']
    assert len(files) == 4 and files[0]['image'] == (folder / 'a.png').read_bytes()
    assert not caplog.records


def test_broken_files_are_left_out_and_reported_once(folder, tmp_path, caplog):
    for name, (data, _) in BROKEN.items():
        (folder / f'{name}.png').write_bytes(data)
    files = sources.open_folder(str(folder), LIMIT, tmp_path / 'work')
    assert names(files, folder) == ['a.png', 'a/c/y.webp', 'a/z.JPG', 'b.png']
    (record,) = caplog.records
    assert f'{len(BROKEN)} of {len(BROKEN) + 4} images' in record.message and 'and 5 more' in record.message


def test_unchanged_good_files_are_not_read_again(folder, tmp_path, monkeypatch):
    (folder / 'bad.png').write_bytes(b'')
    before = sources.open_folder(str(folder), LIMIT, tmp_path / 'work')
    read = []
    defect = sources._defect
    monkeypatch.setattr(sources, '_defect', lambda path, limit: read.append(path.name) or defect(path, limit))
    assert sources.open_folder(str(folder), LIMIT, tmp_path / 'work') == before
    assert read == ['bad.png']  # what was wrong may have been the storage, or a package that was missing
    (folder / 'bad.png').write_bytes(encode(RED))
    assert len(sources.open_folder(str(folder), LIMIT, tmp_path / 'work')) == 5
    assert len(sources.open_folder(str(folder), LIMIT, tmp_path / 'work')) == 5
    assert read == ['bad.png'] * 2
    assert len(sources.open_folder(str(folder), 30, tmp_path / 'work')) == 5  # another limit: all are read
    assert len(read) == 7


def test_a_failure_of_the_storage_is_no_defect_of_an_image(folder, tmp_path, monkeypatch):
    def fail(path):
        raise OSError('stale file handle')

    with monkeypatch.context() as patch:
        patch.setattr(sources, '_read', fail)
        with pytest.raises(ValueError, match='holds no readable image'):
            sources.open_folder(str(folder), LIMIT, tmp_path / 'work')
    assert len(sources.open_folder(str(folder), LIMIT, tmp_path / 'work')) == 4


def test_a_damaged_record_of_checks_is_written_anew(folder, tmp_path):
    for text in ('{"half', '[]', json.dumps({'x': 3})):
        (tmp_path / 'checked_images.json').write_text(text)
        assert len(sources.open_folder(str(folder), LIMIT, tmp_path)) == 4


LABELS = [['1/b.png', 0], ['0/a.png', 3], ['1/c.png', 1]]


def archive(path, labels=(), **options):
    """The format of NVlabs/stylegan3: images, each of its own colour, and dataset.json."""
    with zipfile.ZipFile(path, 'w', **options) as file:
        for i, name in enumerate(['1/b.png', '0/a.png', '__MACOSX/1/b.png', '1/c.png', '1/.d.png']):
            file.writestr(name, encode(Image.new('RGB', (3, 2), (i, 0, 0))))
        if labels != ():
            file.writestr('dataset.json', json.dumps({'labels': labels}))
    return str(path)


def red(example):
    return int(decode_image(example['image'], LIMIT)[0, 0, 0])


@pytest.mark.parametrize('compression', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_files_are_read_by_many_threads_at_once(tmp_path, compression):
    source = sources.open_folder(archive(tmp_path / 'x.zip', compression=compression), LIMIT, tmp_path)
    assert len(source) == 3 and source.c_dim == 0 and set(source[0]) == {'image'}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: red(source[i % 3]), range(300))) == [1, 0, 3] * 100


def test_images_that_a_zip_file_keeps_encrypted_are_left_out(tmp_path, caplog):
    with zipfile.ZipFile(tmp_path / 'set.zip', 'w') as file:
        for name in 'ab':
            file.writestr(f'{name}.png', encode(RED))
    content = bytearray((tmp_path / 'set.zip').read_bytes())
    content[6] |= 1  # the flag of encryption, in front of the first file and in the directory
    content[content.index(b'PK\1\2') + 8] |= 1
    (tmp_path / 'set.zip').write_bytes(content)
    assert len(sources.open_folder(str(tmp_path / 'set.zip'), LIMIT, tmp_path / 'work')) == 1
    assert 'encrypted' in caplog.text


def test_images_damaged_in_a_zip_file_are_left_out(tmp_path):
    path = archive(tmp_path / 'x.zip')
    with zipfile.ZipFile(path) as file:
        at = file.getinfo('0/a.png').header_offset
    data = bytearray((tmp_path / 'x.zip').read_bytes())
    data[at + 60] ^= 255
    (tmp_path / 'x.zip').write_bytes(data)
    source = sources.open_folder(path, LIMIT, tmp_path)
    assert [red(source[i]) for i in range(len(source))] == [0, 3]


def test_labels_of_folders_and_zip_files(tmp_path):
    by_folder = sources.open_folder(archive(tmp_path / 'a.zip'), LIMIT, tmp_path, labels=True)
    assert by_folder.c_dim == 2 and [by_folder[i]['label'] for i in range(3)] == [0, 1, 1]
    written = sources.open_folder(archive(tmp_path / 'b.zip', LABELS), LIMIT, tmp_path, labels=True)
    assert written.c_dim == 4 and [written[i]['label'] for i in range(3)] == [3, 0, 1]
    assert written[0]['label'].dtype == np.int32
    vectors = [[name, [0.5, label]] for name, label in LABELS]
    with zipfile.ZipFile(archive(tmp_path / 'c.zip', vectors)) as file:
        file.extractall(tmp_path / 'c')
    source = sources.open_folder(str(tmp_path / 'c'), LIMIT, tmp_path, labels=True)
    assert source.c_dim == 2 and source[0]['label'].dtype == np.float32
    np.testing.assert_array_equal([source[i]['label'] for i in range(3)], [[0.5, 3], [0.5, 0], [0.5, 1]])


@pytest.mark.parametrize(
    'labels, message',
    [
        (None, "no label of '0/a.png'"),
        (LABELS[:2], "no label of '1/c.png'"),
        ([[name, -1] for name, _ in LABELS], 'negative class, -1'),
        ([[name, [0.0] * i] for i, (name, _) in enumerate(LABELS)], 'cannot be used'),
        ([[name, 0.5] for name, _ in LABELS], 'whole numbers'),
        ([[name, [0.5, float('nan')]] for name, _ in LABELS], 'label of 0/a.png is not finite'),
    ],
)
def test_unusable_labels_are_errors(tmp_path, labels, message):
    path = archive(tmp_path / 'x.zip', labels)
    assert len(sources.open_folder(path, LIMIT, tmp_path)) == 3
    with pytest.raises(ConfigError, match=message):
        sources.open_folder(path, LIMIT, tmp_path, labels=True)


def test_images_outside_class_folders_and_datasets_without_labels_are_errors(folder, tmp_path, prepared):
    with pytest.raises(ConfigError, match=r'a\.png is in no sub-folder'):
        sources.open_folder(str(folder), LIMIT, tmp_path / 'work', labels=True)
    with pytest.raises(ConfigError, match=r"data\.tfds='unlabelled' has no label"):
        records.open_tfds('unlabelled', 'train', prepared, labels=True)


def test_folders_without_images_are_errors(tmp_path):
    with pytest.raises(ConfigError, match='is not a folder'):
        sources.open_folder(str(tmp_path / 'nowhere'), LIMIT, tmp_path)
    (tmp_path / 'bad.png').write_bytes(b'')
    with pytest.raises(ConfigError, match=r'no readable image \(1 unreadable\)'):
        sources.open_folder(str(tmp_path), LIMIT, tmp_path)


def test_a_single_image_is_a_source_of_length_one(tmp_path):
    path = tmp_path / 'one.png'
    path.write_bytes(encode(RED))
    source = sources.open_image(str(path), LIMIT)
    assert len(source) == 1 and source[0]['image'] == path.read_bytes()
    with pytest.raises(ConfigError, match='is unusable: 6 x 4 pixels'):
        sources.open_image(str(path), 10)
    with pytest.raises(ConfigError, match='is not a file'):
        sources.open_image(str(tmp_path), LIMIT)


@pytest.mark.parametrize('kind', ['gif', 'ppm', 'tga', 'jpeg2000', 'avif'])
def test_whatever_pillow_reads_is_read(kind):
    pixels = decode_image(encode(RED, kind), LIMIT)
    assert pixels.shape == (4, 6, 3) and abs(int(pixels[0, 0, 0]) - RED.getpixel((0, 0))[0]) < 10


def test_links_are_followed_and_circles_end(tmp_path):
    store, root = tmp_path / 'store', tmp_path / 'data'
    for name in 'abc':
        (store / name).mkdir(parents=True)
        (store / name / 'x.png').write_bytes(encode(RED))
    root.mkdir()
    (root / 'a').symlink_to(store / 'a')
    (root / 'b').symlink_to(store / 'b', target_is_directory=True)
    (store / 'b' / 'circle').symlink_to(root)
    (root / 'c').mkdir()
    (root / 'c' / 'y.png').symlink_to(store / 'c' / 'x.png')
    source = sources.open_folder(str(root), LIMIT, tmp_path / 'work', labels=True)
    assert source.contents().classes == ('a', 'b', 'c') and source.contents().counts == (1, 1, 1)


def test_what_is_passed_over_is_counted(folder, tmp_path):
    (folder / 'a' / 'README').write_text('x')
    (folder / 'bad.png').write_bytes(b'')
    contents = sources.open_folder(str(folder), LIMIT, tmp_path / 'work').contents()
    assert contents.passed_over == {'unreadable': 1, '.txt': 1, 'without suffix': 1} and contents.images == 4
    assert contents.told().endswith('passed over: 1 unreadable, 1 .txt, 1 without suffix')


def test_a_workdir_inside_the_data_is_no_data(folder, tmp_path):
    for workdir in (folder / 'run', folder):
        for where in ('samples', 'wandb/run-1/files/media/images'):
            (workdir / where).mkdir(parents=True)
            (workdir / where / 'samples_00000000.png').write_bytes(encode(RED))
        found = names(sources.open_folder(str(folder), LIMIT, workdir), folder)
        assert found == ['a.png', 'a/c/y.webp', 'a/z.JPG', 'b.png']
        for where in ('samples', 'wandb'):
            shutil.rmtree(workdir / where)


@pytest.mark.parametrize('workdir', ['cats', 'gs://bucket/animals/cats', None])
def test_only_a_workdir_in_the_bucket_of_the_data_is_no_data(workdir, monkeypatch):
    stamps = {name: [1, []] for name in ('None/a.png', 'cats/a.png', 'catsup/a.png')}
    monkeypatch.setattr(sources, 'stamps_below', lambda root: stamps)
    found, _ = sources._listed(epath.Path('gs://bucket/animals'), None if workdir is None else as_path(workdir))
    assert stamps.keys() - found.keys() == ({'cats/a.png'} if workdir == 'gs://bucket/animals/cats' else set())


def test_a_zip_file_may_begin_its_names_with_a_dot(tmp_path):
    with zipfile.ZipFile(tmp_path / 'x.zip', 'w') as file:
        for name in ('./0/a.png', './1/b.png', './.hidden/c.png'):
            file.writestr(name, encode(RED))
    source = sources.open_folder(str(tmp_path / 'x.zip'), LIMIT, tmp_path, labels=True)
    assert source.c_dim == 2 and [source[i]['label'] for i in range(len(source))] == [0, 1]


@pytest.mark.parametrize('kind', ['zip', 'folder'])
def test_labels_in_the_only_folder_of_a_data_set(tmp_path, kind):
    with zipfile.ZipFile(tmp_path / 'x.zip', 'w') as file:
        for i in range(3):
            file.writestr(f'faces/0/{i}.png', encode(RED))
        file.writestr('faces/dataset.json', json.dumps({'labels': [[f'0/{i}.png', i] for i in range(3)]}))
    if kind == 'folder':
        with zipfile.ZipFile(tmp_path / 'x.zip') as file:
            file.extractall(tmp_path / 'x')
    source = sources.open_folder(str(tmp_path / ('x.zip' if kind == 'zip' else 'x')), LIMIT, tmp_path, labels=True)
    assert source.c_dim == 3 and [source[i]['label'] for i in range(3)] == [0, 1, 2]


def test_splits_are_no_classes(tmp_path):
    for split in ('train', 'val'):
        (tmp_path / 'data' / split / 'cat').mkdir(parents=True)
        (tmp_path / 'data' / split / 'cat' / 'a.png').write_bytes(encode(RED))
    with pytest.raises(ConfigError, match=r'are splits, not classes: train, val; name one .*data/train'):
        sources.open_folder(str(tmp_path / 'data'), LIMIT, tmp_path, labels=True)
    assert sources.open_folder(str(tmp_path / 'data' / 'train'), LIMIT, tmp_path, labels=True).classes == ('cat',)
    assert len(sources.open_folder(str(tmp_path / 'data'), LIMIT, tmp_path)) == 2


# TFDS


class Labelled(tfds.core.GeneratorBasedBuilder):
    """Images under an unusual name, a label, a mask and a text."""

    VERSION = tfds.core.Version('1.0.0')
    url_infos = None
    masks = ('mask',)

    def _info(self):
        image, label = tfds.features.Image(), tfds.features.ClassLabel(names=['cat', 'dog'])
        masks = {name: tfds.features.Image(shape=(None, None, 1)) for name in self.masks}
        features = {'image': image, 'kind': label, 'text': tfds.features.Text(), **masks}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {'train': self._generate_examples(6), 'test': self._generate_examples(2)}

    def _generate_examples(self, count):
        for i in range(count):
            image = encode(Image.new('RGB', (5, 3), (i, 0, 0)))
            masks = {name: encode(Image.new('L', (5, 3))) for name in self.masks}
            yield i, {'image': image, 'kind': i % 2, 'text': str(i), **masks}


class Ambiguous(Labelled):
    """Several images, none of them called 'image'."""

    def _info(self):
        features = {name: tfds.features.Image() for name in ('left', 'right')}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _generate_examples(self, count):
        yield 0, {'left': encode(RED), 'right': encode(RED)}


class Unlabelled(Labelled):
    """Images alone."""

    def _info(self):
        features = {'image': tfds.features.Image()}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _generate_examples(self, count):
        yield 0, {'image': encode(RED)}


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    data_dir = str(tmp_path_factory.mktemp('tfds'))
    for builder in (Labelled, Ambiguous, Unlabelled):
        builder(data_dir=data_dir, file_format='array_record').download_and_prepare()
    return data_dir


def test_tfds_datasets_are_read_with_labels_and_encoded_images(prepared):
    assert set(records.open_tfds('labelled', 'train', prepared)[0]) == {'image'}
    source = records.open_tfds('labelled', 'train', prepared, labels=True)
    assert len(source) == 6 and source.c_dim == 2
    seen = {}
    for i in range(6):
        assert set(source[i]) == {'image', 'label'} and source[i]['label'].dtype == np.int32
        seen[int(decode_image(source[i]['image'], LIMIT)[0, 0, 0])] = int(source[i]['label'])
    assert seen == {i: i % 2 for i in range(6)}
    assert len(records.open_tfds('labelled', 'test', prepared)) == 2
    assert len(records.open_tfds('labelled', 'train[:50%]+test', prepared)) == 5


@pytest.mark.parametrize('split', ['validation', 'train[:0]', 'train['])
def test_bad_splits_are_named(prepared, split):
    with pytest.raises(ConfigError, match=r'(?s)data\.split=.*known: (train, test|test, train)'):
        records.open_tfds('labelled', split, prepared)


@pytest.mark.parametrize(
    'name, message',
    [
        ('mnist', r"not prepared in .*file_format='array_record'\)\.download_and_prepare.*pegan_jax\[tf\]"),
        ('no_such_dataset', 'is no TFDS dataset'),
        ('mnist:0.0.1', '0.0.1'),
        ('a name', "data.tfds='a name'"),
        ('ambiguous', 'has no image, or several'),
    ],
)
def test_unusable_datasets_are_explained(prepared, name, message):
    with pytest.raises(ConfigError, match=message):
        records.open_tfds(name, 'train', prepared)


def copy_of(prepared, tmp_path):
    source, target = f'{prepared}/labelled', tmp_path / 'labelled'
    return shutil.copytree(source, target) / '1.0.0'


def test_other_file_formats_are_explained(prepared, tmp_path):
    info = copy_of(prepared, tmp_path) / 'dataset_info.json'
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(ConfigError, match=r'stored as tfrecord, which has no random access.*delete'):
        records.open_tfds('labelled', 'train', str(tmp_path))


@pytest.mark.parametrize('left', [0.9, 0.5, 0.1, 0.0])
def test_damaged_datasets_are_explained(prepared, tmp_path, left):
    (shard,) = copy_of(prepared, tmp_path).glob('labelled-train.array_record*')
    if left:
        shard.write_bytes(shard.read_bytes()[: int(left * shard.stat().st_size)])
    else:
        shard.unlink()
    with pytest.raises(ConfigError, match=r'is damaged .*delete it'):
        records.open_tfds('labelled', 'train', str(tmp_path))


def test_a_missing_record_is_an_unreadable_image():
    with pytest.raises(UnreadableImage, match='the record is missing'):
        records.Records('theirs', [{'image': None, 'label': None}], 'image', 'label')[0]
