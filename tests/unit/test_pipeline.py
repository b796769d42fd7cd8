"""Batches are a function of the seed and the position in the stream."""

import dataclasses
import io
import itertools
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pegan_jax.config import ConfigError, DataConfig
from pegan_jax.data import pipeline, sources
from pegan_jax.pixels import UnreadableImage

COUNT = 13
PLAIN = DataConfig(resolution=4, flip=False)
VARIED = DataConfig(resolution=4, flip=True, crop='random')


def encode(pixels):
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(file, 'png')
    return file.getvalue()


class Numbered:
    """Images 4 high and 9 wide: red is the image's number, green the column."""

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        red, green = np.meshgrid([index] * 4, range(0, 90, 10), indexing='ij')
        return {'image': encode(np.stack([red, green, 0 * red], -1)), 'label': np.int32(index)}


def take(count, data=VARIED, source=None, **options):
    """The first `count` batches."""
    batches = pipeline.batches(source or Numbered(), data, **({'batch_size': 4, 'seed': 0} | options))
    try:
        return [next(batches) for _ in range(count)]
    finally:
        batches.close()


def stream(count, **options):
    """The first `count` batches in one row."""
    return np.concatenate([b['image'] for b in take(count, **options)])


@pytest.mark.parametrize('crop', ['center', 'random', 'window', 'stretch'])
def test_grey_and_transparent_images_are_cut_and_mirrored_as_colours_are(crop):
    """Every kind of batch of equal colours holds the same numbers."""

    class Levels(Numbered):
        def __getitem__(self, index):
            level = np.random.default_rng(index).integers(0, 256, (6, 9, 1), np.uint8)
            return {'image': encode(np.concatenate([level, level, level, 255 + 0 * level], -1))}

    data = [DataConfig(resolution=4, crop=crop, channels=n) for n in (1, 3, 4)]
    grey, rgb, rgba = (stream(5, data=d, source=Levels()) for d in data)
    assert [x.shape for x in (grey, rgb, rgba)] == [(20, 4, 4, n) for n in (1, 3, 4)]
    np.testing.assert_array_equal(np.repeat(grey, 3, -1), rgb)
    np.testing.assert_array_equal(rgba[..., :3], rgb)
    assert (rgba[..., 3] == 255).all()


def test_no_colour_leaks_from_what_is_transparent():
    left = np.zeros((8, 8, 4), np.uint8) + np.array([255, 0, 0, 0], np.uint8)
    left[:, 4:] = [0, 0, 255, 255]
    small = pipeline.fit(left, (3, 3), 'center')
    assert small.shape == (3, 3, 4) and 0 < small[0, 1, 3] < 255
    assert small[:, 1:, 0].max() == 0 and small[:, 1:, 2].min() > 250


def numbers(images):
    return images[:, 0, 0, 0]


def test_every_epoch_holds_every_image_once_in_a_new_order():
    order = numbers(stream(4 * COUNT, data=PLAIN)).reshape(-1, COUNT)
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in order)
    assert len({tuple(epoch) for epoch in order}) == len(order)


def test_the_seed_decides():
    np.testing.assert_array_equal(stream(8), stream(8))
    assert (numbers(stream(8)) != numbers(stream(8, seed=1))).any()


@pytest.mark.parametrize('batch_size', [1, 3, 8, 32])
def test_the_stream_does_not_depend_on_the_batch_size(batch_size):
    whole, other = stream(24), stream(-(-96 // batch_size), batch_size=batch_size)
    np.testing.assert_array_equal(other[:96], whole)


@pytest.mark.parametrize('start', [1, 4, 7, COUNT, 50])
def test_a_run_resumes_anywhere(start):
    np.testing.assert_array_equal(stream(8, start_image=start, batch_size=3), stream(30)[start : start + 24])


@pytest.mark.parametrize('processes', [1, 2, 4])
@pytest.mark.parametrize('start', [0, 6])
def test_processes_share_each_batch_in_contiguous_blocks(processes, start):
    whole = stream(5, batch_size=8, start_image=start).reshape(5, processes, -1, 4, 4, 3)
    for p in range(processes):
        block = stream(5, batch_size=8, start_image=start, process_index=p, process_count=processes)
        np.testing.assert_array_equal(block.reshape(whole[:, p].shape), whole[:, p])


def test_batches_must_divide_among_processes():
    with pytest.raises(ConfigError, match='batch_size=6 is not divisible by 4 processes; use 4 or 8'):
        take(1, batch_size=6, process_count=4)


def test_half_of_the_images_are_flipped_and_crops_are_spread():
    images = stream(100, batch_size=10).astype(int)
    flipped = images[:, 0, 0, 1] > images[:, 0, -1, 1]
    assert 0.45 < flipped.mean() < 0.55
    left = np.where(flipped, images[:, 0, -1, 1], images[:, 0, 0, 1]) // 10
    assert np.bincount(left, minlength=6).min() > 120  # of 1000, six places
    same = numbers(images) == 5
    assert len(set(zip(left[same], flipped[same], strict=True))) == 12  # drawn anew each epoch


def test_without_flip_and_random_crop_nothing_is_random():
    images = stream(COUNT, data=PLAIN)
    first = {n: images[numbers(images) == n] for n in range(COUNT)}
    assert all((group == group[0]).all() for group in first.values())


def test_batches_have_the_promised_types():
    (batch,) = take(1)
    assert batch['image'].dtype == np.uint8 and batch['image'].shape == (4, 4, 4, 3)
    assert batch['label'].dtype == np.int32
    np.testing.assert_array_equal(batch['label'], numbers(batch['image']))


@pytest.mark.parametrize('data', [PLAIN, VARIED])
def test_the_cache_changes_nothing_but_the_number_of_reads(data):
    class Counting(Numbered):
        reads = 0

        def __getitem__(self, index):
            Counting.reads += 1
            return super().__getitem__(index)

    cached = DataConfig(**{**vars(data), 'cache': True})
    np.testing.assert_array_equal(stream(40, data=cached, source=Counting()), stream(40, data=data))
    assert COUNT <= Counting.reads <= COUNT * pipeline.READ_THREADS  # threads may read one image at the same time


def test_one_image_is_enough():
    class One(Numbered):
        def __len__(self):
            return 1

    assert stream(3, source=One()).shape == (12, 4, 4, 3)


class Broken(Numbered):
    bad = (3, 4, 12)

    def __getitem__(self, index):
        if index == 12:
            raise OSError('no such file')
        return super().__getitem__(index) | ({'image': b'broken'} if index in self.bad else {})


def test_images_that_fail_in_mid_run_are_replaced_by_the_next_ones_and_reported(caplog):
    good, broken = stream(4 * COUNT, data=PLAIN), stream(4 * COUNT, data=PLAIN, source=Broken())
    expected = [{3: 5, 4: 5, 12: 0}.get(int(n), int(n)) for n in numbers(good)]
    np.testing.assert_array_equal(numbers(broken), expected)
    reports = [r.message for r in caplog.records]
    assert len(reports) == 2 and reports[0].startswith('1 unreadable') and reports[1].startswith('2 unreadable')


def test_an_image_that_a_bucket_does_not_give_is_replaced_and_a_fault_of_the_program_is_raised():
    def source(fails):
        class One(Numbered):
            def __getitem__(self, index):
                if index == 3:
                    raise fails('429')
                return super().__getitem__(index)

        return One()

    http = type('HttpError', (Exception,), {'__module__': 'gcsfs.retry'})  # which is no OSError
    found = numbers(stream(COUNT, data=PLAIN, source=source(http)))
    np.testing.assert_array_equal(found, [4 if n == 3 else n for n in numbers(stream(COUNT, data=PLAIN))])
    with pytest.raises(KeyError):
        stream(COUNT, data=PLAIN, source=source(KeyError))


def test_a_source_that_fails_altogether_is_an_error():
    class Gone(Numbered):
        def __getitem__(self, index):
            raise OSError('gone')

    with pytest.raises(UnreadableImage, match='are all unreadable'):
        take(1, source=Gone())


def test_closing_stops_the_threads():
    before = set(threading.enumerate())
    batches = pipeline.batches(Numbered(), VARIED, batch_size=4, seed=0)
    next(batches)
    started = set(threading.enumerate()) - before
    assert started
    batches.close()
    for thread in started:
        thread.join(timeout=10)
        assert not thread.is_alive()


# Windows outside of the frame

WINDOWS = DataConfig(resolution=(2, 4), outside=1.0, frame_share=0.25)


class Places(Numbered):
    """Images of the size of the canvas of WINDOWS: red is the row, green the column, blue the image's number."""

    def __getitem__(self, index):
        row, column = np.mgrid[:6, :12]
        return {'image': encode(np.stack([row, column, 0 * row + index], -1))}


def test_windows_lie_where_their_offset_says_and_a_mirrored_one_on_the_other_side():
    assert WINDOWS.canvas == (6, 12) and WINDOWS.margin == (2, 4)
    rows = take(100, WINDOWS, Places(), batch_size=10)
    image, offset = (np.concatenate([b[name] for b in rows]) for name in ('image', 'offset'))
    assert image.shape == (1000, 2, 4, 3) and offset.shape == (1000, 2) and offset.dtype == np.int32
    flipped = image[:, 0, 0, 1] > image[:, 0, -1, 1]
    assert 0.4 < flipped.mean() < 0.6
    columns = np.where(flipped, 11 - image[:, 0, :, 1].T, image[:, 0, :, 1].T).T  # of the canvas as D sees it
    np.testing.assert_array_equal(columns, 4 + offset[:, :1] + np.arange(4))
    np.testing.assert_array_equal(image[:, :, 0, 0], 2 + offset[:, 1:] + np.arange(2))
    inside = (offset == 0).all(1).mean()
    assert 0.2 < inside < 0.32  # a quarter, and a few that are drawn there
    assert {*offset[:, 0]} == {*range(-4, 5)} and {*offset[:, 1]} == {*range(-2, 3)}


def test_windows_are_a_function_of_the_position_in_the_stream():
    whole, later = (
        np.concatenate([b['offset'] for b in take(6, WINDOWS, Places(), start_image=start)]) for start in (0, 7)
    )
    np.testing.assert_array_equal(later[:17], whole[7:])


def test_all_windows_may_be_the_frame_which_is_the_middle():
    data = DataConfig(resolution=(2, 4), outside=1.0, frame_share=1.0, flip=False)
    (batch,) = take(1, data, Places())
    assert (batch['offset'] == 0).all()
    assert (batch['image'][:, :, 0, 0] == [2, 3]).all() and (batch['image'][:, 0, :, 1] == [4, 5, 6, 7]).all()
    assert 'offset' not in take(1, PLAIN)[0]


# Patches at random scales

SCALES = DataConfig(resolution=8, crop='scales', frame_share=0.25)


class Mixed(Numbered):
    """Textured images of several sizes, of few colours so that filters overshoot within uint8; the first is small."""

    SIZES = ((6, 7), (8, 8), (20, 20), (24, 60), (50, 33))

    def __len__(self):
        return len(self.SIZES)

    def __getitem__(self, index):
        pixels = np.random.default_rng(index).integers(90, 166, (*self.SIZES[index], 3), np.uint8)
        return {'image': encode(pixels), 'label': np.int32(index)}


@pytest.fixture(scope='module')
def patches():
    """Five hundred of them."""
    rows = take(50, SCALES, Mixed(), batch_size=10)
    return {name: np.concatenate([b[name] for b in rows]) for name in rows[0]}


def test_scales_are_between_the_wanted_size_and_that_of_each_image(patches):
    scale, label = patches['scale'], patches['label']
    assert patches['image'].shape == (500, 8, 8, 3) and patches['image'].dtype == np.uint8
    assert scale.dtype == patches['offset'].dtype == np.float32 and patches['offset'].shape == (500, 2)
    for i, (height, width) in enumerate(Mixed.SIZES):
        most, found = max(1, min(height, width) / 8), scale[label == i]
        assert len(found) == 100 and found.min() == 1 and found.max() <= most
        if most > 1:
            assert 0.12 < np.mean(found == 1) < 0.4 and found.max() > 1 + 0.9 * (most - 1)
            np.testing.assert_allclose(found[found > 1].mean(), (1 + most) / 2, rtol=0.12)
    inside = (
        np.abs(patches['offset']) <= 4 * (1 - 1 / scale)[:, None] + 1e-5
    )  # half of the frame less half of the patch
    assert inside.all() and np.all(patches['offset'][scale == 1] == 0)


def test_patches_show_what_their_offset_and_scale_say_and_a_mirrored_one_the_other_side(patches):
    """Against the definition of the filter, pixel by pixel, in float64."""
    flipped = 0
    for k in range(0, 500, 7):
        scale, (right, down), index = (
            *(patches[name][k].astype(float) for name in ('scale', 'offset')),
            patches['label'][k],
        )
        source = np.random.default_rng(index).integers(90, 166, (*Mixed.SIZES[index], 3), np.uint8).astype(float)
        unit = min(Mixed.SIZES[index]) / 8  # pixels of the source per pixel of the frame

        def weights(length, shift, unit=unit, scale=scale):
            pitch = unit / scale
            middle = length / 2 + unit * shift + pitch * (np.arange(8) - 3.5)
            t = (np.arange(length)[None, :] + 0.5 - middle[:, None]) / max(pitch, 1)
            w = np.where(np.abs(t) < 3, np.sinc(t) * np.sinc(t / 3), 0)
            return w / w.sum(1, keepdims=True)

        def drawn(right, source=source, down=down):
            x = np.einsum('ij,jkc,lk->ilc', weights(len(source), down), source, weights(source.shape[1], right))
            return np.clip(x, 0, 255)

        straight, mirrored = drawn(right), drawn(-right)[:, ::-1]
        errors = [np.abs(patches['image'][k] - want).max() for want in (straight, mirrored)]
        assert min(errors) < 3, (k, scale, errors)  # Pillow rounds between both axes
        flipped += errors[1] < errors[0]
    assert 20 < flipped < 52  # of 72


def test_whole_images_among_patches_are_those_of_center():
    whole = take(4, dataclasses.replace(SCALES, frame_share=1.0, flip=False), Mixed())
    assert all((b['scale'] == 1).all() and (b['offset'] == 0).all() for b in whole)
    plain = take(4, DataConfig(resolution=8, flip=False), Mixed())
    np.testing.assert_array_equal(*(np.concatenate([b['image'] for b in batches]) for batches in (whole, plain)))
    image = np.random.default_rng(0).integers(0, 256, (20, 33, 3), np.uint8)  # scores take whole images by `fit`
    np.testing.assert_array_equal(*(pipeline.fit(image, (8, 8), crop) for crop in ('scales', 'center')))


def test_patches_are_a_function_of_the_position_in_the_stream():
    straight = take(5, SCALES, Mixed())
    resumed = take(3, dataclasses.replace(SCALES, cache=True), Mixed(), start_image=8)
    halves = [take(5, SCALES, Mixed(), process_index=i, process_count=2) for i in range(2)]
    for name in ('image', 'offset', 'scale'):
        np.testing.assert_array_equal([b[name] for b in straight[2:]], [b[name] for b in resumed])
        parts = [np.concatenate([a[name], b[name]]) for a, b in zip(*halves, strict=True)]
        np.testing.assert_array_equal([b[name] for b in straight], parts)


# Fitting


def gradient(height, width):
    """Red grows with the column, green with the row, both by 2 a pixel."""
    y, x = np.mgrid[:height, :width]
    return np.stack([2 * x, 2 * y, 0 * x], -1).astype(np.uint8)


def test_center_cuts_the_largest_centred_window():
    image = pipeline.fit(gradient(40, 100), (20, 20), 'center')  # columns 30 to 70, halved
    assert image.shape == (20, 20, 3) and image.dtype == np.uint8
    np.testing.assert_allclose(image[10, 2:-2, 0], 2 * (30 + 2 * np.arange(20)[2:-2] + 0.5), atol=1)
    tall = pipeline.fit(gradient(100, 40), (10, 20), 'center')  # rows 40 to 60
    np.testing.assert_allclose(tall[2:-2, 5, 1], 2 * (40 + 2 * np.arange(10)[2:-2] + 0.5), atol=1)


def test_stretch_keeps_everything():
    image = pipeline.fit(gradient(40, 100), (20, 20), 'stretch')
    np.testing.assert_allclose(image[10, 2:-2, 0], 2 * (5 * np.arange(20)[2:-2] + 2), atol=1)


def test_random_keeps_the_aspect_and_covers_the_size():
    assert pipeline.fit(gradient(40, 100), (20, 20), 'random').shape == (20, 50, 3)
    assert pipeline.fit(gradient(100, 40), (20, 30), 'random').shape == (75, 30, 3)
    assert pipeline.fit(gradient(3, 7), (5, 5), 'random').shape == (5, 12, 3)


def test_window_enlarges_only_what_is_too_small():
    assert pipeline.fit(gradient(40, 100), (20, 20), 'window').shape == (40, 100, 3)
    assert pipeline.fit(gradient(10, 100), (20, 20), 'window').shape == (20, 200, 3)


@pytest.mark.parametrize('crop', ['center', 'random', 'window', 'stretch'])
def test_an_image_of_the_wanted_size_is_left_alone(crop):
    np.testing.assert_array_equal(pipeline.fit(gradient(12, 20), (12, 20), crop), gradient(12, 20))


@pytest.mark.parametrize('crop', ['center', 'random', 'window', 'stretch'])
@pytest.mark.parametrize('size', [(1, 1), (7, 3), (64, 48)])
def test_awkward_sizes_fit(crop, size):
    for shape in ((1, 1), (1, 50), (33, 2), (101, 67)):
        image = pipeline.fit(gradient(*shape), size, crop)
        assert image.shape[0] >= size[0] and image.shape[1] >= size[1]
        assert crop in ('random', 'window') or image.shape[:2] == size


def test_no_border_of_center_is_outside_of_the_image():
    sides = (20, 27, 110, 160, 333, 480, 500, 640)
    for size in ((36, 48), (100, 100), (300, 300), (362, 362), (512, 680)):
        for shape in itertools.product(sides, sides):
            assert pipeline.fit(np.zeros((*shape, 1), np.uint8), size, 'center').shape == (*size, 1)


def test_reducing_does_not_alias():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    image = pipeline.fit(stripes, (8, 8), 'center')
    assert np.abs(image.astype(int) - 127.5).max() < 8


# Opening


def test_the_configuration_says_what_is_opened(tmp_path):
    for i in range(2):
        (tmp_path / f'{i}.png').write_bytes(encode(gradient(4, 4)))
    folder, image = str(tmp_path), str(tmp_path / '1.png')
    assert len(pipeline.open_source(DataConfig(folder=folder), tmp_path / 'work')) == 2
    assert len(pipeline.open_source(DataConfig(image=image, tfds=None), tmp_path / 'work')) == 1
    with pytest.raises(ConfigError, match=r'more than data\.max_pixels=9'):
        pipeline.open_source(DataConfig(image=image, max_pixels=9), tmp_path)
    with pytest.raises(ConfigError, match='is no TFDS dataset'):
        pipeline.open_source(DataConfig(tfds='nothing', data_dir=folder), tmp_path)


def test_folders_give_batches_without_labels(tmp_path):
    (tmp_path / 'a.png').write_bytes(encode(gradient(8, 6)))
    data = DataConfig(folder=str(tmp_path), resolution=(4, 3))
    (batch,) = take(1, data=data, source=sources.open_folder(data.folder, data.max_pixels, tmp_path))
    assert list(batch) == ['image'] and batch['image'].shape == (4, 4, 3, 3)


def test_labels_must_have_the_size_that_the_model_says(tmp_path):
    for name in ('cats', 'dogs'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'a.png').write_bytes(encode(gradient(8, 6)))
    data = DataConfig(folder=str(tmp_path), resolution=4, labels=True, flip=False)
    source = pipeline.open_source(data, tmp_path / 'work')
    pipeline.check_labels(source, 2)
    with pytest.raises(ConfigError, match=r'model\.c_dim=3, .* have 2 classes'):
        pipeline.check_labels(source, 3)
    with pytest.raises(ConfigError, match=r'set model\.c_dim=2'):
        pipeline.check_labels(source, SimpleNamespace())
    with pytest.raises(ConfigError, match='neither a single image nor the worlds have labels'):
        pipeline.open_source(DataConfig(labels=True), tmp_path)
    (batch,) = take(1, data=data, source=source)
    assert batch['label'].dtype == np.int32 and sorted(set(batch['label'].tolist())) == [0, 1]
