"""What computes in bfloat16 if it may, what in float32, and what there asks for all digits of it.

By default accelerators multiply float32 numbers in fewer. Of the tests' own setting, exact matmuls everywhere, nothing
is seen here (`contractions`).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxprs import contractions
from PIL import Image

from pegan_jax import coords, encodings
from pegan_jax.config import load_config, system_module
from pegan_jax.gan import images_of
from pegan_jax.models import cips, dcgan, deepfill, mspie, pconv, pggan, singan, stylegan_training
from pegan_jax.train.report import abstract_batch
from pegan_jax.train.state import create_state
from pegan_jax.train.step import as_floats

KEY = jax.random.key(0)


def inexact(found):
    return [c for c in found if c.precision != jax.lax.Precision.HIGHEST]


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


@pytest.fixture(scope='module')
def system(tmp_path_factory):
    """A function of a system's name and a dtype: its tiny run, the GAN and the shapes of its state."""
    photo = tmp_path_factory.mktemp('photo') / 'photo.png'
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)).save(photo)

    @functools.cache
    def of(name, dtype='float32'):
        overrides = {
            'singan': [f'data.image={photo}'],
            'stylegan2': ['model.c_dim=3', 'data.labels=True', 'data.folder=images'],
        }
        config = load_config(f'{name}:tiny', [*overrides.get(name, []), f'model.dtype={dtype}'])
        gan = system_module(name).build(config)
        return config, gan, jax.eval_shape(functools.partial(create_state, gan, 0))

    return of


def latent_shapes(gan, count=2):
    z = gan.sampler.draw(range(count))
    return jax.ShapeDtypeStruct(z.shape, z.dtype), array(count, gan.c_dim) if gan.c_dim else None


def of_update(system, name, index, stage, dtype='float32'):
    """The contractions of the gradient of an update's loss."""
    config, gan, state = system(name, dtype)
    update = gan.updates[index]
    batch = jax.eval_shape(as_floats, abstract_batch(config, 4))
    batch |= {'image': array(4, *stage.size, 3), 'index': jax.ShapeDtypeStruct((4,), jnp.int32)}

    def loss(params, state, batch):
        return update.loss(params, state, batch, KEY, stage)[0]

    return contractions(jax.grad(loss), state.params[update.net], state, batch)


@pytest.mark.parametrize('name', ['cips', 'mspie', 'stylegan2', 'stylegan3'])
def test_mapping_networks_styles_and_demodulation_are_exact(system, name):
    _, gan, state = system(name)
    z, c = latent_shapes(gan)
    mapping = contractions(gan.sampler.map, state.sampling, z, c)
    assert len(mapping) >= 2 and not inexact(mapping)
    # Matrices of one row per image are styles and what demodulation makes of them; maps of pixels have more axes.
    synthesis = contractions(functools.partial(images_of, gan), state.sampling, z)[len(mapping) :]
    styles = [c for c in synthesis if len(c.shape) == 2 and c.shape[0] == 2]
    assert styles and not inexact(styles)
    assert inexact(synthesis)  # the rest is as exact as the user says


def test_factored_styles_are_exact():
    module = cips.Generator(cips.Config(img_resolution=8, channels=(6,), d_channels=(4, 4)))
    variables = jax.eval_shape(module.init, KEY, array(2, 512))
    found = contractions(functools.partial(module.apply, method='factor'), variables, array(2, 512))
    assert len(found) > 4 and not inexact(found)


SCORES = {
    'stylegan2': lambda m, p, b, x: stylegan_training.score(m, p, b, x, jnp.zeros((len(x), 3))),
    'stylegan3': lambda m, p, b, x: stylegan_training.score(m, p, b, x, None),
    'cips': cips.score,
    'mspie': lambda m, p, b, x: mspie.discriminator(m).apply({'params': p, 'buffers': b}, x),
    'pggan': lambda m, p, b, x: pggan.Discriminator(m).apply({'params': p}, x, m.last_level, 1.0)[0],
    'dcgan': lambda m, p, b, x: dcgan.run(dcgan.Discriminator(m), p, b, x, train=True)[0],
    'singan': lambda m, p, b, x: singan.criticise(m, 0, p['block0'], b['block0'], x)[0],
    'deepfill': lambda m, p, b, x: deepfill.Discriminator(m).apply({'params': p}, deepfill.d_input(x, x[..., :1])),
}


@pytest.mark.parametrize(
    'name, last',
    [*((n, 3) for n in ('cips', 'mspie', 'stylegan2', 'stylegan3')), ('pggan', 2)]
    + [(n, 1) for n in ('dcgan', 'singan', 'deepfill')],
)
def test_the_layers_that_make_logits_are_exact(system, name, last):
    config, _, state = system(name)
    model = config.model
    images = array(4, *(config.data.size if name != 'singan' else (30, 40)), 3)
    found = contractions(functools.partial(SCORES[name], model), state.params['d'], state.buffers['d'], images)
    if name == 'stylegan2':
        last += 1 + model.d_mapping_layers  # of the label, whose product with the features is the logit
    if name == 'mspie':
        last += 2  # pooling, along both axes
    assert not inexact(found[-last:]) and inexact(found[:-last]) == found[:-last]


@pytest.mark.parametrize('name', ['cips', 'stylegan2', 'stylegan3'])
def test_lazy_terms_are_exact_through_both_derivatives(system, name):
    _, gan, _ = system(name)
    lazy = [i for i, update in enumerate(gan.updates) if update.interval > 1]
    assert len(lazy) == (2 if name == 'stylegan2' else 1)
    for index in lazy:
        found = of_update(system, name, index, gan.stage_at(0, 0, 0))
        # The mapping of path lengths and its derivative are exact as well.
        assert len(found) > 20 and not inexact(found)


@pytest.mark.parametrize('index, flag', [(0, 'r1'), (1, 'path')])
def test_lazy_terms_within_a_step_are_exact(system, index, flag):
    _, gan, _ = system('mspie')
    stages = {stage.flags: stage for stage in gan.stages() if stage.level == 0}
    without, with_term = (of_update(system, 'mspie', index, stages[flags]) for flags in ((), ('r1', 'path')))
    assert len(with_term) > len(without) + 20, flag
    assert len(inexact(with_term)) == len(inexact(without))


def critic(system, name, dtype='float32'):
    """The contractions of a critic's loss, which has a gradient penalty, and those of one pass."""
    config, _, state = system(name, dtype)
    model, p, b, mix = config.model, state.params['d'], state.buffers['d'], array(2, 1, 1, 1)
    images = array(2, *(config.data.size if name == 'pggan' else (30, 40)), 3)
    if name == 'pggan':
        loss = functools.partial(pggan.d_loss, model, level=model.last_level, fade=1.0)
        found = contractions(loss, p, images, images, mix)
    else:
        loss = functools.partial(singan.d_loss, model, 0)
        found = contractions(loss, p['block0'], b['block0'], images, images, mix)
    return found, contractions(functools.partial(SCORES[name], model), p, b, images)


@pytest.mark.parametrize('name, passes', [('pggan', 1), ('singan', 2)])
def test_gradient_penalties_are_exact(system, name, passes):
    """passes: in which a critic sees real and generated images."""
    found, one = critic(system, name)
    assert len(found) >= (passes + 2) * len(one) and len(inexact(found)) == passes * len(inexact(one))


def test_encodings_gram_matrices_and_spectral_norms_are_exact(system):
    config, _, state = system('deepfill')
    d, u = state.params['d'], state.buffers['d']
    for found in (
        contractions(encodings.fourier_features, array(5, 2), array(2, 4), array(4)),
        contractions(
            functools.partial(encodings.sg3_fourier_input, height=4, width=4, sampling_rate=16, bandwidth=2),
            array(2, 4), array(6, 2), array(6), array(3, 3),
        ),
        contractions(encodings.sg3_mix, array(2, 4, 4, 6), array(6, 6)),
        contractions(coords.compose, array(3, 3), array(3, 3)),
        contractions(pconv.gram, array(2, 4, 4, 3)),
        contractions(functools.partial(deepfill.normalised, config.model), d, u),
    ):  # fmt: skip
        assert found and not inexact(found)


# bfloat16 -------------------------------------------------------------------------------------------------------------


def rough(found):
    return [c for c in found if c.dtype == 'bfloat16']


@pytest.mark.parametrize('name', ['dcgan', 'mspie', 'pggan', 'singan'])
def test_bfloat16_images_stay_close_and_only_inner_convolutions_are_rounded(system, name):
    (_, exact, _), (config, gan, shapes) = (system(name, dtype) for dtype in ('float32', 'bfloat16'))
    assert {x.dtype for x in jax.tree.leaves(shapes.params)} == {jnp.dtype('float32')}
    draw = np.random.default_rng(0).normal
    whole = {
        'params': jax.tree.map(lambda x: jnp.asarray(draw(size=x.shape, scale=0.3), x.dtype), shapes.params['g']),
        'buffers': jax.jit(lambda: gan.init(KEY)[1]['g'])(),
    }
    z = gan.sampler.draw([0, 1])
    want, got = (jax.jit(functools.partial(images_of, g))(whole, z) for g in (exact, gan))
    assert got.dtype == jnp.float32 and 0 < np.abs(got - want).mean() < 0.1 * np.std(want)
    images = contractions(functools.partial(images_of, gan), whole, z)
    assert len(rough(images)) > 1 and images[-1].dtype == 'float32'
    if name == 'dcgan':  # of the others, the first ones resize, or make styles
        assert images[0].dtype == 'bfloat16'
    seen = array(4, *(config.data.size if name != 'singan' else (30, 40)), 3)
    args = functools.partial(SCORES[name], config.model), shapes.params['d'], shapes.buffers['d'], seen
    assert rough(contractions(*args)) and contractions(*args)[-1].dtype == 'float32'
    assert jax.eval_shape(*args).dtype == jnp.float32


def test_no_derivative_of_a_derivative_is_rounded(system):
    _, gan, _ = system('mspie', 'bfloat16')
    stages = {stage.flags: stage for stage in gan.stages() if stage.level == 0}
    for index in (0, 1):
        without, with_term = (
            of_update(system, 'mspie', index, stages[flags], 'bfloat16') for flags in ((), ('r1', 'path'))
        )
        assert len(rough(with_term)) == len(rough(without)) > 0
    for name in ('pggan', 'singan'):
        found, one = critic(system, name, 'bfloat16')
        assert len(rough(found)) == 2 * len(rough(one)) > 0
