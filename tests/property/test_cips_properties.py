"""What must hold for any parameters of the generators and the discriminator; tiny shapes, random parameters."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pegan_jax import coords, encodings
from pegan_jax.config import Config, DataConfig
from pegan_jax.gan import images_of
from pegan_jax.models import cips, cips_generator

MODEL = cips.Config(
    img_resolution=8, hidden_size=6, z_dim=5, mapping_layers=2, lr_multiplier=1.0, channels=(7, 6), d_channels=(5, 6)
)
GAN = cips.build(Config(system='cips', model=MODEL, data=DataConfig(resolution=8)))
SAMPLE = jax.jit(functools.partial(images_of, GAN), static_argnames='chunk')
Z = jax.random.normal(jax.random.key(1), (3, 5))
KEYS = jax.random.split(jax.random.key(3), 3)
LAYERS = ('conv', 'linears', 'to_rgbs')
CLOSE = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-5)


@pytest.fixture(scope='module')
def params():
    """Random everywhere: strengths and biases, zero at first, must matter."""
    shapes = jax.eval_shape(cips.Generator(MODEL).init, jax.random.key(0), Z)['params']
    draw = np.random.default_rng(0).normal
    return jax.tree.map(lambda p: jnp.asarray(draw(size=p.shape), p.dtype), shapes)


@pytest.fixture(scope='module')
def native(params):
    return np.asarray(SAMPLE({'params': params}, Z, grid=np.asarray(coords.grid(8, 8))))


@pytest.mark.parametrize('name', ['crop', 'strided', 'permuted list', 'row', 'column', 'one pixel'])
def test_any_subset_of_the_grid_gives_that_subset_of_the_image(params, native, name):
    grid = np.asarray(coords.grid(8, 8))
    order = np.random.default_rng(0).permutation(64)
    cut = {
        'crop': lambda a: a[..., 2:5, 1:7, :],
        'strided': lambda a: a[..., ::3, 1::2, :],
        'permuted list': lambda a: a.reshape(*a.shape[:-3], 64, a.shape[-1])[..., order, :],
        'row': lambda a: a.reshape(*a.shape[:-3], 1, 64, a.shape[-1]),
        'column': lambda a: a.reshape(*a.shape[:-3], 64, 1, a.shape[-1]),
        'one pixel': lambda a: a[..., 5, 2, :],
    }[name]
    CLOSE(SAMPLE({'params': params}, Z, grid=cut(grid)), cut(native))


@pytest.mark.parametrize('chunk', [1, 7, 100])
def test_chunks_of_any_size_give_the_same_image_and_the_same_noise(params, native, chunk):
    CLOSE(SAMPLE({'params': params}, Z, chunk=chunk), native)
    noisy = SAMPLE({'params': params}, Z, noise=KEYS)
    CLOSE(SAMPLE({'params': params}, Z, noise=KEYS, chunk=chunk), noisy)
    assert np.abs(noisy - native).max() > 0.01


def test_gradients_add_up_over_chunks(params):
    def loss(params, chunk):
        return jnp.mean(images_of(GAN, {'params': params}, Z, chunk=chunk) ** 2)

    whole, parts = (jax.jit(jax.grad(loss), static_argnums=1)(params, c) for c in (None, 20))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        CLOSE(b, a, atol=1e-5 * max(1, np.abs(a).max()))


def test_training_in_chunks_has_the_same_gradients_and_keeps_no_activations(params):
    def gradients(chunk):
        model = dataclasses.replace(MODEL, train_chunk=chunk)
        noise = jax.random.split(jax.random.key(1), len(Z))
        loss = jax.jit(jax.grad(lambda params: jnp.mean(cips.generate(model, params, Z, noise) ** 2)))
        compiled = loss.lower(params).compile()
        return compiled(params), compiled.memory_analysis().temp_size_in_bytes

    (whole, much), (parts, little) = gradients(64), gradients(4)
    assert little < 0.6 * much
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        CLOSE(b, a, atol=1e-5 * max(1, np.abs(a).max()))


def test_a_finer_grid_with_the_same_ends_contains_the_coarser_one(params, native):
    finer = SAMPLE({'params': params}, Z, grid=np.asarray(coords.grid(15, 15)))
    CLOSE(finer[:, ::2, ::2], native)


def test_grids_may_differ_between_images(params, native):
    grids = jnp.stack([coords.grid(8, 8)[i : i + 4, 2:6] for i in range(3)])
    styles = cips.Generator(MODEL).apply({'params': params}, Z)
    images = jax.jit(jax.vmap(functools.partial(cips_generator.synthesise, MODEL), (None, 0, 0)))(params, styles, grids)
    for i in range(3):
        CLOSE(images[i], native[i, i : i + 4, 2:6])


def test_images_do_not_depend_on_the_rest_of_the_batch(params, native):
    CLOSE(SAMPLE({'params': params}, Z[jnp.array([2, 0, 1])]), native[[2, 0, 1]])
    CLOSE(SAMPLE({'params': params}, Z[1:2]), native[1:2])


def test_styles_and_one_per_layer_of_the_same_give_the_image_of_the_latent(params, native):
    variables, sampler = {'params': params}, GAN.sampler
    w = sampler.map(variables, Z, None)
    run = jax.jit(functools.partial(cips.images, MODEL))
    CLOSE(run(variables, w), native)
    CLOSE(run(variables, jnp.repeat(w[:, None], sampler.num_ws, axis=1)), native)
    w_avg = np.asarray(sampler.w_avg(variables))
    drawn = sampler.map(variables, jax.random.normal(jax.random.key(9), (20_000, 5)), None)
    np.testing.assert_allclose(w_avg, np.mean(drawn, axis=0), atol=0.1)


def test_scaling_a_style_scales_only_to_rgb_layers(params):
    module = cips.Generator(MODEL)
    scaled = {
        k: v | {'affine': jax.tree.map(lambda p: 3 * p, v['affine'])} if k.startswith(LAYERS) else v
        for k, v in params.items()
    }
    plain, tripled = (module.apply({'params': p}, Z) for p in (params, scaled))
    for name, weight in plain.items():
        CLOSE(tripled[name], weight * (3 if name.startswith('to_rgbs') else 1))
        if not name.startswith('to_rgbs'):
            np.testing.assert_allclose(np.sum(np.square(weight), axis=1), 1, rtol=1e-4)


def test_the_image_is_the_sum_of_its_to_rgb_layers(params, native):
    def only(level):
        return {
            k: jax.tree.map(jnp.zeros_like, v) if k.startswith('to_rgbs') and k != f'to_rgbs_{level}' else v
            for k, v in params.items()
        }

    parts = [np.asarray(SAMPLE({'params': only(level)}, Z, grid=np.asarray(coords.grid(8, 8)))) for level in range(2)]
    assert all(np.abs(p).max() > 0.01 for p in parts)
    CLOSE(sum(parts), native)


def test_the_length_of_z_does_not_matter(params, native):
    CLOSE(SAMPLE({'params': params}, 5 * Z, grid=np.asarray(coords.grid(8, 8))), native)


def test_noise_without_strength_does_nothing_and_with_it_differs_by_pixel_and_image(params, native):
    silent = {k: v | {'noise_strength': jnp.zeros(())} if k.startswith(LAYERS[:2]) else v for k, v in params.items()}
    CLOSE(SAMPLE({'params': silent}, Z, noise=KEYS), native)
    same = jnp.repeat(Z[:1], 3, axis=0)
    points = np.zeros((8, 8, 2), np.float32)
    images = np.asarray(SAMPLE({'params': params}, same, grid=points, noise=KEYS))
    values = images.reshape(-1, 3)
    assert len(np.unique(values, axis=0)) == len(values) == 192
    again = SAMPLE({'params': params}, same, grid=points, noise=KEYS)
    np.testing.assert_array_equal(again, images)


def by_hand(model, params, ws, xy, embedding, noise=None):
    """One colour, in NumPy: ws holds one style per layer of `layer_names`, noise a number per layer that has any."""
    params, x, before = jax.tree.map(np.float64, params), None, None
    rgb, noise = np.zeros(3), iter(np.zeros(99) if noise is None else np.float64(noise))

    def dense(layer, w, x):
        s = w @ layer['affine']['kernel'] / np.sqrt(len(w)) + layer['affine']['bias']
        u = layer['weight'] * s[:, None] / np.sqrt(len(x))
        return x @ (u / np.sqrt(np.sum(u**2, axis=0)) if 'noise_strength' in layer else u) + layer['bias']

    def styled(layer, w, x):
        y = dense(layer, w, x) + layer['noise_strength'] * next(noise)
        return np.where(y > 0, y, 0.2 * y) * np.sqrt(2)

    for name, w in zip(cips.layer_names(model), np.float64(ws), strict=True):
        first, _, second = name.partition('/')
        layer = params[first][second] if second else params[first]
        if x is None:
            angles = np.float64(xy) @ params['lff']['kernel'] + params['lff']['bias']
            x = styled(layer, w, np.concatenate([np.sin(angles), np.float64(embedding)]))
        elif 'to_rgb' in name:
            rgb = rgb + dense(layer, w, x)
        elif second == 'conv2':
            skip = params[first].get('skip')
            shortcut = before if skip is None else before @ skip['kernel'] / np.sqrt(len(before))
            x = (styled(layer, w, x) + shortcut) / np.sqrt(2)
        else:
            before, x = x, styled(layer, w, x)
    return rgb


def test_a_pixel_is_what_its_layers_and_their_noise_make_of_it_by_hand(params):
    styles = {k: v[0] for k, v in cips.Generator(MODEL).apply({'params': params}, Z).items()}
    xy, embedding, noise = jnp.array([0.3, -0.2]), jnp.arange(6.0) / 6, jnp.array([0.5, -1.0, 2.0, 0.1, 1.5])
    w = np.repeat(GAN.sampler.map({'params': params}, Z[:1], None), len(cips.layer_names(MODEL)), axis=0)
    for numbers in (None, noise):
        want = by_hand(MODEL, params, w, xy, embedding, numbers)
        CLOSE(cips_generator.pixel(MODEL, params, styles, xy, embedding, numbers), want)


def test_an_image_batch_is_one_matmul_per_layer(params):
    text = SAMPLE.lower({'params': params}, Z).as_text()
    modulated, mapping, affine, fourier = 7, 2, 7, 1
    assert text.count('stablehlo.dot_general') == modulated + mapping + affine + fourier


def test_discriminator_outputs_follow_a_permutation_of_one_group():
    images = jax.random.normal(jax.random.key(4), (4, 8, 8, 3))
    logits, variables = jax.jit(cips.discriminator(MODEL).init_with_output)(jax.random.key(0), images)
    order = jnp.array([2, 0, 3, 1])
    CLOSE(jax.jit(cips.discriminator(MODEL).apply)(variables, images[order]), logits[order])
    assert np.ptp(logits) > 1e-3


# Variants of the generator --------------------------------------------------------------------------------------------

VARIANTS = {
    'skip': {},
    'residual': {'wiring': 'residual'},
    'plain': {'wiring': 'plain', 'activation': 'sin'},
    'no embedding': {'coord_embedding': False},
    'no Fourier features': {'fourier_features': False},
    'no modulation': {'modulation': False},
    'cylinder': {'panorama_width': 24, 'train_lookup': 'bilinear'},
}


@functools.cache
def variant(name):
    """(model, random variables, jitted sample)."""
    model = dataclasses.replace(MODEL, **VARIANTS[name])
    shapes = jax.eval_shape(cips.Generator(model).init, jax.random.key(0), Z)['params']
    draw = np.random.default_rng(0).normal
    params = jax.tree.map(lambda p: jnp.asarray(draw(size=p.shape), p.dtype), shapes)
    gan = cips.build(Config(system='cips', model=model, data=DataConfig(resolution=8)))
    return model, {'params': params}, jax.jit(functools.partial(images_of, gan), static_argnames='chunk')


def blended(model, variables, w_map, grid, **options):
    """Images with one style per position, [N, *grid.shape[:-1], z_dim]."""
    image = functools.partial(cips_generator.synthesise, model, **options)
    return jax.jit(jax.vmap(image, (None, 0, None)))(variables['params'], w_map, grid)


@pytest.mark.parametrize('name', VARIANTS)
def test_every_variant_makes_pixels_independently_and_takes_a_style_per_position(name):
    model, variables, sample = variant(name)
    grid = np.asarray(coords.grid(8, 8))
    image = np.asarray(sample(variables, Z, grid=grid))
    order = np.random.default_rng(0).permutation(64)[:20]
    CLOSE(sample(variables, Z, grid=grid.reshape(64, 2)[order], chunk=7), image.reshape(3, 64, 3)[:, order])

    w = cips.Generator(model).apply(variables, Z, method='map')
    left = jnp.arange(8)[None, None, :, None] < 4
    w_map = jnp.where(left, w[:, None, None, :], w[::-1, None, None, :])
    mixed = blended(model, variables, jnp.broadcast_to(w_map, (3, 8, 8, 5)), grid, chunk=30)
    CLOSE(mixed[:, :, :4], image[:, :, :4])
    CLOSE(mixed[:, :, 4:], image[::-1, :, 4:])
    assert np.abs(image[0] - image[2]).max() > 0.01


@pytest.mark.parametrize('name', ['skip', 'residual'])
def test_style_mixing_changes_layers_from_the_crossover_on(name):
    model, variables, sample = variant(name)
    module, grid = cips.Generator(model), coords.grid(4, 4)
    w = module.apply(variables, Z, method='map')
    names = cips.layer_names(model)
    run = jax.jit(functools.partial(cips.images, model))
    mixed = {
        k: run(variables, jnp.stack([w] * k + [w[::-1]] * (len(names) - k), axis=1), grid) for k in (0, 3, len(names))
    }
    CLOSE(mixed[len(names)], sample(variables, Z, grid=grid))
    CLOSE(mixed[0], sample(variables, Z[::-1], grid=grid))
    row, column = 1, 2  # of a grid of 4 x 4, in an embedding of 8 x 8
    points = np.asarray(grid)
    embedding = encodings.embedding(variables['params']['emb'], points[row, column])
    for i in range(3):
        ws = np.stack([w[i]] * 3 + [w[2 - i]] * (len(names) - 3))
        CLOSE(mixed[3][i, row, column], by_hand(model, variables['params'], ws, points[row, column], embedding))


def test_outside_the_image_the_embedding_repeats_its_border_and_fourier_features_go_on():
    lines = jnp.stack(
        [jnp.stack([x, jnp.full(6, 0.3)], axis=-1) for x in (jnp.linspace(1, 3, 6), jnp.linspace(-3, -1, 6))]
    )
    _, variables, sample = variant('no Fourier features')
    image = np.asarray(sample(variables, Z, grid=lines))
    CLOSE(image, np.repeat(image[:, :, :1], 6, axis=2))
    _, variables, sample = variant('no embedding')
    assert np.ptp(sample(variables, Z, grid=lines), axis=2).min() > 1e-3


def test_a_panorama_closes_without_a_seam_and_turns_with_its_coordinates():
    _, variables, sample = variant('cylinder')
    grid = coords.panorama_grid(4, 24)
    panorama = np.asarray(sample(variables, Z, grid=grid))
    CLOSE(sample(variables, Z, grid=grid + jnp.array([2.0, 0.0])[None, None]), panorama, atol=1e-4)
    CLOSE(sample(variables, Z, grid=jnp.roll(grid, 5, axis=1)), np.roll(panorama, 5, axis=2))
    across = coords.cylinder_crop(4, 8, grid[0, 20, 0], 8 / 24)
    CLOSE(sample(variables, Z, grid=across), np.roll(panorama, 4, axis=2)[:, :, :8], atol=1e-4)
    near = jnp.stack([jnp.array([1 - 1e-6, -1 + 1e-6]), jnp.array([0.1, 0.1])], axis=-1)
    at_seam = np.asarray(sample(variables, Z, grid=near))
    CLOSE(at_seam[:, 0], at_seam[:, 1], atol=1e-3)
    steps = np.abs(np.diff(panorama, axis=2, append=panorama[:, :, :1])).mean(axis=(0, 1, 3))
    assert steps[-1] < 2 * steps[:-1].mean()
    _, flat_variables, flat_sample = variant('skip')
    flat = flat_sample(flat_variables, Z, grid=near)
    assert np.abs(flat[:, 0] - flat[:, 1]).max() > 0.1


def test_styles_on_opposite_sides_of_a_cylinder_blend_continuously():
    model, variables, sample = variant('cylinder')
    grid = coords.panorama_grid(2, 24)
    w = cips.Generator(model).apply(variables, Z, method='map')
    share = coords.around(grid)[None, ..., None]
    blend = (1 - share) * w[:, None, None] + share * w[::-1, None, None]
    CLOSE(blend[:, :, 12], np.repeat(w[:, None], 2, axis=1))
    CLOSE(blend[:, :, 0], np.repeat(w[::-1, None], 2, axis=1))
    CLOSE(blend[:, :, 6], np.repeat((w + w[::-1])[:, None] / 2, 2, axis=1))
    CLOSE(share[0, ..., 0], coords.around(grid + 2.0 * jnp.array([1.0, 0.0])[None, None]), atol=1e-4)
    image = blended(model, variables, blend, grid)
    CLOSE(image[:, :, 12], sample(variables, Z, grid=grid[:, 12]))
    CLOSE(image[:, :, 0], sample(variables, Z[::-1], grid=grid[:, 0]))
