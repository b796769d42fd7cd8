"""Line drawings of images: computed ones, and files of them."""

import io

import numpy as np
import pytest
from PIL import Image
from test_pipeline import Numbered, take

from pegan_jax.cli import main
from pegan_jax.config import ConfigError, DataConfig
from pegan_jax.data import edges, pipeline, sources


def step(low, high, height=32, width=48, at=20):
    """A picture whose brightness changes in one column."""
    image = np.full((height, width, 3), low, np.uint8)
    image[:, at], image[:, at + 1 :] = (low + high) // 2, high
    return image


@pytest.mark.parametrize('method', ['canny', 'dog'])
def test_a_step_is_one_line_where_it_is_of_any_contrast(method):
    drawings = [edges.extract(step(*levels), method) for levels in ((20, 220), (100, 150), (220, 20))]
    for drawing in drawings:
        assert drawing.shape == (32, 48, 1) and drawing.dtype == np.uint8 and set(np.unique(drawing)) == {0, 255}
        columns = np.flatnonzero(drawing.all(axis=(0, 2)))  # lines from top to bottom
        np.testing.assert_array_equal(columns, np.flatnonzero(drawing.any(axis=(0, 2))))
        assert {19, 20, 21} <= set(columns) and len(columns) <= 5
        np.testing.assert_array_equal(drawing, drawings[0])


def test_canny_is_one_pixel_and_one_more_on_both_sides():
    assert (edges.extract(step(20, 220), 'canny')[5] > 0).sum() == 3


@pytest.mark.parametrize('method', ['canny', 'dog'])
def test_there_are_no_lines_in_a_flat_image(method):
    noise = np.random.default_rng(0).integers(100, 102, (32, 32, 3)).astype(np.uint8)
    for image in (np.full((32, 32, 3), 77, np.uint8), noise):
        assert not edges.extract(image, method).any()


def test_green_counts_most():
    weak, strong = (np.zeros((32, 32, 3), np.uint8) for _ in range(2))
    weak[:, :16, 2], strong[:, :16, 1] = 40, 40
    both = np.concatenate([weak, strong])
    drawing = edges.extract(both, 'dog')
    assert not drawing[4:28].any() and drawing[40:60].any()


def test_other_methods_are_refused():
    with pytest.raises(ValueError, match="method='hed'"):
        edges.extract(step(0, 1), 'hed')


# In batches -----------------------------------------------------------------------------------------------------------


def test_batches_carry_the_lines_of_what_is_cut_and_mirrored():
    data = DataConfig(resolution=4, flip=True, crop='random', edges='canny')
    (batch,) = take(1, data=data, batch_size=16)
    assert batch['edge'].shape == (16, 4, 4, 1)
    plain = take(1, data=DataConfig(resolution=4, flip=True, crop='random'), batch_size=16)[0]
    assert 'edge' not in plain
    np.testing.assert_array_equal(batch['image'], plain['image'])
    for image, edge in zip(batch['image'], batch['edge'], strict=True):
        np.testing.assert_array_equal(edge, edges.extract(image, 'canny'))


def save(path, image):
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(image).save(path)


def folder_of_images(root, count=4):
    """Images of 4 x 9 pixels; that of edges is brighter by 100."""
    for i in range(count):
        image = np.array(Image.open(io.BytesIO(Numbered()[i]['image'])))
        image[..., 0] = image[..., 1] + i
        save(root / 'a' / f'{i}.png', image)
        save(root / 'a' / f'{i}_edge.bmp', image + 100)


FILES = dict(resolution=4, flip=True, crop='random', edges='files')


def test_files_of_edges_are_cut_and_mirrored_as_their_images(tmp_path):
    folder_of_images(tmp_path)
    data = DataConfig(folder=str(tmp_path), **FILES)
    source = pipeline.open_source(data, tmp_path / 'run')
    assert len(source) == 4
    (batch,) = take(1, data=data, source=source, batch_size=32)
    np.testing.assert_array_equal(batch['edge'][..., 0], batch['image'][..., 0] + 100)
    mirrored = batch['image'][:, 0, 0, 1] > batch['image'][:, 0, 1, 1]
    assert 0 < mirrored.sum() < 32 and len(np.unique(batch['image'][:, 0, :, 1].min(axis=1))) > 2


def test_files_of_edges_are_no_images_of_the_folder(tmp_path, caplog):
    folder_of_images(tmp_path)
    save(tmp_path / 'knife_edge.png', np.zeros((4, 9, 3), np.uint8))  # there is no knife
    source = sources.open_folder(str(tmp_path), 1000, tmp_path / 'run')
    assert [path.name for path in source.paths] == ['0.png', '1.png', '2.png', '3.png', 'knife_edge.png']
    assert 'edge' not in source[0]
    assert 'named as the edges of others (*_edge) and left out' in caplog.text


def test_a_missing_file_of_edges_is_named_with_what_to_do(tmp_path):
    folder_of_images(tmp_path)
    (tmp_path / 'a' / '2_edge.bmp').unlink()
    with pytest.raises(ConfigError, match=r'1 of 4 images.*a/2\.png: a/2_edge\.png.*pegan_jax edges --folder'):
        pipeline.open_source(DataConfig(folder=str(tmp_path), **FILES), tmp_path / 'run')


def test_unusable_files_of_edges_leave_their_image_out(tmp_path, caplog):
    folder_of_images(tmp_path)
    (tmp_path / 'a' / '1_edge.bmp').write_bytes(b'no image')
    save(tmp_path / 'a' / '2_edge.bmp', np.zeros((4, 8, 3), np.uint8))
    data = DataConfig(folder=str(tmp_path), **FILES)
    source = pipeline.open_source(data, tmp_path / 'run')
    assert len(source) == 3 and '1_edge.bmp, its edges: not an image' in caplog.text
    (batch,) = take(1, data=data, source=source, batch_size=9)
    assert len(batch['edge']) == 9 and 'differ in size, 9 x 4 and 8 x 4' in caplog.text


def test_files_of_edges_need_a_folder():
    with pytest.raises(ConfigError, match=r'data\.folder, which is not set'):
        DataConfig(edges='files')


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_writes_what_training_then_reads(tmp_path, capsys, caplog):
    for name, seed in (('a.png', 0), ('b/c.jpg', 1)):
        save(tmp_path / name, np.random.default_rng(seed).integers(0, 256, (24, 16, 3)).astype(np.uint8))
    (tmp_path / 'broken.png').write_bytes(b'no image')
    for _ in range(2):  # edges of edges are not drawn
        assert main(['edges', '--folder', str(tmp_path), '--out', str(tmp_path), '--method', 'dog']) == 0
    said = capsys.readouterr()
    assert '2 of 3 images' in said.out and 'broken.png: not an image' in caplog.text
    (tmp_path / 'broken.png').unlink()
    assert sorted(p.name for p in tmp_path.rglob('*.*')) == ['a.png', 'a_edge.png', 'c.jpg', 'c_edge.png']
    drawn = np.asarray(Image.open(tmp_path / 'a_edge.png'))
    np.testing.assert_array_equal(drawn, edges.extract(np.asarray(Image.open(tmp_path / 'a.png')), 'dog')[..., 0])
    assert len(sources.open_folder(str(tmp_path), 10**6, tmp_path / 'run', edges=True)) == 2


def test_edges_do_not_go_where_they_would_be_images(tmp_path, capsys):
    folder_of_images(tmp_path)
    assert main(['edges', '--folder', str(tmp_path), '--out', str(tmp_path / 'lines')]) == 1
    assert 'lies inside of' in capsys.readouterr().err and not (tmp_path / 'lines').exists()


def test_images_that_would_share_a_file_of_edges_are_refused(tmp_path, capsys):
    (tmp_path / 'in').mkdir()
    for name in ('a.png', 'a.jpg', 'b.png'):
        save(tmp_path / 'in' / name, np.zeros((24, 16, 3), np.uint8))
    assert main(['edges', '--folder', str(tmp_path / 'in'), '--out', str(tmp_path / 'out')]) == 1
    assert 'a.jpg and a.png would share one file' in capsys.readouterr().err and not (tmp_path / 'out').exists()


def test_the_command_says_what_it_misses(tmp_path, capsys):
    (tmp_path / 'empty').mkdir()
    for more, match in (
        (['--folder', str(tmp_path / 'none')], 'is not a folder'),
        (['--folder', str(tmp_path / 'empty')], 'holds no image'),
        (['--folder', str(tmp_path), '--method', 'hed'], '--method hed needs --weights'),
        (['--folder', str(tmp_path), '--weights', 'hed.pth'], '--method canny takes no --weights'),
    ):
        assert main(['edges', '--out', str(tmp_path), *more]) == 1
        assert match in capsys.readouterr().err
