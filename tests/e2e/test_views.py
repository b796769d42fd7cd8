"""StyleGAN3 from training to pictures: a run goes on exactly, and the commands show any view of what it made."""

import jax
import numpy as np
import pytest
from PIL import Image

from pegan_jax import coords, load, sample
from pegan_jax.cli import main
from pegan_jax.config import load_config
from pegan_jax.pixels import image_grid, to_uint8
from pegan_jax.sampling import style_mix
from pegan_jax.train.loop import run

pytestmark = pytest.mark.slow


def _config(kimg):
    # All updates in every step: one program to compile.
    settings = ['checkpoint_every=1', 'sample_every=0', 'keep_best=0', f'total_kimg={kimg}']
    overrides = [f'train.{s}' for s in settings] + ['data.num_worlds=32', 'model.r1_interval=1']
    return load_config('stylegan3:r,tiny', overrides)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp('run')
    run(_config(0.008), path)
    return path


def test_training_moves_everything_it_should_and_goes_on_exactly(workdir, tmp_path):
    whole = jax.device_get(run(_config(0.016), tmp_path))
    resumed = jax.device_get(run(_config(0.016), workdir))
    assert int(resumed.step) == 2
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    assert np.abs(whole.buffers['g']['mapping']['w_avg']).max() > 0
    means = [v['magnitude_ema'] for v in whole.buffers['g']['synthesis'].values() if 'magnitude_ema' in v]
    assert len(means) == 4 and all(m != 1 and np.isfinite(m) for m in means)
    np.testing.assert_array_equal(whole.buffers['g']['synthesis']['input']['transform'], np.eye(3))


def _read(path):
    return np.asarray(Image.open(path))


def test_sample_writes_views_and_mixtures(workdir, tmp_path):
    model, out = load(workdir), tmp_path / 'out.png'

    def command(*options):
        assert main(['sample', '--model', str(workdir), '--out', str(out), '--seeds', '3', *options]) == 0
        return _read(out)

    # As the official script: turned by degrees, then moved by image widths.
    motion = np.array([[0, 1, 0.25], [-1, 0, -0.5], [0, 0, 1]])
    view = command('--size', '16x32', '--rotate', '90', '--translate', '0.25,-0.5', '--truncation-psi', '0.7')
    want = sample(model, [3], size=(16, 32), transform=np.linalg.inv(motion), truncation_psi=0.7)
    assert np.abs(view.astype(int) - to_uint8(want)[0]).max() <= 1
    table = style_mix(model, [3], [5], [0, 1, 4])
    mixed = command('--style-mix', '5:0-1,4')
    np.testing.assert_array_equal(mixed, image_grid(to_uint8(table.reshape(-1, 16, 16, 3)), 2))


def test_render_shows_the_view_that_was_asked_for(workdir, tmp_path):
    model, out = load(workdir), tmp_path / 'out.npy'

    def command(*options):
        assert main(['render', '--model', str(workdir), '--seed', '3', '--out', str(out), *options]) == 0
        return np.load(out)

    def wanted(size, transform):
        return sample(model, [3], size=size, transform=transform)[0]

    np.testing.assert_array_equal(command(), sample(model, [3])[0])
    # Twice the extent in twice the pixels: the same pitch; in as many pixels: half the zoom.
    wide = command('--size', '16x32', '--extent=-2,2,-1,1')
    np.testing.assert_allclose(wide, wanted((16, 32), np.eye(3)), atol=1e-5)
    np.testing.assert_allclose(command('--extent=-2,2,-2,2'), wanted((16, 16), coords.zoom(0.5)), atol=1e-5)
    # Without --extent the shorter side shows the training frame, and the longer one more.
    np.testing.assert_allclose(command('--size', '16x32'), wide, atol=1e-5)
    # Coordinates span two units across the image.
    turned = command('--rotate', '90', '--translate', '0.5,0')
    motion = coords.compose(coords.rotate(np.pi / 2), coords.translate(0.25, 0))
    np.testing.assert_allclose(turned, wanted((16, 16), motion), atol=1e-5)
    assert main(['render', '--model', str(workdir), '--out', str(tmp_path / 'a.png'), '--bits', '16']) == 0


@pytest.mark.parametrize(
    'options, message',
    [
        ('render --crop 0,0,4,4', '--crop: stylegan3 computes whole images'),
        ('render --foveate 0.5', '--foveate: stylegan3 computes whole images'),
        ('render --chunk 100', '--chunk: stylegan3 computes whole images'),
        ('render --size 15', '15 x 15 pixels; both sides must be even'),
        ('render --noise-mode none', 'stylegan3 takes no noise'),
        ('sample --class 2', 'label=2, but the model was trained without labels'),
        ('sample --style-mix 3:9', 'layers=[9]; the model has layers 0 to 4'),
    ],
)
def test_what_cannot_be_shown_is_an_error_of_one_line(workdir, tmp_path, capsys, options, message):
    command, *rest = options.split()
    assert main([command, '--model', str(workdir), '--out', str(tmp_path / 'a.png'), *rest]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith('error: ') and message in error
    assert not list(tmp_path.iterdir())
