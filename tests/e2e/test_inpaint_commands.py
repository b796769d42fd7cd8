"""The commands inpaint and evaluate on models that were converted from golden files."""

import json
import logging
import pathlib
import sys

import foreign
import numpy as np
import pytest
from PIL import Image

from pegan_jax import convert, evaluation, inpaint, inpainting, load
from pegan_jax.cli import main
from pegan_jax.inpainting import arrays

FIXTURES = pathlib.Path(__file__).parents[1] / 'fixtures' / 'deepfill'
SIZE = (37, 45)


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    out = tmp_path_factory.mktemp('plain') / 'model'
    convert(FIXTURES / 'tf_bundle_tiny', out, sampling_only=True)
    return out


@pytest.fixture(scope='module')
def guided(tmp_path_factory):
    folder = tmp_path_factory.mktemp('guided')
    with np.load(FIXTURES / 'gen_official_guided_c4_40.npz') as file:
        arrays = {name.removeprefix('param/'): file[name] for name in file if name.startswith('param/')}
    convert(foreign.write_bundle(folder, arrays), folder / 'model')
    return folder / 'model'


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """A folder of two images, their masks and sketches."""
    root, rng = tmp_path_factory.mktemp('files'), np.random.default_rng(0)
    for name, top in (('a', 6), ('b', 12)):
        image = rng.integers(0, 256, (*SIZE, 4 if name == 'a' else 3)).astype(np.uint8)
        mask, sketch = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
        mask[top : top + 16, 10:30] = 255
        sketch[top + 8, 5:40] = 255
        for kind, array in (('images', image), ('masks', mask), ('sketches', sketch)):
            (root / kind).mkdir(exist_ok=True)
            Image.fromarray(array).save(root / kind / f'{name}.png')
    return root


def read(path):
    return np.asarray(Image.open(path))


def run(*arguments):
    return main(['inpaint', *map(str, arguments)])


def test_folders_are_completed_and_the_flow_of_the_attention_is_drawn_beside(tmp_path, plain, files, capsys):
    out = tmp_path / 'out'
    options = ('--model', plain, '--image', files / 'images', '--mask', files / 'masks', '--out', out, '--flow')
    options += ('--batch-size', 1)
    assert run(*options) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert sorted(p.name for p in out.iterdir()) == ['a.png', 'a_flow.png', 'b.png', 'b_flow.png']
    model = load(plain)
    for name in ('a', 'b'):
        image, mask, got = (read(p / f'{name}.png') for p in (files / 'images', files / 'masks', out))
        assert got.shape == image.shape
        np.testing.assert_array_equal(got[mask == 0], image[mask == 0])
        np.testing.assert_array_equal(got[..., :3], inpaint(model, image[..., :3], mask > 127))
        if name == 'a':
            np.testing.assert_array_equal(got[..., 3], image[..., 3])
        assert (got != image)[mask > 0].any()
        flow = read(out / f'{name}_flow.png')
        assert flow.shape == (*SIZE, 3) and flow.std() > 5
        np.testing.assert_array_equal(flow[:8, :8], np.broadcast_to(flow[0, 0], (8, 8, 3)))


def test_an_object_that_was_erased_to_transparency_is_filled_and_seen(tmp_path):
    image = np.full((24, 24, 4), (90, 160, 60, 255), np.uint8)
    image[8:14, 8:14, 3] = 0
    image[2, 2, 3] = 200
    Image.fromarray(image).save(tmp_path / 'cut.png')
    options = ['--method', 'biharmonic', '--image', tmp_path / 'cut.png', '--mask', tmp_path / 'cut.png']
    assert run(*options, '--out', tmp_path / 'out.png') == 0
    filled = read(tmp_path / 'out.png')
    assert (filled[8:14, 8:14] == (90, 160, 60, 255)).all() and filled[2, 2, 3] == 200


def test_a_photograph_of_a_telephone_says_what_it_needs(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'pillow_heif', None)
    (tmp_path / 'photo.heic').write_bytes(b'\0\0\0\x18ftypheic' + bytes(100))
    Image.new('L', (8, 8)).save(tmp_path / 'mask.png')
    options = ['--image', tmp_path / 'photo.heic', '--mask', tmp_path / 'mask.png', '--out', tmp_path / 'out.png']
    assert run('--method', 'biharmonic', *options) == 1
    assert "needs: pip install 'pegan_jax[heif]'" in capsys.readouterr().err


def test_the_flow_points_from_each_block_to_its_most_attended_patch(plain, files):
    model = load(plain)
    image, mask = (read(files / kind / 'b.png') for kind in ('images', 'masks'))
    inputs = arrays.inputs(model, image[None], (mask > 0)[None], None)
    offsets = np.asarray(arrays._offsets(model.config.model, model.variables['params'], inputs))
    picture = inpainting.attention_flow(model, image, mask > 0)
    assert offsets.shape == (1, 5, 6, 2)
    # White where nothing moves, and equal colours for equal offsets.
    colours = picture[::8, ::8]
    assert ((colours == 255).all(-1) == (offsets[0] == 0).all(-1)).all()
    far = np.abs(offsets[0]).sum(-1)
    assert colours[far == far.max()].min() < 80


def test_a_sketch_changes_what_a_guided_model_paints_and_only_inside_the_hole(tmp_path, guided, files, capsys):
    options = ['--model', guided, '--image', files / 'images' / 'b.png', '--mask', files / 'masks' / 'b.png']
    assert run(*options, '--out', tmp_path / 'without.png') == 0
    assert run(*options, '--sketch', files / 'sketches' / 'b.png', '--out', tmp_path / 'with.png') == 0
    without, drawn, mask = read(tmp_path / 'without.png'), read(tmp_path / 'with.png'), read(files / 'masks' / 'b.png')
    changed = (without != drawn).any(-1)
    assert changed[mask > 0].mean() > 0.2 and not changed[mask == 0].any()
    inverted = tmp_path / 'dark.png'
    Image.fromarray(255 - read(files / 'sketches' / 'b.png')).save(inverted)
    assert run(*options, '--sketch', inverted, '--invert-sketch', '--out', tmp_path / 'dark_out.png') == 0
    np.testing.assert_array_equal(read(tmp_path / 'dark_out.png'), drawn)


def test_an_unguided_model_refuses_a_sketch_and_nothing_is_written(tmp_path, plain, files, capsys):
    options = ('--image', files / 'images', '--mask', files / 'masks', '--out', tmp_path / 'out')
    assert run('--model', plain, *options, '--sketch', files / 'sketches') == 1
    assert 'this model takes no sketch: it was trained without. Leave the sketch out' in capsys.readouterr().err
    assert run(*options) == 1
    assert 'name a trained --model' in capsys.readouterr().err
    assert run('--model', tmp_path / 'nowhere', *options) == 1
    assert not (tmp_path / 'out').exists()


def test_one_program_serves_all_images_of_a_padded_size(tmp_path, plain, files, caplog):
    for i, size in enumerate(((37, 45), (40, 48), (33, 41))):
        for kind in ('images', 'masks'):
            array = np.resize(read(files / kind / 'b.png'), (*size, 3) if kind == 'images' else size)
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(array).save(tmp_path / kind / f'{i}.png')
    model = load(plain)
    pairs = inpainting.pairs(tmp_path / 'images', tmp_path / 'masks', tmp_path / 'out')
    with caplog.at_level(logging.WARNING):
        import jax

        with jax.log_compiles():
            inpainting.inpaint_files(model, pairs, batch_size=2)
    compiled = [r.getMessage() for r in caplog.records if 'Compiling jit(complete)' in r.getMessage()]
    assert len(compiled) == 1, compiled
    assert len(list((tmp_path / 'out').iterdir())) == 3


def test_evaluate_compares_the_model_and_the_baseline_on_the_same_masks(tmp_path, plain, files, capsys):
    out = tmp_path / 'scores.json'
    arguments = ['evaluate', '--model', plain, '--method', 'biharmonic', '--data', files / 'images', '--size', '40x48']
    arguments += ['--kinds', 'box', '--masks', '1', '--metrics', 'l1,psnr', '--batch-size', '1', '--out', out]
    assert main([str(a) for a in arguments]) == 0
    written, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert list(written['results']) == [str(plain), 'biharmonic'] and written['step'] == 0
    for method in written['results'].values():
        assert [method['box'][b]['images'] for b in method['box']] == [5, 1, 1, 1, 1, 1]
    assert f'{written["results"]["biharmonic"]["all"]["all"]["l1"]:.4g}' in printed
    images = evaluation.read_images(
        evaluation.DataConfig(tfds=None, folder=str(files / 'images'), resolution=(40, 48)), 64
    )
    case = evaluation.cases(0, 1, (40, 48), 2, ('box',))[0]
    filled = inpaint(load(plain), images[case.image], case.mask)
    want = 100 * np.abs(filled / 255.0 - images[case.image] / 255.0)[case.mask == 1].mean()
    assert written['results'][str(plain)]['box']['0.1-0.2']['l1_hole'] == pytest.approx(want, rel=0.01)
