"""Sets of images and their features: one path for all of them, in parts that are kept."""

import dataclasses
import functools
import json
import pathlib
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from PIL import Image

from pegan_jax import config as configs
from pegan_jax import coords, evaluation
from pegan_jax.data import sources
from pegan_jax.files import CACHE, as_path, children
from pegan_jax.gan import Sampler, latents, size_of_samples
from pegan_jax.metrics import gaussians
from pegan_jax.metrics.names import parse_all
from pegan_jax.metrics.paths import path_length, slerp
from pegan_jax.pixels import to_uint8, with_channels
from pegan_jax.scoring import changes, images, parts, record, scores
from pegan_jax.scoring.networks import ROWS, Network
from pegan_jax.scoring.scores import Scorer, check, open_networks
from pegan_jax.settings import ConfigError, DataConfig, UserError

TOY = Network('toy', lambda params, x: jnp.sin(params * x.astype(jnp.float32)).mean(axis=(1, 2)), jnp.float32(0.01))


def rows_of(count=None, seed=0, side=16):
    """Random images, and how often they were read."""
    reads, rng = [], np.random.default_rng(seed)
    x = rng.integers(0, 256, (200, side, side, 3)).astype(np.uint8)

    def read(start, stop):
        reads.append((start, stop))
        return x[start:stop]

    return images.Images(count, lambda *at: f'{seed} {at}', read, {'seed': seed}), x, reads


@pytest.fixture(scope='module')
def generator():
    gan = toy.toy_gan(0.02)
    params, buffers, _ = gan.init(jax.random.key(0))
    # Colours far outside of what pixels hold: what is kept of them shows where they were quantised.
    params['g']['rgb'] = 3 * params['g']['rgb']
    variables = {'params': params['g'], 'buffers': buffers['g']}
    return images.Generator(gan, variables, images.digest_of(variables))


def test_generated_and_real_images_take_one_path_and_are_quantised_first(generator, tmp_path):
    made = images.generated(generator, batch_size=3).read(0, 10)
    assert made.dtype == np.uint8 and made.shape[3] == 3
    for i, image in enumerate(made):
        Image.fromarray(image).save(tmp_path / f'{i:02d}.png')
    source = sources.open_folder(str(tmp_path), 10**6, tmp_path)
    read = images.of_source(source, None, 'center', 10**6)
    assert read.count == 10 and sorted(map(bytes, read.read(0, 10))) == sorted(map(bytes, made))
    seen = []

    def spy(params, x):
        seen.append(x.dtype)
        return TOY.features(params, x)

    features = [
        parts.collect(side, [(TOY._replace(features=spy), 10)], tmp_path / name)['toy'].rows(10)
        for name, side in (('a', read), ('b', images.generated(generator)))
    ]
    assert set(seen) == {np.dtype(np.uint8)}
    np.testing.assert_array_equal(*(x[np.lexsort(x.T)] for x in features))
    assert abs(gaussians.frechet_distance(*map(gaussians.fit, features))) < 1e-9


def test_seeds_are_those_of_samples_and_truncation_is_that_of_samples(generator):
    sampler, variables = generator.gan.sampler, generator.variables
    w = sampler.map(variables, sampler.draw(range(5, 9)), None)
    want = to_uint8(sampler.synthesise(variables, w))
    got = images.generated(generator._replace(seed=5), batch_size=3).read(0, 4)
    assert np.abs(got.astype(int) - want).max() <= 1
    np.testing.assert_array_equal(images.generated(generator).read(5, 9), got)
    mean = images.generated(generator._replace(truncation_psi=0.0)).read(0, 2)
    np.testing.assert_array_equal(mean[0], mean[1])
    keys = [images.generated(g).key(0, 4) for g in (generator, generator._replace(truncation_psi=0.5))]
    assert keys[0] != keys[1] != images.generated(generator).key(0, 5)


def test_a_cut_call_goes_on_and_the_batch_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, 'PART', 32)
    side, x, reads = rows_of()
    want = np.asarray(TOY.features(TOY.params, x[:70]))

    def cut(start, stop):
        if start == 32:
            raise KeyboardInterrupt
        return side.read(start, stop)

    with pytest.raises(KeyboardInterrupt):
        parts.collect(side._replace(read=cut), [(TOY, 70)], tmp_path)
    assert reads == [(0, 32)] and len(list(tmp_path.iterdir())) == 1
    found = parts.collect(side, [(TOY, 70)], tmp_path, batch_size=7)['toy']
    assert reads == [(0, 32), (32, 64), (64, 70)]
    np.testing.assert_allclose(found.rows(70), want, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.rows(40), want[:40], rtol=1e-6, atol=1e-6)
    # Another network reads once more, but not what is there; a smaller count has a last part of its own.
    both = parts.collect(side, [(TOY, 70), (ROWS, 40)], tmp_path)
    assert reads[3:] == [(0, 32), (32, 40)]
    np.testing.assert_array_equal(both['rows'].rows(40), x[:40])
    assert both['toy'].digest == found.digest


def test_images_are_known_by_all_that_they_follow_from(generator):
    others = [generator._replace(**change) for change in ({}, {'settings': 'x'}, {'seed': 1}, {'noise': 'const'})]
    moved, path = parse_all('eqr9,ppl2_wend')
    for made in (images.generated, lambda g: changes.moves(g, moved), lambda g: changes.lengths(g, path, TOY)):
        assert len({made(other).key(0, 9) for other in others}) == len(others)


def test_calls_that_end_together_or_after_a_day_keep_their_numbers(tmp_path, monkeypatch):
    used, barrier = [], threading.Barrier(2)

    def late(folder):
        found = children(folder)
        barrier.wait(10)
        return found

    def end():
        with scores._used(tmp_path) as passing:
            passing.append(tmp_path / 'part')
            barrier.wait(10)
        used.append(True)

    monkeypatch.setattr(scores, 'children', late)
    threads = [threading.Thread(target=end) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.undo()
    with scores._used(tmp_path):
        for mark in tmp_path.glob('*.used'):
            mark.unlink()  # by another call, which takes it for that of a killed one
    assert used == [True, True] and list(tmp_path.iterdir()) == []


def test_data_are_known_by_content_not_by_name_or_time(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 9, 12, 3)).astype(np.uint8)
    keys = {}
    for name, these in (('a', pixels), ('b', pixels), ('c', pixels[::-1])):
        (tmp_path / name).mkdir()
        for i, image in enumerate(these):
            Image.fromarray(image).save(tmp_path / name / f'{i}.png')
        source = sources.open_folder(str(tmp_path / name), 10**6, tmp_path)
        keys[name] = images.of_source(source, (8, 8), 'center', 10**6).key(0, 3)
        keys[name, 'larger'] = images.of_source(source, (9, 9), 'center', 10**6).key(0, 3)
    assert keys['a'] == keys['b'] and len(set(keys.values())) == 4
    Image.fromarray(pixels[0, :5]).save(tmp_path / 'a' / '0.png')
    source = sources.open_folder(str(tmp_path / 'a'), 10**6, tmp_path)
    with pytest.raises(UserError, match=r'have the sizes 12 x \d and 12 x \d; give --size'):
        images.of_source(source, None, 'center', 10**6).read(0, 3)


def test_data_with_windows_outside_are_scored_by_their_frame(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 24, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / '0.png')
    data = DataConfig(folder=str(tmp_path), resolution=(4, 8), outside=1.0)
    found = images.of_data(data, tmp_path / 'run')
    np.testing.assert_array_equal(found.read(0, 1)[0], pixels[4:8, 8:16])
    frame = images.of_data(DataConfig(folder=str(tmp_path), resolution=(4, 8)), tmp_path / 'run')
    assert found.key(0, 1) != frame.key(0, 1) and frame.read(0, 1).shape == (1, 4, 8, 3)


def test_data_are_grey_for_a_model_of_one_channel(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    Image.fromarray(colours).save(tmp_path / '0.png')
    for found in (DataConfig(folder=str(tmp_path), resolution=8), DataConfig(resolution=8)):
        sets = [images.of_data(dataclasses.replace(found, channels=n), tmp_path / 'run') for n in (3, 1)]
        plain, grey = (data.read(0, 1) for data in sets)
        np.testing.assert_array_equal(grey, with_channels(with_channels(plain, 1), 3))
        assert (plain != grey).any() and sets[0].key(0, 1) != sets[1].key(0, 1) and sets[1].about['grey']


def test_scores_of_one_set_against_itself_and_another(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, 'PART', 32)
    names = parse_all('fd_worlds48,kid_worlds48,pr_worlds48,dc_worlds48,swd48,fwd48,spectral48,rows48,horizon48')
    networks = {'worlds': TOY._replace(identity='worlds'), '': ROWS}
    scorer = Scorer(names, networks, tmp_path)
    (one, x, reads), (other, y, _) = rows_of(100), rows_of(100, seed=1)
    values, about = scorer(one, one)
    expected = {'pr_worlds48_precision', 'pr_worlds48_recall', 'dc_worlds48_coverage'}
    for name, value in values.items():
        if name in expected:
            assert value == 1
        elif 'density' not in name and not name.startswith('kid'):
            assert abs(value) < 1e-6, name
    left = list(tmp_path.iterdir())
    assert values['kid_worlds48'] < 0.01 and not left, 'features of generated images go when all scores are there'
    values, _ = scorer(other, one)
    assert len(list(tmp_path.iterdir())) == 2, 'features of real images stay'
    real, fake = (np.asarray(TOY.features(TOY.params, z[:48])) for z in (x, y))
    want = gaussians.frechet_distance(gaussians.fit(real), gaussians.fit(fake))
    assert values['fd_worlds48'] == pytest.approx(want, rel=1e-5)
    assert about['reals']['swd48'] == 48 and about['fake'] == {'seed': 0}
    full, count = parse_all('fd_worlds48_full'), len(reads)
    values, about = Scorer(full, networks, tmp_path)(other, one)
    assert about['reals'] == {'fd_worlds48_full': 100}
    assert reads[count:] == [(0, 1), (32, 64), (64, 96), (96, 100)]  # the size; the part that is known; the others
    values, about = Scorer(parse_all('msssim20'), networks, tmp_path)(one, None)
    assert about['real'] is None and 0 < values['msssim20'] < 1


def test_what_cannot_be_scored_is_refused_before_features_are_computed(tmp_path):
    networks = {'': ROWS}
    side, _, reads = rows_of(100)
    small, *_ = rows_of(100, side=12)
    with pytest.raises(UserError, match='swd2k takes 2000 images, and there are 100'):
        Scorer(parse_all('swd2k'), networks, tmp_path)(side, side)
    with pytest.raises(UserError, match='fake images have 12 x 12, real ones 16 x 16 pixels; give --size'):
        Scorer(parse_all('swd50'), networks, tmp_path)(small, side)
    assert reads == [(0, 1)]
    for name, size, generated, match in (
        ('ppl2_wend', (64, 64), False, 'it needs a --model'),
        ('fwd10', (40, 64), True, 'multiples of 16'),
        ('fwd10', (512, 256), True, 'at most 256 x 256'),
        ('msssim10', (8, 8), True, 'too small'),
        ('sifid10', (64, 22), True, 'sides must have 23'),
        ('eqr10', (12, 12), True, 'sides must have 13'),
    ):
        with pytest.raises(UserError, match=match):
            check(parse_all(name), size, generated=generated)
    for name, match in (
        ('fid10', 'pt_inception-2015-12-05-6726825d.pth.*--weights inception=FILE'),
        ('pr10', 'vgg16-'),
    ):
        with pytest.raises(UserError, match=match):
            open_networks(parse_all(name), {}, tmp_path)


def test_real_images_are_cut_for_turned_windows_and_resized_for_stages(tmp_path):
    config = configs.load_config('cips:tiny', ['model.rotate=True', 'data.resolution=48'])
    gan = configs.system_module(config.system).build(config)
    real = images.like_samples(gan, _variables(gan), config.data, tmp_path).read(0, 2)
    np.testing.assert_array_equal(real, images.of_worlds((48, 48)).read(0, 2)[:, 16:32, 16:32])
    photo = tmp_path / 'one.png'
    Image.new('RGB', (60, 40)).save(photo)
    config = configs.load_config('singan:tiny', [f'data.image={photo}'])
    gan = configs.system_module(config.system).build(config)
    size = size_of_samples(gan, _variables(gan))
    assert size != config.data.size and images.fitted(gan, config.data, size).size == size


def test_features_of_a_place_in_a_bucket_are_kept_on_this_machine():
    kept = scores.scorer_of([], as_path('gs://bucket/out')).folder
    assert isinstance(kept, pathlib.Path) and kept.is_relative_to(CACHE.expanduser())


def _variables(gan):
    params, buffers, _ = jax.eval_shape(gan.init, jax.random.key(0))
    return {'params': params['g'], 'buffers': buffers['g']}


def test_a_line_says_what_repeats_it_and_which_steps_are_scored(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    assert record.scored(path, ['a']) == set()
    path.write_text('{"step": 3, "a": 1}\n{"step": 4, "b": 1}\n{"ste')
    assert record.scored(path, ['a']) == {3}
    line = {'step': 6, 'a': 1, 'evaluation': {'fake': {'truncation_psi': 0.5}}}
    path.write_text(f'{json.dumps(line)}\n{{"step": 7, "a": 1}}')
    for step in (6, 7):
        (tmp_path / 'checkpoints' / str(step)).mkdir(parents=True)
    assert evaluation.steps_to_score(tmp_path, ['a']) == [6]
    assert evaluation.steps_to_score(tmp_path, ['a'], truncation_psi=0.5) == [7]
    path.write_text('')
    record.append(path, 5, {'a': 1.0, 'b': 2.0}, {'command': 'c'})
    record.append(path, None, {'a': 1.0}, {'command': 'c'})
    assert record.scored(path, ['a', 'b']) == {5} and path.read_text().count('\n') == 2
    assert '"versions": {"python"' in path.read_text() and '"command": "c"' in path.read_text()


def test_models_say_what_they_do_not_have(generator):
    bare = generator._replace(gan=generator.gan._replace(sampler=generator.gan.sampler._replace(w_avg=None)))
    with pytest.raises(UserError, match='waves has no mean style'):
        images.check_truncation(bare._replace(truncation_psi=0.7), 'waves')
    with pytest.raises(UserError, match='--truncation-cutoff 3; use 0 to 0'):
        images.check_truncation(generator._replace(truncation_cutoff=3), 'waves')
    images.check_truncation(generator._replace(truncation_psi=0.7), 'waves')


def test_labels_of_samples_are_drawn_from_those_of_the_data(tmp_path):
    from pegan_jax.settings import DataConfig

    for name in ('a', 'b', 'b2'):
        (tmp_path / name[0]).mkdir(exist_ok=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name[0] / f'{name}.png')
    data = DataConfig(folder=str(tmp_path), labels=True)
    drawn = images.drawn_labels(data, 2, tmp_path)(0, 300)
    assert drawn.shape == (300, 2) and drawn[:, 1].mean() == pytest.approx(2 / 3, abs=0.08)
    np.testing.assert_array_equal(images.drawn_labels(data, 2, tmp_path)(7, 3), drawn[7:10])
    assert images.drawn_labels(data, 0, tmp_path) is None
    with pytest.raises(ConfigError, match=r'model\.c_dim=3'):
        images.drawn_labels(data, 3, tmp_path)


@pytest.mark.parametrize(('name', 'at'), [('ppl2_wend40', 0.0), ('ppl2_wfull40', None), ('ppl2_zend40', 0.0)])
def test_path_lengths_are_squared_speeds_of_images_along_paths_of_latents(generator, tmp_path, monkeypatch, name, at):
    # In place of LPIPS: the mean squared difference of pixels.
    monkeypatch.setattr(changes.perceptual, 'lpips', lambda _, a, b: jnp.mean((a - b) ** 2, axis=(1, 2, 3)))
    (score,), network, seed = parse_all(name), Network('lpips', None, jnp.float32(0)), 1000
    generator = generator._replace(seed=seed)
    rows = changes.lengths(generator, score, network, batch_size=7).read(0, 40)
    sampler, variables = generator.gan.sampler, generator.variables
    t = np.array(
        [np.random.RandomState(seed + k).uniform() for k in range(40)] if at is None else [at] * 40, np.float32
    )
    z = [sampler.draw(seed + 2 * np.arange(40) + end) for end in (0, 1)]

    def image(t):
        if score.path.startswith('w'):
            a, b = (sampler.map(variables, x, None) for x in z)
            return sampler.synthesise(variables, a + (b - a) * t[:, None])
        return sampler.synthesise(variables, sampler.map(variables, slerp(*z, t[:, None]) * 3**0.5, None))

    speed = jax.jvp(image, (t,), (jnp.ones(40),))[1]
    np.testing.assert_allclose(rows, jnp.mean(speed**2, axis=(1, 2, 3)), rtol=0.05, atol=1e-3)
    scorer = Scorer((score,), {'lpips': network}, tmp_path)
    values, about = scorer(images.generated(generator), None, functools.partial(changes.lengths, generator))
    assert values == {name: pytest.approx(path_length(rows), rel=1e-3)}
    assert about['fake']['network'] == generator.identity and not list(tmp_path.iterdir())


def test_systems_without_w_have_paths_in_z(generator):
    bare = generator._replace(gan=generator.gan._replace(sampler=generator.gan.sampler._replace(map=None)))
    with pytest.raises(UserError, match='ppl2_wend: dcgan has no w; use ppl2_zend'):
        changes.check(bare, parse_all('ppl2_wend')[0], 'dcgan')
    changes.check(bare, parse_all('ppl2_zend')[0], 'dcgan')


@pytest.mark.parametrize('changed', [{'truncation_psi': 0.5}, {'truncation_cutoff': 2}])
def test_changes_are_scored_without_truncation(generator, changed):
    for name in ('ppl2_wend', 'eqt10_int'):
        with pytest.raises(UserError, match=f'{name} is of images without truncation, as published'):
            changes.check(generator._replace(**changed), parse_all(name)[0], 'toy')


@pytest.mark.parametrize(('moving', 'low', 'high'), [(True, 35, np.inf), (False, 0, 25)])
def test_equivariance_is_that_of_images_that_move_with_their_coordinates(tmp_path, moving, low, high):
    side = (np.arange(32) + 0.5) / 32 - 0.5
    grid = jnp.stack(jnp.meshgrid(side, side), axis=-1)

    def synthesise(variables, w, transform=None):
        points = coords.transform(grid, transform) if moving and transform is not None else grid
        waves = jnp.sin(6 * jnp.einsum('nij,hwj->nhwi', w.reshape(-1, 3, 2), points) + 1)
        return waves.astype(jnp.float32)

    sampler = Sampler(functools.partial(latents, z_dim=6), synthesise, view=lambda size, m: {'transform': m})
    gan = toy.toy_gan()._replace(sampler=sampler)
    generator = images.Generator(gan, {}, 'moved')
    scores = parse_all('eqt10_int,eqt10_frac,eqr10')
    for score in scores:
        changes.check(generator, score, 'moved')
    scorer = Scorer(scores, {'': ROWS}, tmp_path)
    values, _ = scorer(images.generated(generator), None, functools.partial(changes.rows, generator))
    assert list(values) == ['eqt10_int', 'eqt10_frac', 'eqr10'] and all(low < v <= high for v in values.values()), (
        values
    )
    rows = changes.moves(generator, scores[0])
    np.testing.assert_array_equal(rows.read(0, 10)[4:8], rows.read(4, 8))
    still = generator._replace(gan=gan._replace(sampler=sampler._replace(view=None)))
    with pytest.raises(UserError, match='eqt10_int: stylegan2 has no coordinates to move'):
        changes.check(still, scores[0], 'stylegan2')


def test_networks_have_all_digits_of_float32_whatever_the_platform_rounds_products_to(generator, monkeypatch):
    """GPUs and TPUs round products unless they are asked not to; the CPU does not show it, the program does."""
    programs = []

    def traced(run):
        def call(*args):
            with jax.default_matmul_precision('bfloat16'):
                programs.append(str(jax.make_jaxpr(run)(*args)))
            return run(*args)

        return call

    monkeypatch.setattr(parts.jax, 'jit', traced)
    product = Network(
        'product', lambda params, x: x.reshape(len(x), -1).astype(jnp.float32) @ params, jnp.ones((48, 2))
    )
    parts._program(product, 4)(np.zeros((4, 4, 4, 3), np.uint8))
    monkeypatch.setattr(changes.perceptual, 'lpips', lambda _, a, b: jnp.einsum('nhwc,nhwc->n', a, b))
    changes.lengths(generator, parse_all('ppl2_wend4')[0], Network('lpips', None, jnp.float32(0))).read(0, 4)
    for program in programs:
        assert 'Precision.HIGHEST' in program or 'precision=HIGHEST' in program, program
        assert 'BF16' not in program and 'DEFAULT' not in program
    assert len(programs) == 2


def test_features_of_worlds_are_kept_for_the_program_that_drew_them(monkeypatch):
    keys = [images.of_worlds((8, 8)).key(0, 4)]
    monkeypatch.setattr(images, 'worlds_digest', lambda: 'another')
    assert images.of_worlds((8, 8)).key(0, 4) not in keys
