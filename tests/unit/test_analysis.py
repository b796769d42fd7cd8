"""What zero padding and encodings do to features: estimates against closed forms, and the claims of the studies."""

import jax
import numpy as np
import pytest
from PIL import Image

from pegan_jax import analysis
from pegan_jax.__main__ import main

KEY = jax.random.key(0)
SIZE = (10, 12)


@pytest.fixture(scope='module')
def layers():
    return analysis.random_layers(jax.random.key(1), depth=3, width=4)


def sources(layers):
    return {padding: analysis.stack_features(layers, SIZE, padding=padding) for padding in (False, True)}


@pytest.mark.parametrize('padding', [False, True])
def test_sampled_moments_agree_with_the_closed_form(layers, padding):
    """2048 samples: means within 5 standard errors, variances within 20 %."""
    size = SIZE if padding else (SIZE[0] + 6, SIZE[1] + 6)
    want = analysis.two_layers(layers[:2], size, padding=padding)
    got = analysis.moments(sources(layers)[padding], KEY, 2048)
    error = np.sqrt(got['conv 1'].var / 2048)
    assert np.max(np.abs(got['conv 1'].mean - want.mean1) / error) < 5
    np.testing.assert_allclose(got['conv 1'].var, want.var1, rtol=0.2)
    error = np.sqrt(got['conv 2'].var / 2048)
    assert np.max(np.abs(got['conv 2'].mean - want.mean2) / error) < 5


def test_only_zero_padding_makes_the_mean_depend_on_position_and_most_in_corners(layers):
    bare, padded = (analysis.moments(sources(layers)[p], KEY, 2048) for p in (False, True))
    assert list(padded) == ['conv 1', 'conv 2', 'conv 3']
    noise = 5 / np.sqrt(2048)
    assert all(analysis.deviation(m).max() < noise for m in bare.values())
    assert analysis.deviation(padded['conv 1']).max() < noise  # inputs have a mean of zero
    off = analysis.deviation(padded['conv 3'])
    corners, middle = off[[0, 0, -1, -1], [0, -1, 0, -1]].mean(), off[4:6, 5:7].mean()
    edges = np.concatenate([off[0, 3:-3], off[-1, 3:-3]]).mean()
    assert corners > edges > 3 * noise > middle


def test_zero_padding_freezes_the_border(layers):
    bare, padded = (analysis.moments(sources(layers)[p], KEY, 2048)['conv 1'] for p in (False, True))
    assert np.abs(analysis.spread(bare) - 1).max() < 0.1
    spread = analysis.spread(padded)
    assert spread[0, 0] < spread[0, 5] - 0.05 < 0.95 and abs(spread[5, 6] - 1) < 0.1


def test_autocorrelation_depends_on_the_offset_alone_without_padding(layers):
    off = {}
    for padding, features in sources(layers).items():
        products, error = analysis.position_products(features, 'conv 2', KEY, 2048)
        off[padding] = analysis.by_offset(products)[1] / error
    assert off[False] < 1.5 < 3 < off[True]


def test_the_closed_autocorrelation_is_what_products_give(layers):
    features = analysis.stack_features(layers[:1], (6, 6), padding=False)
    products, error = analysis.position_products(features, 'conv 1', KEY, 4096)
    mean, _ = analysis.by_offset(products)
    want = np.asarray(analysis.autocorrelation(*layers[0])).mean(-1)
    np.testing.assert_allclose(mean[3:8, 3:8], want, atol=8 * error)


def test_padding_reaches_one_pixel_further_with_every_layer(layers):
    for padding, features in sources(layers).items():
        maps = features(KEY, 2, 'identical')
        widths = [analysis.affected_width(analysis.departure(np.asarray(m))) for m in maps.values()]
        assert widths == ([1, 2, 3] if padding else [0, 0, 0])


def test_positions_can_be_read_off_only_with_padding(layers):
    bare, padded = (analysis.read_out(sources(layers)[p], KEY, 512) for p in (False, True))
    assert np.abs(bare['conv 3'].r2).max() < 0.02
    assert padded['conv 3'].r2.min() > 0.03 and padded['conv 3'].r2.min() > padded['conv 1'].r2.max()


def test_a_generator_without_padding_knows_no_position_but_that_of_its_encoding():
    found = analysis.read_out(analysis.random_network('mspie:i,tiny', KEY), KEY, 64, head='own', batch=32)
    blind = analysis.read_out(analysis.random_network('mspie:i,tiny', KEY), KEY, 64, head='identical', batch=32)
    first = next(iter(found))
    assert found[first].r2.min() > 0.3
    assert max(np.abs(r.r2).max() for name, r in blind.items() if name != 'image') < 1e-3


def test_sinusoids_go_on_and_the_grid_is_stretched():
    grids = analysis.encoding_grids(np.random.default_rng(0).normal(size=(4, 4, 8)))
    small, large = grids['sinusoidal (SPE),\nexpanded']
    np.testing.assert_array_equal(large[:5, :5], small)
    for row in (grids['Cartesian (CSG),\nexpanded'], grids['Cartesian (CSG),\ninterpolated']):
        np.testing.assert_allclose(
            row[1][[0, 0, -1, -1], [0, -1, 0, -1]], row[0][[0, 0, -1, -1], [0, -1, 0, -1]], atol=1e-6
        )


@pytest.mark.parametrize('study, pictures', [('padding', 4), ('position', 2), ('encodings', 1)])
def test_every_study_writes_pictures_and_numbers(tmp_path, study, pictures):
    assert main(['analyze', study, '--samples', '128', '--out', str(tmp_path)]) == 0
    found = sorted(tmp_path.glob('*.png'))
    assert len(found) == pictures and (tmp_path / f'{study}.json').is_file()
    assert all(np.asarray(Image.open(path)).std() > 5 for path in found)


@pytest.mark.parametrize(
    'words, match',
    [
        (['padding', '--samples', '100'], 'samples=100 must be a multiple'),
        (['encodings', '--config', 'mspie:tiny'], 'no random generator'),
        (['position', '--config', 'cips:tiny'], 'use another system'),
    ],
)
def test_studies_that_make_no_sense_are_refused(tmp_path, capsys, words, match):
    assert main(['analyze', *words, '--out', str(tmp_path / 'out')]) == 1
    assert match in capsys.readouterr().err and not (tmp_path / 'out').exists()
