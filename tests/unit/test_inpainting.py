"""Completing images: what happens around a model, with files of every kind, and what is refused."""

import functools
import pathlib

import jax
import numpy as np
import pytest
import tifffile
from PIL import Image

from pegan_jax import inpainting
from pegan_jax.cli import main
from pegan_jax.config import load_config
from pegan_jax.explorer.page import describe
from pegan_jax.gan import Completer
from pegan_jax.inpainting import arrays
from pegan_jax.models import dcgan, deepfill, pconv
from pegan_jax.sampling import Model
from pegan_jax.settings import UserError

RNG = np.random.default_rng(0)


class _Model:
    """A model that paints holes: red is the mean of the known red, green the row / 100, blue the sketch, opacity 0.

    Its images must have sides that are multiples of 8, and what it says of known pixels is wrong.
    """

    def __init__(self, guided=False, channels=3):
        self.config = load_config('deepfill:tiny', [f'{k}={channels}' for k in ('model.img_channels', 'data.channels')])
        self.completer = Completer(None, None, side_multiple=8, guided=guided)
        self.shapes = []

    def complete(self, inputs):
        image, mask = inputs['image'], inputs['mask']
        assert set(np.unique(mask)) <= {0.0, 1.0} and image.shape[1] % 8 == image.shape[2] % 8 == 0
        self.shapes.append(image.shape)
        known = image[..., :1] * (1 - mask)
        red = np.broadcast_to(
            known.sum((1, 2, 3), keepdims=True) / (1 - mask).sum((1, 2, 3), keepdims=True), mask.shape
        )
        green = np.broadcast_to(np.arange(image.shape[1])[None, :, None, None] / 100, mask.shape)
        blue = inputs['sketch'] * mask if 'sketch' in inputs else np.full(mask.shape, -1.0)
        opacity = np.zeros_like(red)
        return np.concatenate([red, green, blue, opacity], axis=-1)[..., : image.shape[-1]]


def photo(height=20, width=28, channels=3):
    return RNG.integers(0, 256, (height, width, channels)).astype(np.uint8)


def hole(height=20, width=28):
    mask = np.zeros((height, width), bool)
    mask[5:12, 9:20] = True
    return mask


def write(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.asarray(array)
    Image.fromarray(array.astype(np.uint8) * 255 if array.dtype == bool else array).save(path, **options)
    return path


def read(path):
    return np.asarray(Image.open(path))


def run(tmp_path, image, mask, model=None, out='out.png', sketch=None, **options):
    """The result of two files (and a sketch), named or given as arrays."""
    files = [
        a if a is None or isinstance(a, pathlib.Path) else write(tmp_path / f'{name}.png', a)
        for name, a in (('image', image), ('mask', mask), ('sketch', sketch))
    ]
    pair = inpainting.pairs(files[0], files[1], tmp_path / out, files[2])
    inpainting.inpaint_files(model or _Model(), pair, **options)
    return read(tmp_path / out)


# Arrays ---------------------------------------------------------------------------------------------------------------


def test_known_pixels_stay_and_holes_are_filled_whatever_the_size():
    for size in ((20, 28), (16, 24), (17, 9)):
        image, mask = photo(*size), hole(*size)
        out = inpainting.inpaint(_Model(), image, mask)
        assert out.dtype == np.uint8 and out.shape == image.shape
        np.testing.assert_array_equal(out[~mask], image[~mask])
        rows = np.nonzero(mask)[0]
        np.testing.assert_array_equal(out[mask][:, 1], np.rint((rows / 100 + 1) * 127.5))
        assert (out[mask][:, 2] == 0).all()


def test_what_is_under_the_hole_does_not_matter_and_padding_repeats_the_border():
    image, mask = photo(), hole()
    other = np.where(mask[..., None], 255 - image, image)
    np.testing.assert_array_equal(inpainting.inpaint(_Model(), image, mask), inpainting.inpaint(_Model(), other, mask))
    padded = arrays.inputs(_Model(), image[None], mask[None], None)
    assert padded['image'].shape == (1, 24, 32, 3) and padded['mask'].shape == (1, 24, 32, 1)
    np.testing.assert_array_equal(padded['image'][0, 20:, :28], np.repeat(padded['image'][0, 19:20, :28], 4, axis=0))
    np.testing.assert_array_equal(padded['image'][0, :, 28:], np.repeat(padded['image'][0, :, 27:28], 4, axis=1))
    assert padded['mask'].sum() == mask.sum()


def test_several_images_have_masks_of_their_own():
    images, masks = np.stack([photo(), photo()]), np.stack([hole(), hole()[::-1]])
    both = inpainting.inpaint(_Model(), images, masks)
    for i in range(2):
        np.testing.assert_array_equal(both[i], inpainting.inpaint(_Model(), images[i], masks[i]))


@pytest.mark.parametrize(
    'image, mask, sketch, match',
    [
        (photo() / 255.0, hole(), None, r'image is float64 \(20, 28, 3\)'),
        (photo(channels=4), hole(), None, r'uint8 \(20, 28, 4\)'),
        (photo(), hole()[:-1], None, r'mask has the shape \(19, 28\)'),
        (photo(), hole()[..., None], None, r'mask has the shape \(20, 28, 1\)'),
        (photo(), hole() * 255, None, 'mask has other values than 0 and 1; for a grey image, pass mask > 127'),
        (photo(), hole() | True, None, 'the mask is 1 everywhere'),
        (photo(), hole(), hole(), 'takes no sketch: it was trained without'),
    ],
)
def test_arrays_that_do_not_fit_are_refused(image, mask, sketch, match):
    with pytest.raises(ValueError, match=match):
        inpainting.inpaint(_Model(), image, mask, sketch)


def test_a_guided_model_of_partial_convolutions_is_drawn_nothing():
    config = load_config('deepfill:partial,guided,tiny')
    gan = deepfill.build(config)
    params = jax.eval_shape(gan.init, jax.random.key(0))[0]['g']
    model = Model(config, gan, {'params': params, 'buffers': {}}, 0)
    for use in (inpainting.inpaint, inpainting.attention_flow):
        with pytest.raises(UserError, match=r"conv_type='partial' .* multiplied by the mask.*'gated' or 'vanilla'"):
            use(model, photo(), hole(), hole())
    inputs = arrays.inputs(model, photo()[None], hole()[None], None)
    result = jax.eval_shape(functools.partial(deepfill.generate, config.model), params, inputs)
    assert result.refined.shape == (1, 24, 32, 3) and result.offsets.shape[1:3] == (3, 4)
    assert not describe('partial', model)['guided']


def test_models_of_other_systems_are_refused():
    config = load_config('dcgan:tiny')
    model = Model(config, dcgan.build(config), {}, 0)
    with pytest.raises(ValueError, match='dcgan makes images of seeds; to complete images'):
        inpainting.inpaint(model, photo(), hole())
    config = load_config('pconv:tiny')
    with pytest.raises(ValueError, match="system 'pconv', which has no attention"):
        inpainting.attention_flow(Model(config, pconv.build(config), {}, 0), photo(), hole())


def test_the_biharmonic_filling_continues_a_ramp_exactly():
    """A linear function has no second derivatives, so it is a solution."""
    ramp = np.broadcast_to((4 * np.arange(28) + 3 * np.arange(20)[:, None])[..., None], (20, 28, 3)).astype(np.uint8)
    mask = hole()
    out = inpainting.biharmonic(np.where(mask[..., None], 0, ramp).astype(np.uint8), mask)
    assert np.abs(out.astype(int) - ramp).max() <= 1
    np.testing.assert_array_equal(out[~mask], ramp[~mask])
    np.testing.assert_array_equal(inpainting.biharmonic(ramp, mask & False), ramp)
    with pytest.raises(ValueError, match='1 everywhere'):
        inpainting.biharmonic(ramp, mask | True)


# Files ----------------------------------------------------------------------------------------------------------------


def test_transparency_comes_back_and_so_do_the_colours_under_it(tmp_path):
    image = photo(channels=4)
    image[..., 3] = RNG.integers(0, 3, (20, 28)) * 127
    out = run(tmp_path, image, hole())
    np.testing.assert_array_equal(out[..., 3], image[..., 3])
    np.testing.assert_array_equal(out[~hole()], image[~hole()])
    assert (out[hole()][:, 2] == 0).all()


def test_a_grey_model_takes_files_without_colours_and_keeps_their_opacity(tmp_path):
    level, opacity = photo(channels=1), RNG.integers(0, 256, (20, 28, 1)).astype(np.uint8)
    want = run(tmp_path, level[..., 0], hole(), _Model(channels=1))
    assert want.shape == (20, 28) and len({*want[hole()]}) == 1
    np.testing.assert_array_equal(want[~hole()], level[~hole()][:, 0])
    np.testing.assert_array_equal(run(tmp_path, level.repeat(3, -1), hole(), _Model(channels=1)), want)
    for image in (np.concatenate([level, opacity], -1), np.concatenate([level] * 3 + [opacity], -1)):
        out = run(tmp_path, image, hole(), _Model(channels=1))
        assert Image.open(tmp_path / 'out.png').mode == 'LA'
        np.testing.assert_array_equal(out, np.stack([want, opacity[..., 0]], axis=-1))
    with pytest.raises(ValueError, match=r'image\.png has colours, and the model is grey'):
        run(tmp_path, photo(), hole(), _Model(channels=1))


def test_a_model_of_rgba_fills_opacity_too(tmp_path):
    image = photo(channels=4)
    out = run(tmp_path, image, hole(), _Model(channels=4))
    np.testing.assert_array_equal(out[~hole()], image[~hole()])
    assert (out[hole()][:, 3] == 128).all()  # halfway, as its 0 says
    out = run(tmp_path, image[..., :3], hole(), _Model(channels=4))
    np.testing.assert_array_equal(out[~hole()][:, :3], image[~hole()][:, :3])
    assert (out[~hole()][:, 3] == 255).all() and (out[hole()][:, 3] == 128).all()


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('suffix', ['.png', '.tif'])
def test_images_are_turned_upright_and_masks_fit_what_is_seen(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = photo()
    back = {
        1: lambda x: x, 2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1), 6: lambda x: x.swapaxes(0, 1)[::-1],
        7: lambda x: x.swapaxes(0, 1)[::-1, ::-1], 8: lambda x: x.swapaxes(0, 1)[:, ::-1],
    }  # fmt: skip
    turned = write(tmp_path / f'turned{suffix}', np.ascontiguousarray(back[orientation](upright)), exif=exif)
    out = run(tmp_path, turned, hole())
    np.testing.assert_array_equal(out[~hole()], upright[~hole()])
    assert 'exif' not in Image.open(tmp_path / 'out.png').info


@pytest.mark.parametrize('mode', ['1', 'L', 'P', 'LA', 'CMYK', 'I;16', 'P with transparency', 'L with transparency'])
def test_other_colour_modes_become_rgb(tmp_path, mode, caplog):
    base, options, suffix = Image.fromarray(photo()), {}, '.png'
    if mode == 'I;16':
        image = Image.fromarray(np.asarray(base.convert('L')).astype(np.uint16) * 257)
    elif mode == 'LA':
        image = base.convert('RGBA').convert('LA')
    else:
        kind = mode.partition(' ')[0]
        image = base.quantize(16) if kind == 'P' else base.convert(kind)
        options = {'transparency': 0} if 'with' in mode else {}
        suffix = '.tif' if kind == 'CMYK' else '.png'
    path = tmp_path / f'other{suffix}'
    image.save(path, **options)
    alpha = mode in ('LA', 'P with transparency', 'L with transparency')
    want = np.asarray(Image.open(path).convert('RGBA' if alpha else 'RGB')) if mode != 'I;16' else None
    if want is None:
        want = np.asarray(base.convert('L').convert('RGB'))
    out = run(tmp_path, path, hole())
    np.testing.assert_array_equal(out[~hole()], want[~hole()])
    assert ('16 bits' in caplog.text) == (mode == 'I;16')


@pytest.mark.parametrize('bits, warned', [(8, False), (16, True)])
def test_colours_of_16_bits_become_8_with_a_warning(tmp_path, bits, warned, caplog):
    path, image = tmp_path / 'deep.tif', photo()
    tifffile.imwrite(path, image if bits == 8 else image.astype(np.uint16) * 257, photometric='rgb')
    out = run(tmp_path, path, hole())
    np.testing.assert_array_equal(out[~hole()], image[~hole()])
    assert ('16 bits' in caplog.text) == warned


def test_a_colour_profile_is_kept(tmp_path):
    profile = b'some profile'
    image = write(tmp_path / 'image.png', photo(), icc_profile=profile)
    run(tmp_path, image, hole())
    assert Image.open(tmp_path / 'out.png').info['icc_profile'] == profile


def test_masks_are_white_in_holes_and_grey_ones_are_cut_with_a_warning(tmp_path, caplog):
    image = photo()
    want = run(tmp_path, image, hole())
    assert not caplog.records
    np.testing.assert_array_equal(run(tmp_path, image, ~hole(), invert_mask=True), want)
    np.testing.assert_array_equal(run(tmp_path, image, hole().astype(np.uint8)), want)  # 0 and 1
    colours = np.repeat((hole() * 255).astype(np.uint8)[..., None], 3, axis=-1)
    np.testing.assert_array_equal(run(tmp_path, image, colours), want)
    assert not caplog.records
    grey = np.where(hole(), 128, 127).astype(np.uint8)
    np.testing.assert_array_equal(run(tmp_path, image, grey), want)
    assert 'above 127.5' in caplog.text
    # Drawn on a transparent layer: what is transparent is known.
    layer = np.full((20, 28, 4), 255, np.uint8)
    layer[..., 3] = hole() * 255
    np.testing.assert_array_equal(run(tmp_path, image, layer), want)


def test_an_image_far_larger_than_those_of_training_gets_advice(tmp_path, caplog):
    for width, options, told in ((256, {}, 0), (264, {}, 1), (264, {'strategy': inpainting.Strategy('crop')}, 0)):
        caplog.clear()
        run(tmp_path, photo(width=width), hole(width=width), **options)
        assert caplog.text.count('and training had 32: --strategy resize --limit 64 may look better') == told


def test_a_mask_without_a_hole_changes_nothing_and_says_so_and_one_without_known_pixels_is_refused(tmp_path, caplog):
    image = photo()
    np.testing.assert_array_equal(run(tmp_path, image, hole() & False), image)
    assert 'has no hole' in caplog.text
    with pytest.raises(ValueError, match=r'mask.png is a hole everywhere \(white\), .* --invert-mask'):
        run(tmp_path, image, hole() | True, out='other.png')
    with pytest.raises(ValueError, match=r'a hole everywhere \(black\)'):
        run(tmp_path, image, hole() & False, out='other.png', invert_mask=True)
    assert not (tmp_path / 'other.png').exists()


def test_sketches_are_white_lines_of_which_those_in_the_hole_count(tmp_path, caplog):
    sketch = np.zeros((20, 28), np.uint8)
    sketch[8] = 255
    sketch[9] = 153  # not a line: 0.6 of the range is not enough
    out = run(tmp_path, photo(), hole(), _Model(guided=True), sketch=sketch)
    blue = np.where(hole(), out[..., 2], 0)
    assert (blue[8, 9:20] == 255).all() and (blue[hole()] == 255).sum() == 11
    flipped = run(tmp_path, photo(), hole(), _Model(guided=True), sketch=255 - sketch, invert_sketch=True)
    np.testing.assert_array_equal(np.where(hole(), flipped[..., 2], 0), blue)
    assert not caplog.records
    run(tmp_path, photo(), hole(), _Model(guided=True), sketch=255 - sketch)
    assert 'most of the sketch' in caplog.text
    without = run(tmp_path, photo(), hole(), _Model(guided=True))
    assert (without[hole()][:, 2] == 128).all()  # no line anywhere
    with pytest.raises(ValueError, match='takes no sketch'):
        run(tmp_path, photo(), hole(), sketch=sketch)


def test_files_of_other_sizes_and_no_images_are_refused_before_anything_is_computed(tmp_path):
    model = _Model()
    with pytest.raises(ValueError, match=r'mask.png has 27 x 20 pixels and .*image.png 28 x 20'):
        run(tmp_path, photo(), hole()[:, :-1], model)
    with pytest.raises(ValueError, match=r'sketch\.png has 28 x 19'):
        run(tmp_path, photo(), hole(), _Model(guided=True), sketch=hole()[:-1])
    (tmp_path / 'text.png').write_text('no image')
    with pytest.raises(ValueError, match=r'text\.png cannot be read as an image'):
        run(tmp_path, tmp_path / 'text.png', hole(), model)
    cut = write(tmp_path / 'cut.png', photo(64, 64))
    cut.write_bytes(cut.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r'cut\.png cannot be decoded'):
        run(tmp_path, cut, hole(64, 64), model)
    with pytest.raises(ValueError, match='at most 100 are read'):
        run(tmp_path, photo(), hole(), model, max_pixels=100)
    with pytest.raises(ValueError, match=r'nowhere.png is not a file\.'):
        run(tmp_path, tmp_path / 'nowhere.png', hole(), model)
    assert not model.shapes and not (tmp_path / 'out.png').exists()


@pytest.mark.parametrize('name', ['out.jpg', 'out.webp', 'out', 'out.npy'])
def test_results_that_would_not_keep_the_known_pixels_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r'would not keep the known pixels as they are; write .png, .tif'):
        run(tmp_path, photo(), hole(), out=name)


def test_nothing_half_written_stays(tmp_path, monkeypatch):
    def fails(self, stream, *arguments, **options):
        pathlib.Path(stream).write_bytes(b'half')
        raise OSError('disk full')

    (tmp_path / 'out.png').write_bytes(b'before')
    image, mask = write(tmp_path / 'image.png', photo()), write(tmp_path / 'mask.png', hole())
    monkeypatch.setattr(Image.Image, 'save', fails)
    with pytest.raises(OSError, match='disk full'):
        run(tmp_path, image, mask)
    assert (tmp_path / 'out.png').read_bytes() == b'before'
    assert sorted(p.name for p in tmp_path.iterdir()) == ['image.png', 'mask.png', 'out.png']


def test_folders_are_matched_by_name_and_images_of_one_size_share_a_batch(tmp_path):
    sizes = {'a': (20, 28), 'b': (16, 16), 'c': (24, 32), 'd': (17, 25), 'e': (20, 28), 'f': (24, 26)}
    images = {name: photo(*size) for name, size in sizes.items()}
    for name, image in images.items():
        write(tmp_path / 'images' / f'{name}.{"bmp" if name == "a" else "png"}', image)
        write(tmp_path / 'masks' / f'{name}.png', hole(*sizes[name]))
    (tmp_path / 'images' / 'notes.txt').write_text('')
    model = _Model()
    files = inpainting.pairs(tmp_path / 'images', tmp_path / 'masks', tmp_path / 'out')
    inpainting.inpaint_files(model, files, batch_size=2)
    assert sorted(model.shapes) == [(1, 16, 16, 3)] + [(2, 24, 32, 3)] * 3
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == [f'{name}.png' for name in sizes]
    for name, image in images.items():
        single = inpainting.inpaint(_Model(), image, hole(*sizes[name]))
        np.testing.assert_array_equal(read(tmp_path / 'out' / f'{name}.png'), single)


def test_results_do_not_overwrite_inputs_or_each_other(tmp_path):
    for name in ('a', 'a_flow'):
        for folder in ('images', 'masks'):
            write(tmp_path / folder / f'{name}.png', photo() if folder == 'images' else hole())
    images, masks = tmp_path / 'images', tmp_path / 'masks'
    before = read(images / 'a.png')
    for out in (images, masks, tmp_path / 'new' / '..' / 'images'):
        with pytest.raises(ValueError, match=r'would overwrite .*a\.png, which is an input'):
            inpainting.inpaint_files(_Model(), inpainting.pairs(images, masks, out))
    np.testing.assert_array_equal(read(images / 'a.png'), before)
    with pytest.raises(ValueError, match=r'would overwrite .*a_flow\.png, which is another result'):
        inpainting.inpaint_files(_Model(), inpainting.pairs(images, masks, tmp_path / 'out'), flow=True)
    assert not (tmp_path / 'out').exists()


def test_a_name_may_be_as_long_as_names_can_be(tmp_path):
    run(tmp_path, photo(), hole(), out='ä' * 125 + '.png')
    assert len(list(tmp_path.glob('ä*.png'))) == 1


def test_folders_that_do_not_match_are_refused(tmp_path):
    for name in ('a', 'b'):
        write(tmp_path / 'images' / f'{name}.png', photo())
    write(tmp_path / 'masks' / 'a.png', hole())
    images, masks, out = (tmp_path / name for name in ('images', 'masks', 'out'))
    with pytest.raises(ValueError, match=r'has no mask of b in .*images; it would be named b\.png'):
        inpainting.pairs(images, masks, out)
    with pytest.raises(ValueError, match='--out is one as well'):
        inpainting.pairs(images, masks, tmp_path / 'out.png')
    with pytest.raises(ValueError, match=r'masks is not a file, but a folder'):
        inpainting.pairs(images / 'a.png', masks, tmp_path / 'out.png')
    with pytest.raises(ValueError, match='neither a file nor a folder'):
        inpainting.pairs(images, tmp_path / 'nowhere', out)
    assert len(inpainting.pairs(images, masks / 'a.png', out)) == 2  # one mask for all
    write(tmp_path / 'images' / 'a.jpg', photo())
    with pytest.raises(ValueError, match=r'two images named a: a\.jpg and a\.png'):
        inpainting.pairs(images, masks, out)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ValueError, match='has no image'):
        inpainting.pairs(tmp_path / 'empty', masks, out)


def test_the_command_for_the_baseline_says_what_it_is(tmp_path, capsys):
    image, mask = write(tmp_path / 'image.png', photo()), write(tmp_path / 'mask.png', hole())
    arguments = ['inpaint', '--image', str(image), '--mask', str(mask), '--out', str(tmp_path / 'new' / 'out.png')]
    assert main([*arguments, '--method', 'biharmonic']) == 0
    assert 'biharmonic equation, scikit-image), no model' in capsys.readouterr().out
    np.testing.assert_array_equal(read(tmp_path / 'new' / 'out.png'), inpainting.biharmonic(read(image), hole()))
    for more, match in (
        ([], 'name a trained --model, or choose --method biharmonic'),
        (['--method', 'biharmonic', '--model', 'x'], 'takes no --model'),
        (['--method', 'biharmonic', '--sketch', str(mask)], 'neither attention nor sketches'),
        (['--method', 'biharmonic', '--batch-size', '4'], '--batch-size is of a --model with --strategy original'),
        (['--method', 'biharmonic', '--step', 'best'], '--step is of a --model; leave it out'),
        (['--method', 'biharmonic', '--invert-sketch'], '--invert-sketch is of a --sketch; leave it out'),
        (['--model', 'worlds32', '--strategy', 'crop', '--batch-size', '4'], '--batch-size is of a --model with'),
        (['--model', 'worlds32'], 'cips makes images of seeds'),
    ):
        assert main([*arguments, *more]) == 1
        assert match in capsys.readouterr().err


def test_one_bad_file_does_not_cost_the_good_ones(tmp_path):
    for name in 'abc':
        write(tmp_path / 'images' / f'{name}.png', photo())
        write(tmp_path / 'masks' / f'{name}.png', hole())
    (tmp_path / 'images' / 'b.png').write_bytes((tmp_path / 'images' / 'b.png').read_bytes()[:200])
    files = inpainting.pairs(tmp_path / 'images', tmp_path / 'masks', tmp_path / 'out')
    with pytest.raises(UserError, match=r'1 of 3 images could not be filled, and the others are written: .*b\.png'):
        inpainting.inpaint_files(_Model(), files)
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['a.png', 'c.png']


def test_an_image_that_cannot_be_filled_is_named_and_does_not_cost_the_others(tmp_path):
    dust = np.zeros((200, 200), bool)
    dust[::3, ::3] = True
    for name, size in (('a', 200), ('b', 80), ('c', 90)):
        write(tmp_path / 'images' / f'{name}.png', photo(size, size))
        write(tmp_path / 'masks' / f'{name}.png', dust if name == 'a' else hole(size, size))
    files = inpainting.pairs(tmp_path / 'images', tmp_path / 'masks', tmp_path / 'out')
    smaller = inpainting.Strategy('resize', limit=64)
    with pytest.raises(UserError, match=r'1 of 3 images could not be filled, .*/a\.png: limit=64: a hole is in every'):
        inpainting.inpaint_files(_Model(), files, strategy=smaller)
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['b.png', 'c.png']


def test_masks_beside_the_images_are_named_after_them(tmp_path):
    for name in 'ab':
        write(tmp_path / f'{name}.png', photo())
        write(tmp_path / f'{name}_mask.png', hole())
    files = inpainting.pairs(tmp_path, tmp_path, tmp_path / 'out')
    assert [(pair.image.name, pair.mask.name) for pair in files] == [('a.png', 'a_mask.png'), ('b.png', 'b_mask.png')]
    (tmp_path / 'b_mask.png').unlink()
    with pytest.raises(UserError, match=r'no mask of b .*named b_mask\.png'):
        inpainting.pairs(tmp_path, tmp_path, tmp_path / 'out')


def test_one_mask_for_a_folder_may_lie_in_it(tmp_path):
    for name in ('a', 'b', 'the hole'):
        write(tmp_path / f'{name}.png', photo() if len(name) == 1 else hole())
    files = inpainting.pairs(tmp_path, tmp_path / 'the hole.png', tmp_path / 'out')
    assert [pair.image.name for pair in files] == ['a.png', 'b.png']
    with pytest.raises(UserError, match='holds no image beside the mask'):
        inpainting.pairs(
            write(tmp_path / 'one' / 'mask.png', hole()).parent, tmp_path / 'one' / 'mask.png', tmp_path / 'out'
        )


def test_what_a_photograph_says_besides_its_pixels_is_kept(tmp_path):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = 'Camera', 6
    Image.fromarray(photo()).save(tmp_path / 'a.jpg', exif=exif, dpi=(300, 300))
    write(tmp_path / 'm.png', np.rot90(hole(), -1))
    (pair,) = inpainting.pairs(tmp_path / 'a.jpg', tmp_path / 'm.png', tmp_path / 'out.png')
    inpainting.inpaint_files(_Model(), [pair])
    result = Image.open(tmp_path / 'out.png')
    assert result.getexif().get(0x010F) == 'Camera' and 0x0112 not in result.getexif()
    assert result.size == photo().shape[:2] and round(result.info['dpi'][0]) == 300
