"""What one training step gives to losses, and what it makes of what they return."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from pegan_jax.gan import GAN, Sampler, Stage, Update, fewer_rows, sample_normal
from pegan_jax.train.step import (
    compile_step,
    data_mesh,
    device_step,
    due_updates,
    place_batch,
    products_without_ynnpack,
    replicated_state,
)


def _gan(stage, **updates):
    """Losses w * x of one number per network, so that gradients are what the loss sees."""

    def loss(name):
        def fn(params, state, batch, key, stage):
            x = (
                jnp.mean(batch['image'][:, -1, -1])
                + updates.get('other', 0) * state.params['d' if name == 'g' else 'g']
            )
            return params * x, ({'stats': {'seen': x}}, {'loss/' + name: x})

        return fn

    return GAN(
        init=lambda key: ({'g': jnp.float32(1), 'd': jnp.float32(2)}, {'g': {}, 'd': {}}, {'seen': jnp.float32(0)}),
        updates=(Update('d', loss('d'), interval=3), Update('g', loss('g'))),
        optimizers={'g': optax.sgd(0.5), 'd': optax.sgd(0.25)},
        sampler=Sampler(None, None),
        stage_at=lambda step, nimg, seed: stage,
        prepare=updates.get('prepare'),
        ema=lambda nimg, step: jnp.where(step == 0, 0.75, 0.5),
    )


def _step(gan, state, images, step=0, **options):
    mesh = data_mesh()
    per_device = functools.partial(
        device_step, gan=gan, stage=gan.stage_at(step, 0, 0), due=due_updates(gan, step), seed=0, **options
    )
    return compile_step(per_device, 'jit', mesh)(state, place_batch({'image': images}, 'jit', mesh))


def _state(gan):
    return replicated_state(gan, 0, data_mesh())


def test_images_arrive_in_the_unit_range_resized_with_their_corners_kept():
    images = np.zeros((2, 5, 5, 3), np.uint8)
    images[:, -1, -1], images[:, 0, 0] = 255, 51
    seen = {}

    def prepare(batch, key, stage):
        seen.update(shape=batch['image'].shape, index=batch['index'].shape)
        return {**batch, 'image': batch['image'][:, ::-1, ::-1]}

    gan = _gan(Stage((3, 2)), prepare=prepare)
    _, metrics = _step(gan, _state(gan), images)
    assert seen == {'shape': (2, 3, 2, 3), 'index': (2,)}
    # After prepare, the corner that losses look at is the first pixel, 51 / 127.5 - 1 = -0.6 in a black (-1) image.
    # Low-passed, its weight is 1 / (1 + 1/2) of the column and 1 / (1 + 3/4 + 1/2 + 1/4) of the row.
    np.testing.assert_allclose(metrics['loss/g'], -1 + 0.4 / 1.5 / 2.5, atol=1e-6)


def test_a_lazy_loss_is_multiplied_by_its_interval_and_skipped_when_not_due():
    gan = _gan(Stage(2))
    assert [due_updates(gan, s) for s in range(4)] == [(0, 1), (1,), (1,), (0, 1)]
    white = np.full((4, 2, 2, 3), 255, np.uint8)
    first, metrics = _step(gan, _state(gan), white)
    np.testing.assert_allclose([first.params['d'], first.params['g']], [2 - 0.25 * 3, 1 - 0.5], atol=1e-6)
    assert {name for name in metrics if 'finite' not in name} == {'loss/d', 'loss/g'} and abs(
        metrics['loss/d'] - 1
    ) < 1e-6
    second, metrics = _step(gan, first, white, step=1)
    np.testing.assert_allclose([second.params['d'], second.params['g']], [1.25, 0.0], atol=1e-6)
    assert {name for name in metrics if 'finite' not in name} == {'loss/g'}


def test_updates_see_what_the_ones_before_them_did():
    gan = _gan(Stage(2), other=1.0)
    black = np.full((4, 2, 2, 3), 0, np.uint8)
    state, _ = _step(gan, _state(gan), black)
    d = 2 - 0.25 * 3 * (-1 + 1)  # d's loss saw g = 1
    np.testing.assert_allclose(state.params['g'], 1 - 0.5 * (-1 + d))


def test_ema_statistics_and_counters_follow():
    gan = _gan(Stage(2))
    white = np.full((4, 2, 2, 3), 255, np.uint8)
    first, _ = _step(gan, _state(gan), white)
    np.testing.assert_allclose(first.ema, 0.75 * 1 + 0.25 * 0.5, atol=1e-6)
    assert abs(first.stats['seen'] - 1) < 1e-6 and first.step == 1 and first.nimg == 4
    second, _ = _step(gan, first, white, step=1)
    np.testing.assert_allclose(second.ema, 0.5 * 0.875 + 0.5 * 0.0, atol=1e-6)
    assert second.nimg == 8


def test_what_an_evaluation_makes_of_parameters_is_what_the_optimiser_steps_from():
    def loss(params, state, batch, key, stage):
        return 3 * params, ({'params': {'g': state.params['g'] / 4, 'd': params / 2}}, {})

    gan = _gan(Stage(2))._replace(updates=(Update('d', loss),))
    state, _ = _step(gan, _state(gan), np.zeros((4, 2, 2, 3), np.uint8))
    np.testing.assert_allclose([state.params['d'], state.params['g']], [2 / 2 - 0.25 * 3, 1 / 4])


def test_every_step_and_every_update_draws_its_own_numbers():
    def loss(name):
        def fn(params, state, batch, key, stage):
            return 0 * params, ({}, {name: jnp.mean(sample_normal(key, batch['index'], (2,)))})

        return fn

    gan = _gan(Stage(2))._replace(updates=(Update('d', loss('a')), Update('g', loss('b'))))
    images = np.zeros((4, 2, 2, 3), np.uint8)
    state, first = _step(gan, _state(gan), images)
    _, second = _step(gan, state, images)
    _, again = _step(gan, _state(gan), images)
    assert len({float(m[name]) for m in (first, second) for name in 'ab'}) == 4
    assert first == again


def test_a_loss_that_is_not_finite_is_flagged_and_so_is_its_gradient():
    gan = _gan(Stage(2), other=jnp.inf)
    _, metrics = _step(gan, _state(gan), np.zeros((4, 2, 2, 3), np.uint8))
    assert metrics['finite'] == 0
    assert metrics['gradients/non_finite_d'] == metrics['gradients/non_finite_g'] == 1
    _, metrics = _step(_gan(Stage(2)), _state(gan), np.zeros((4, 2, 2, 3), np.uint8))
    assert metrics['finite'] == 1 and metrics['gradients/non_finite_d'] == 0


def test_the_running_mean_is_told_how_many_images_there_were_before_the_step():
    gan = _gan(Stage(2))._replace(ema=lambda nimg, step: jnp.where(nimg == 0, 0.75, jnp.nan))
    state, _ = _step(gan, _state(gan), np.full((4, 2, 2, 3), 255, np.uint8))
    np.testing.assert_allclose(state.ema, 0.75 * 1 + 0.25 * 0.5)


def test_what_is_prepared_for_all_updates_shares_no_random_numbers_with_any_of_them():
    def prepare(batch, key, stage):
        return {**batch, 'drawn': sample_normal(key, batch['index'], (2,))}

    def loss(name):
        def fn(params, state, batch, key, stage):
            own = jnp.mean(sample_normal(key, batch['index'], (2,)))
            return 0 * params, ({}, {name: own, 'prepared': jnp.mean(batch['drawn'])})

        return fn

    gan = _gan(Stage(2), prepare=prepare)._replace(updates=(Update('d', loss('a')), Update('g', loss('b'))))
    _, metrics = _step(gan, _state(gan), np.zeros((4, 2, 2, 3), np.uint8))
    assert len({float(metrics[name]) for name in ('a', 'b', 'prepared')}) == 3


def test_the_state_is_donated():
    gan, images = toy.toy_gan(), toy.toy_batch(0, 4)
    state = _state(gan)
    _step(gan, state, images)
    assert all(x.is_deleted() for x in jax.tree.leaves(state.params))


def test_a_part_of_a_batch_draws_the_same_numbers_however_it_is_divided():
    for devices in (1, 2, 4):
        parts = [fewer_rows({'index': i, 'label': 10 * i}, 2) for i in jnp.arange(8).reshape(devices, -1)]
        np.testing.assert_array_equal(np.concatenate([part['index'] for part in parts]), np.arange(4))
        # What is not drawn is that of the device's first rows.
        np.testing.assert_array_equal(parts[-1]['label'], 10 * (8 - 8 // devices + np.arange(4 // devices)))
    assert fewer_rows({'index': jnp.array([5])}, 2)['index'].tolist() == [5]


def _three_steps(gan, **options):
    state = _state(gan)
    for step in range(3):
        state, metrics = _step(gan, state, toy.toy_batch(step, 8), step, **options)
    return jax.device_get((state, {name: x for name, x in metrics.items()}))


@pytest.mark.slow
def test_parts_of_a_batch_one_by_one_are_the_whole_batch_and_so_is_what_is_computed_again():
    # Plain SGD: Adam would hide a factor. The losses are means over rows and the buffers linear in them.
    gan = toy.toy_gan()._replace(optimizers={net: optax.sgd(0.02) for net in ('g', 'd')})
    whole = _three_steps(gan)
    for options in ({'parts': 2}, {'parts': 4, 'unroll': False}, {'remat': True}, {'parts': 2, 'remat': True}):
        jax.tree.map(toy.assert_equal_up_to_rounding, _three_steps(gan, **options), whole)
    start = jax.device_get(_state(gan))
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), whole[0].params, start.params)
    assert min(jax.tree.leaves(moved)) > 1e-3


@pytest.mark.parametrize(
    'options', [{}, {'parts': 3}, {'parts': 3, 'unroll': False}, {'remat': True}, {'parts': 3, 'remat': True}]
)
def test_a_buffer_that_does_not_change_is_neither_averaged_nor_exchanged(options):
    noise = np.random.default_rng(0).normal(size=1000).astype(np.float32)  # of some, a third of three times is another

    def loss(params, state, batch, key, stage):
        x = jnp.mean(batch['image'])
        return params * x, ({'buffers': {**state.buffers, 'g': {**state.buffers['g'], 'seen': x}}}, {})

    plain = _gan(Stage(2))
    gan = plain._replace(
        init=lambda key: (
            plain.init(key)[0],
            {'g': {'noise': jnp.asarray(noise), 'seen': jnp.float32(0)}, 'd': {}},
            {},
        ),
        updates=(Update('g', loss),),
    )
    images = np.full((6, 2, 2, 3), 255, np.uint8)
    step = functools.partial(device_step, gan=gan, stage=Stage(2), due=(0,), seed=0, **options)
    program = jax.make_jaxpr(step, axis_env=[('data', 1)])(_state(gan), {'image': jnp.asarray(images)})
    exchanged = [line for line in str(program).splitlines() if ' psum' in line]
    assert exchanged and not [line for line in exchanged if '[1000]' in line]
    state, _ = _step(gan, _state(gan), images, **options)
    np.testing.assert_array_equal(state.buffers['g']['noise'], noise)
    assert float(state.buffers['g']['seen']) == 1


def test_what_remat_computes_again_is_in_the_program():
    gan = toy.toy_gan()
    step = functools.partial(device_step, gan=gan, stage=gan.stage_at(0, 0, 0), due=(0, 1), seed=0)
    batch = {'image': jnp.asarray(toy.toy_batch(0, 8))}
    for remat in (False, True):
        program = jax.make_jaxpr(functools.partial(step, remat=remat), axis_env=[('data', 1)])(_state(gan), batch)
        assert ('remat' in str(program) or 'checkpoint' in str(program)) == remat


def test_an_update_that_is_not_finite_changes_nothing_when_it_is_to_be_skipped():
    def loss(params, state, batch, key, stage):
        # The third step's gradient is that of the square root at 0, while its value is finite.
        x = jnp.where(state.step == 2, 0.0, jnp.mean(batch['image']) + 2)
        return jnp.sqrt(params * 0 + x) * params, ({'stats': {'seen': x}}, {'loss/g': x})

    gan = _gan(Stage(2))
    gan = gan._replace(updates=(gan.updates[0], Update('g', loss)), optimizers={k: optax.adam(0.1) for k in 'gd'})
    state, states, flags = _state(gan), [], []
    for step in range(4):
        state, metrics = _step(gan, state, np.full((2, 2, 2, 3), 255, np.uint8), step, skip=True)
        states.append(jax.device_get(state))
        flags.append((float(metrics['gradients/skipped']), float(metrics['finite'])))
    assert flags == [(0, 1), (0, 1), (1, 1), (0, 1)]
    assert states[2].params['g'] == states[1].params['g'] != states[3].params['g']
    jax.tree.map(np.testing.assert_array_equal, (states[2].opt, states[2].stats), (states[1].opt, states[1].stats))
    assert [int(s.step) for s in states] == [1, 2, 3, 4] and all(np.isfinite(s.params['g']) for s in states)
    state = _state(gan)
    for step in range(3):
        state, metrics = _step(gan, state, np.full((2, 2, 2, 3), 255, np.uint8), step)
    assert not np.isfinite(state.params['g'])


@pytest.mark.parametrize('options', [{}, {'skip': True}, {'parts': 2}])
def test_updates_that_are_alike_are_a_loop_and_do_what_they_do_one_by_one(options):
    def loss(params, state, batch, key, stage):
        drawn = jnp.mean(sample_normal(key, batch['index'], (2,)))
        x = jnp.mean(batch['image']) + drawn + state.stats['seen']
        x = jnp.where(jnp.abs(state.params['d'] - 2) < 0.1, x, jnp.nan) if options.get('skip') else x
        return params * x, ({'stats': {'seen': x}}, {'loss/d': params * x})

    gan, images = _gan(Stage(2)), np.full((4, 2, 2, 3), 200, np.uint8)
    alike = gan._replace(updates=(Update('d', loss),) * 3, optimizers={k: optax.adam(0.3) for k in 'gd'})
    others = tuple(Update('d', functools.partial(loss)) for _ in range(3))  # every partial is another function
    one_by_one_gan = alike._replace(updates=others)
    state, metrics = _step(alike, _state(alike), images, **options)
    one_by_one, told = _step(one_by_one_gan, _state(alike), images, **options)
    jax.tree.map(toy.assert_equal_up_to_rounding, (state, metrics), (one_by_one, told))
    assert abs(float(state.params['d']) - 2) > 0.2 and ('gradients/skipped' in metrics) == bool(options.get('skip'))
    assert metrics['finite'] == 1
    # A step of which some updates were left out says so.
    assert not options.get('skip') or (metrics['gradients/skipped'] == 1 and metrics['gradients/non_finite_d'] == 2)
    for asked, loops in ((alike, 1), (one_by_one_gan, 0)):
        step = functools.partial(device_step, gan=asked, stage=Stage(2), due=(0, 1, 2), seed=0)
        program = jax.make_jaxpr(step, axis_env=[('data', 1)])(_state(asked), {'image': images})
        assert str(program).count(' scan[') == loops


def test_one_of_several_updates_that_are_alike_is_enough_to_flag_a_step():
    def loss(params, state, batch, key, stage):
        return params * jnp.where(state.params['d'] == 2, 1.0, jnp.inf), ({}, {})

    gan = _gan(Stage(2))._replace(updates=(Update('d', loss),) * 2)
    _, metrics = _step(gan, _state(gan), np.zeros((2, 2, 2, 3), np.uint8))
    assert metrics['finite'] == 0 and metrics['gradients/non_finite_d'] == 1


@pytest.mark.parametrize(
    ('given', 'then'),
    [
        (None, '--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_REDUCE'),
        ('--xla_a=1', '--xla_a=1 --xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_REDUCE'),
        ('--xla_cpu_experimental_ynn_fusion_type=',) * 2,
    ],
)
def test_flags_of_a_user_stay(given, then, monkeypatch):
    monkeypatch.delenv('XLA_FLAGS')
    if given is not None:
        monkeypatch.setenv('XLA_FLAGS', given)
    products_without_ynnpack()
    assert os.environ['XLA_FLAGS'] == then


def test_commands_compile_without_ynnpack_which_xla_would_take():
    product = """
import jax, numpy
print(jax.jit(lambda a: a @ a).lower(numpy.ones((512, 512), 'f')).compile().as_text())
"""
    command = "from pegan_jax.cli import main; assert main(['inspect', '--model', 'nowhere']) == 1"
    env, found = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}, {}
    for name, code in {'plain': product, 'command': command + product}.items():
        run = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True, check=True)
        found[name] = 'ynn' in run.stdout
    assert found == {'plain': True, 'command': False}
