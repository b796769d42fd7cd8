"""What zero padding and encodings do to features: estimates against closed forms, and the claims of the studies."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from pegan_jax import analysis, coords, load_config, ops, sampling
from pegan_jax.analysis.drawing import Study, dot_chart, line_chart, number_table, save
from pegan_jax.analysis.encodings import encoding_grids, principal_colours
from pegan_jax.analysis.features import (
    network_features,
    random_layers,
    random_network,
    record_maps,
    stack,
    stack_features,
)
from pegan_jax.analysis.padding import (
    Moments,
    affected_width,
    autocorrelation,
    by_offset,
    departure,
    deviation,
    moments,
    position_products,
    spread,
    two_layers,
)
from pegan_jax.analysis.position import read_out
from pegan_jax.cli import main
from pegan_jax.models import mspie

KEY = jax.random.key(0)
SIZE = (10, 12)


@pytest.fixture(scope='module')
def layers():
    return random_layers(jax.random.key(1), depth=3, width=4)


def sources(layers):
    return {padding: stack_features(layers, SIZE, padding=padding) for padding in (False, True)}


@pytest.mark.parametrize('padding', [False, True])
def test_sampled_moments_agree_with_the_closed_form(layers, padding):
    """2048 samples: means within 5 standard errors, variances within 20 %."""
    size = SIZE if padding else (SIZE[0] + 6, SIZE[1] + 6)
    want = two_layers(layers[:2], size, padding=padding)
    got = moments(sources(layers)[padding], KEY, 2048)
    error = np.sqrt(got['conv 1'].var / 2048)
    assert np.max(np.abs(got['conv 1'].mean - want.mean1) / error) < 5
    np.testing.assert_allclose(got['conv 1'].var, want.var1, rtol=0.2)
    error = np.sqrt(got['conv 2'].var / 2048)
    assert np.max(np.abs(got['conv 2'].mean - want.mean2) / error) < 5


def test_only_zero_padding_makes_the_mean_depend_on_position_and_most_in_corners(layers):
    bare, padded = (moments(sources(layers)[p], KEY, 2048) for p in (False, True))
    assert list(padded) == ['conv 1', 'conv 2', 'conv 3']
    noise = 5 / np.sqrt(2048)
    assert all(deviation(m).max() < noise for m in bare.values())
    assert deviation(padded['conv 1']).max() < noise  # inputs have a mean of zero
    off = deviation(padded['conv 3'])
    corners, middle = off[[0, 0, -1, -1], [0, -1, 0, -1]].mean(), off[4:6, 5:7].mean()
    edges = np.concatenate([off[0, 3:-3], off[-1, 3:-3]]).mean()
    assert corners > edges > 3 * noise > middle


def test_deviations_are_in_standard_deviations_and_spreads_relative_to_the_middle():
    ramp = np.arange(9.0)[:, None] * np.ones((9, 9))
    for scale in (1, 3):
        m = Moments(scale * ramp[..., None], np.full((9, 9, 1), (2.0 * scale) ** 2), 100)
        np.testing.assert_allclose(deviation(m), np.abs(ramp - ramp[4, 4]) / 2)
        np.testing.assert_allclose(spread(m), 1)


def test_zero_padding_freezes_the_border(layers):
    bare, padded = (moments(sources(layers)[p], KEY, 2048)['conv 1'] for p in (False, True))
    assert np.abs(spread(bare) - 1).max() < 0.1
    got = spread(padded)
    assert got[0, 0] < got[0, 5] - 0.05 < 0.95 and abs(got[5, 6] - 1) < 0.1


def test_autocorrelation_depends_on_the_offset_alone_without_padding(layers):
    off = {}
    for padding, features in sources(layers).items():
        products, error = position_products(features, 'conv 2', KEY, 2048)
        off[padding] = by_offset(products)[1] / error
    assert off[False] < 1.5 < 3 < off[True]


def test_the_closed_autocorrelation_is_what_products_give(layers):
    features = stack_features(layers[:1], (6, 6), padding=False)
    products, error = position_products(features, 'conv 1', KEY, 4096)
    mean, _ = by_offset(products)
    want = np.asarray(autocorrelation(*layers[0])).mean(-1)
    np.testing.assert_allclose(mean[3:8, 3:8], want, atol=8 * error)


def test_padding_reaches_one_pixel_further_with_every_layer(layers):
    for padding, features in sources(layers).items():
        maps = features(KEY, 2, 'identical')
        widths = [affected_width(departure(np.asarray(m))) for m in maps.values()]
        assert widths == ([1, 2, 3] if padding else [0, 0, 0])


def test_positions_can_be_read_off_only_with_padding(layers):
    bare, padded = (read_out(sources(layers)[p], KEY, 512) for p in (False, True))
    assert np.abs(bare['conv 3'].r2).max() < 0.02
    assert padded['conv 3'].r2.min() > 0.03 and padded['conv 3'].r2.min() > padded['conv 1'].r2.max()


@pytest.mark.slow
def test_a_generator_without_padding_knows_no_position_but_that_of_its_encoding():
    features = random_network('mspie:i,tiny', KEY)
    found, blind = (read_out(features, KEY, 64, head=head, batch=32) for head in ('own', 'identical'))
    first = next(iter(found))
    assert found[first].r2.min() > 0.3
    assert max(np.abs(r.r2).max() for name, r in blind.items() if name != 'image') < 1e-3


def test_sinusoids_go_on_and_the_grid_is_stretched():
    grids = encoding_grids(np.random.default_rng(0).normal(size=(4, 4, 8)))
    small, large = grids['sinusoidal (SPE),\nexpanded']
    np.testing.assert_array_equal(large[:5, :5], small)
    for row in (grids['Cartesian (CSG),\nexpanded'], grids['Cartesian (CSG),\ninterpolated']):
        np.testing.assert_allclose(
            row[1][[0, 0, -1, -1], [0, -1, 0, -1]], row[0][[0, 0, -1, -1], [0, -1, 0, -1]], atol=1e-6
        )


def test_behind_the_border_a_padded_stack_is_the_unpadded_one_and_resizes_double_the_border(layers):
    run = jax.jit(stack, static_argnames='padding')
    x = jax.random.normal(KEY, (2, 12, 13, 4))
    padded, bare = (run(x, layers, padding=padding) for padding in (True, False))
    for n, (a, b) in enumerate(zip(padded, bare, strict=True), 1):
        np.testing.assert_allclose(a[:, n:-n, n:-n], b, atol=2e-6)
    same = run(jnp.ones((2, 12, 13, 4)), layers, padding=True)[2]
    for resize, width in ((ops.resize_nearest, 6), (ops.resize_align_corners, 7)):  # align-corners: ceil(3 * 23 / 11)
        assert affected_width(departure(resize(same, (24, 26)))) == width


def test_a_bilinear_resize_keeps_the_mean_of_the_next_layer_but_not_its_variance(layers):
    def features(key, count, head):
        y = stack(jax.random.normal(key, (count, 8, 8, 4)), layers[:1], padding=False)[0]
        return {'up': stack(ops.resize_align_corners(y, (14, 14)), layers[1:2], padding=False)[0]}

    m = moments(features, KEY, 16384, batch=4096)['up']
    assert np.max(np.abs(m.mean - m.mean.mean((0, 1))) / np.sqrt(m.var / m.count)) < 5.5
    assert np.ptp(spread(m)) > 0.1


def test_products_at_single_positions_are_those_of_their_offset_and_no_covariance_is_beyond_the_kernel(layers):
    one = [(layers[0][0][..., :1], layers[0][1][:1])]
    features = stack_features(one, (6, 7), padding=False)
    products, _ = position_products(features, 'conv 1', KEY, 16384, batch=2048)
    want = np.full((11, 13), np.square(one[0][1][0]))
    want[3:8, 4:9] = np.asarray(autocorrelation(*one[0]))[..., 0]
    for i, j in ((0, 0), (3, 2), (5, 6)):
        np.testing.assert_allclose(products[i, j], want[5 - i : 11 - i, 6 - j : 13 - j], atol=0.06 * want[5, 6])


def test_a_generator_without_padding_keeps_identical_inputs_and_its_skips_frame_the_image():
    """Only the zero padding of the FIR filters behind the colours shows: 2^u - 1 pixels after u of them."""

    def generator(row):
        config = load_config(f'mspie:{row},tiny')
        variables = jax.jit(mspie.generator(config.model).init)(KEY, jnp.zeros((1, config.model.z_dim)))
        # Noise counts for nothing before training.
        variables = jax.tree.map_with_path(lambda p, x: x + float(p[-1].key == 'noise_strength'), variables)
        return network_features(mspie.build(config), variables)

    bare, padded = map(generator, 'kf')
    maps, padded = jax.jit(lambda key: [features(key, 2, 'identical') for features in (bare, padded)])(KEY)
    image = maps.pop('image')
    assert len(maps) == 5 and max(departure(x).max() for x in maps.values()) < 2e-5
    assert affected_width(departure(image)) == 3
    for x in padded.values():
        assert departure(x)[0, 0] > 0.1


def test_a_read_out_finds_what_is_linear_in_position_and_nothing_in_noise():
    def features(key, count, head):
        noise = jax.random.normal(key, (count, 5, 6, 3))
        points = coords.grid(5, 6)
        mixed = jnp.stack([2 * points[..., 0] + points[..., 1] - 3, points[..., 1] - points[..., 0]], -1)
        some = noise[..., :1] + points[None, ..., :1]
        return {'noise': noise, 'exact': jnp.concatenate([noise, mixed[None].repeat(count, 0)], -1), 'some': some}

    found = read_out(features, KEY, 2048)
    assert np.abs(found['noise'].r2).max() < 1e-3
    np.testing.assert_allclose(found['exact'].r2, 1, atol=1e-4)
    np.testing.assert_allclose(found['exact'].mean, coords.grid(5, 6), atol=1e-3)
    # x plus noise of variance 1: R^2 = var x / (var x + 1); var x of six positions from -1 to 1 is 7/15.
    np.testing.assert_allclose(found['some'].r2, [7 / 22, 0], atol=0.01)


def test_principal_colours_keep_a_plane_and_share_one_basis():
    grid = np.asarray(coords.grid(5, 5)) @ np.random.RandomState(0).randn(2, 9)
    (whole, part), variance = principal_colours([grid, grid[1:4, :2]])
    np.testing.assert_allclose(whole[1:4, :2], part, atol=1e-12)
    np.testing.assert_allclose(variance[2:], 0, atol=1e-12)
    np.testing.assert_allclose(variance.sum(), 1)
    assert 0 <= whole.min() and whole.max() <= 1 and whole[..., 0].std() >= whole[..., 1].std() > 0


@pytest.mark.parametrize('study, pictures', [('padding', 4), ('position', 2), ('encodings', 1)])
def test_every_study_writes_pictures_and_numbers(tmp_path, study, pictures):
    samples = [] if study == 'encodings' else ['--samples', '128']
    assert main(['analyze', study, *samples, '--out', str(tmp_path)]) == 0
    found = sorted(tmp_path.glob('*.png'))
    assert len(found) == pictures and (tmp_path / f'{study}.json').is_file()
    assert all(np.asarray(Image.open(path)).std() > 5 for path in found)


@pytest.mark.parametrize(
    'words, match',
    [
        (['padding', '--samples', '100'], 'samples=100 must be a multiple'),
        (['padding', '--samples', '0'], 'samples=0 must be a multiple'),
        (['encodings', '--config', 'mspie:tiny'], 'no random generator'),
        (['position', '--config', 'cips:tiny'], 'use a system that has them'),
        (['padding', '--model', 'mountain'], 'use a system that has them'),
        (['gates', '--model', 'fill64', '--seed', '5'], 'the study gates of a --model draws no numbers'),
        (['padding', '--step', '100'], '--step 100 is of a checkpoint of --model'),
        (['spectrum', '--config', 'cips:tiny', '--step', 'best'], '--step best is of a checkpoint of --model'),
    ],
)
def test_studies_that_make_no_sense_are_refused(tmp_path, capsys, words, match):
    assert main(['analyze', *words, '--out', str(tmp_path / 'out')]) == 1
    assert match in capsys.readouterr().err and not (tmp_path / 'out').exists()


@pytest.mark.parametrize('study', ['padding', 'directions', 'spectrum'])
def test_a_place_that_cannot_be_written_is_told_before_anything_is_computed(tmp_path, monkeypatch, capsys, study):
    (tmp_path / 'file').write_text('x')
    monkeypatch.setattr(sampling, 'load', lambda *_: pytest.fail('it was read'))
    assert main(['analyze', study, '--model', 'worlds32', '--out', str(tmp_path / 'file')]) == 1
    assert 'file is a file, so nothing can be written below it' in capsys.readouterr().err
    for seed in ('-1', '99999999999999999999'):
        with pytest.raises(SystemExit, match='2'):
            main(['analyze', study, f'--seed={seed}', '--out', str(tmp_path)])
        assert 'is no seed' in capsys.readouterr().err


def test_rows_of_other_columns_have_a_head_of_their_own():
    rows = {'a': [('x', 0.2), ('y', np.nan)], 'b': [('x', 0.9), ('y', 0.5)], 'c': [('z', 0.1)]}
    apart, alike = (number_table('title', of, 'what') for of in (rows, rows | {'c': [('x', 0.1)]}))
    same = number_table('title', rows | {'c': rows['a']}, 'what')
    assert apart.height == alike.height == same.height + 30
    columns = np.asarray(apart)[62:, :] != np.asarray(alike)[62:, :]
    assert columns.any(axis=(1, 2)).nonzero()[0].min() >= 60  # rows a and b are drawn alike, what is over c is not


@pytest.mark.parametrize('study', ['spectrum', 'extrapolation'])
def test_a_study_of_models_draws_from_the_seed_on(tmp_path, monkeypatch, study):
    asked = []
    monkeypatch.setattr(analysis, f'{study}_study', lambda *args: asked.append(args[-1]) or Study({}, {}))
    assert main(['analyze', study, '--model', 'worlds32', '--seed', '5', '--out', str(tmp_path)]) == 0
    assert asked == [5]


@pytest.mark.parametrize('wrong', [np.nan, np.inf, -np.inf])
def test_charts_leave_out_what_is_not_finite_and_say_so(wrong):
    for finite in ([], [2.0]):
        dots = dot_chart('title', {'a': [wrong, *finite], 'b': [1.0, 3.0]}, 'label')
        want = dot_chart('title', {'a (1 not finite)': finite, 'b': [1.0, 3.0]}, 'label')
        np.testing.assert_array_equal(np.asarray(dots), np.asarray(want))
    both = ([0.0, 2.0], [1.0, 3.0])
    lines = line_chart('title', {'a': ([0, 1, 2], [1, wrong, 3])}, 'x', 'y')
    np.testing.assert_array_equal(
        np.asarray(lines), np.asarray(line_chart('title', {'a (1 not finite)': both}, 'x', 'y'))
    )
    for chart in (dot_chart('title', {'a': [wrong]}, 'x'), line_chart('title', {'a': ([0], [wrong])}, 'x', 'y')):
        assert np.asarray(chart).std() > 5


def test_every_call_of_one_path_has_maps():
    class Scales(nn.Module):
        @nn.compact
        def __call__(self, x):
            conv = nn.Conv(2, (1, 1), name='conv')
            return conv(conv(conv(x)))

    params = {'conv': {'kernel': 2 * jnp.eye(2)[None, None], 'bias': jnp.zeros(2)}}
    run = functools.partial(Scales().apply, {'params': params}, jnp.ones((1, 3, 3, 2)))
    maps = record_maps(run, lambda x: x)
    assert {name: float(y.mean()) for name, y in maps.items()} == {'conv': 2, 'conv (2)': 4, 'conv (3)': 8, 'image': 8}


def test_a_study_that_cannot_be_written_leaves_the_earlier_one(tmp_path):
    image = Image.new('RGB', (2, 2))
    paths = save(Study({'a': 1}, {'plot': image}), tmp_path, 'study', {})
    before = {path: path.read_bytes() for path in paths}
    with pytest.raises(OSError):  # PNG has no HSV
        save(Study({'a': 2}, {'plot': image.convert('HSV')}), tmp_path, 'study', {})
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
