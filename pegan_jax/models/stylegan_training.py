"""The training of StyleGAN2, StyleGAN3 (Karras et al. 2020 and 2021) and CREPS: losses, regularisers, their assembly.

Losses see a model through `Networks`, pure functions of its parameters. Its configuration has at least what `check`
reads.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pegan_jax import augment, coords, losses, ops, optim
from pegan_jax.gan import GAN, Sampler, Stage, Update, fewer_rows, labels_of, latents, sample_keys, sample_normal
from pegan_jax.models.discriminator import Discriminator, num_halvings, widths
from pegan_jax.settings import ConfigError, UserError, at_least, check_labels

# Fields that change how a model is trained, not what it is: a run may change them between launches.
TRAINING_FIELDS = frozenset(
    'w_avg_beta mbstd_group_size freeze_layers r1_gamma r1_interval pl_weight pl_interval pl_batch_shrink '
    'pl_decay style_mixing_prob blur_init_sigma blur_fade_kimg ema_kimg ema_rampup num_fp16_res dtype '
    'augment augment_pipe augment_p ada_target ada_kimg'.split()
)


def check_widths(model: Any, prefix: str = '') -> None:
    """Raises ConfigError unless all layers of a network have channels; prefix: '', or 'd_' for the discriminator."""
    at_least(model, f'{prefix}channel_max', 1)
    side, name = 4 * 2 ** num_halvings(model.size), f'{prefix}channel_base'
    if getattr(model, name) < side:
        raise ConfigError(
            f'model.{name}={getattr(model, name)} leaves no channel at {side} pixels; use at least {side}.'
        )


def check_channels(model: Any, prefix: str = '') -> None:
    """Raises ConfigError unless there is one explicit width for every level, or none; prefix as in `check_widths`."""
    explicit, levels = getattr(model, f'{prefix}channels'), num_halvings(model.size) + 1
    if explicit is not None and (len(explicit) != levels or min(explicit) < 1):
        raise ConfigError(f'model.{prefix}channels={explicit} must be {levels} positive widths, from 4 pixels up.')


def check(model: Any) -> None:
    """Checks the fields of a configuration that training and the discriminator read. Raises ConfigError."""
    try:
        num_halvings(model.size)
    except ValueError as error:
        raise ConfigError(f'model.img_resolution={model.img_resolution}: {error}') from None
    check_widths(model, 'd_')
    check_channels(model, 'd_')
    for name in (
        'z_dim', 'w_dim', 'mapping_layers', 'd_mapping_layers', 'mbstd_group_size', 'r1_interval', 'pl_batch_shrink',
    ):  # fmt: skip
        at_least(model, name, 1)
    if not 0 <= model.w_avg_beta < 1:
        raise ConfigError(f'model.w_avg_beta={model.w_avg_beta} must lie in [0, 1); published: 0.998.')
    for name in (
        'c_dim', 'freeze_layers', 'pl_weight', 'pl_interval', 'blur_init_sigma', 'num_fp16_res', 'augment_p',
    ):  # fmt: skip
        at_least(model, name, 0)
    for name in ('style_mixing_prob', 'pl_decay'):
        if not 0 <= getattr(model, name) <= 1:
            raise ConfigError(f'model.{name}={getattr(model, name)} must lie in [0, 1].')
    if model.pl_weight > 0 and model.pl_interval < 1:
        raise ConfigError(f'model.pl_weight={model.pl_weight} needs model.pl_interval of at least 1; published: 4.')
    if model.r1_gamma is not None:
        at_least(model, 'r1_gamma', 0)
    for name in ('conv_clamp', 'ema_kimg', 'ema_rampup', 'blur_fade_kimg', 'ada_kimg'):
        if getattr(model, name) is not None and not getattr(model, name) > 0:
            raise ConfigError(f'model.{name}={getattr(model, name)} must be positive, or None.')
    if not -1 < model.ada_target < 1:
        raise ConfigError(f'model.ada_target={model.ada_target} is a mean of signs, in (-1, 1); published: 0.6.')
    if model.augment == 'noaug' and model.augment_p:
        raise ConfigError(f"model.augment_p={model.augment_p} needs model.augment='fixed' or 'ada'.")
    if model.augment == 'fixed' and not 0 < model.augment_p <= 1:
        raise ConfigError(f"model.augment_p={model.augment_p} with model.augment='fixed' must lie in (0, 1]; try 0.2.")
    if model.augment != 'noaug':
        try:
            augment.check_channels(augment.PRESETS[model.augment_pipe], model.img_channels)
        except UserError as error:
            raise ConfigError(f'model.augment_pipe={model.augment_pipe!r}: {error}') from None
    most = len(discriminator(model).convolutions)
    if model.freeze_layers > most:
        raise ConfigError(
            f'model.freeze_layers={model.freeze_layers}: the discriminator has {most} that can be frozen.'
        )


def validate(config: Any) -> None:
    """Checks a whole run configuration of StyleGAN2, StyleGAN3 or CREPS. Raises ConfigError."""
    data, model = config.data, config.model
    if data.size != model.size:
        raise ConfigError(
            f'data.resolution={data.resolution} differs from model.img_resolution={model.img_resolution}: '
            'set both to the same size.'
        )
    check_labels(data, model.c_dim)
    if model.freeze_layers and config.train.init_from is None:
        raise ConfigError(
            f'model.freeze_layers={model.freeze_layers} needs train.init_from: frozen layers would stay random.'
        )


# What the losses see --------------------------------------------------------------------------------------------------


class Networks(NamedTuple):
    """What the losses need of a model: pure functions.

    map: (params, buffers, z [b, z_dim], c [b, c_dim] or None, update_emas) -> (ws [b, num_ws, w_dim], buffers), of 'g'.
    synthesise: (params, buffers, ws, keys [b], update_emas, offset [b, 2] or None, scale [b] or None) -> (images
      [b, H, W, img_channels], buffers), of 'g'; the keys draw the noise of a model that has any; offset and scale say
      what is shown, as in `Latents`.
    score: (params, buffers, images, c, batches=1) -> logits [b], of 'd': `functools.partial(score, model)`.
    exact: the same functions in float32, for derivatives of derivatives; None: these are in float32.
    """

    map: Callable
    synthesise: Callable
    score: Callable
    exact: 'Networks | None' = None


class Latents(NamedTuple):
    """Everything random about a batch of generated images.

    z, other [b, z_dim]: latents, and those that style mixing takes the later layers from; c: labels [b, c_dim] or None.
    keys [b]: those of the noise. mixing: key that decides where to mix, one for the whole batch.
    offset [b, 2]: pixels (right, down) from the frame to what images show, as for real ones; None: the frame.
    scale [b]: how many times finer than the frame images are, as for real ones; None: no finer.
    """

    z: jax.Array
    other: jax.Array
    c: jax.Array | None
    keys: jax.Array
    mixing: jax.Array
    offset: jax.Array | None = None
    scale: jax.Array | None = None


class Lens(NamedTuple):
    """What stands between images and D; R1 still differentiates with respect to the images.

    sigma: that of the blur, [], or None for none. keys [b], p []: those of the augmentation and its probability, or
    None for none. grid [b or 1, H, W, 2]: coordinates that D sees beside the images, as before the lens; None: it sees
    none.
    """

    sigma: jax.Array | None = None
    keys: jax.Array | None = None
    p: jax.Array | float = 0.0
    grid: jax.Array | None = None

    @property
    def second(self) -> 'Lens':
        """The lens for a second batch beside the first one, with its own draws."""
        keys = None if self.keys is None else jax.vmap(jax.random.fold_in, in_axes=(0, None))(self.keys, 1)
        return self._replace(keys=keys)


CLEAR = Lens()


def networks(model: Any, generator: Callable, synthesise: Callable) -> Networks:
    """The functions of a model.

    Args:
      generator: configuration -> Linen module with the methods `map` and `synthesise`.
      synthesise: (module, params, buffers, ws, keys, update_emas, offset, scale) -> (images, buffers), see `Networks`.
    """
    module = generator(model)

    def mapped(params: dict, buffers: dict, z: jax.Array, c: jax.Array | None, update_emas: bool) -> tuple:
        variables = {'params': params, 'buffers': buffers}
        ws, new = module.apply(variables, z, c, update_emas=update_emas, method='map', mutable=['buffers'])
        return ws, new['buffers']

    exact = None
    if model.dtype != 'float32':
        exact = networks(dataclasses.replace(model, dtype='float32'), generator, synthesise)
    return Networks(mapped, functools.partial(synthesise, module), functools.partial(score, model), exact)


def discriminator(model: Any) -> Discriminator:
    """The Linen module of a StyleGAN2, StyleGAN3 or CREPS configuration."""
    return Discriminator(
        (model.d_channels or widths(model.size, model.d_channel_base, model.d_channel_max))[::-1],
        model.d_architecture,
        mapping_layers=model.d_mapping_layers,
        mbstd_group_size=model.mbstd_group_size,
        conv_clamp=model.conv_clamp,
        freeze_layers=model.freeze_layers,
        num_fp16_res=model.num_fp16_res,
        dtype=jnp.dtype(model.dtype),
    )


def score(
    model: Any, params: dict, buffers: dict, images: jax.Array, c: jax.Array | None, batches: int = 1
) -> jax.Array:
    """Logits [b] of images [b, H, W, img_channels], so many batches, and labels [b, c_dim] or None."""
    return discriminator(model).apply({'params': params, 'buffers': buffers}, images, c, batches)


def draw_latents(model: Any, batch: dict, key: jax.Array) -> Latents:
    """New latents for a batch; fakes have the labels of its images, which are in random order."""
    z_key, other_key, noise_key, mixing_key = jax.random.split(key, 4)
    z, other = (sample_normal(k, batch['index'], (model.z_dim,)) for k in (z_key, other_key))
    keys = sample_keys(noise_key, batch['index'])
    c, offset, scale = labels_of(batch, model.c_dim), batch.get('offset'), batch.get('scale')
    return Latents(z, other, c, keys, mixing_key, offset, scale)


def blur_sigma(model: Any, nimg: Any, batch_size: int) -> Any:
    """Width of the blur in pixels after nimg images: blur_init_sigma (1 - nimg / (1000 blur_fade_kimg)), at least 0."""
    fade_kimg = batch_size * 200 / 32 if model.blur_fade_kimg is None else model.blur_fade_kimg
    maximum = jnp.maximum if isinstance(nimg, jax.Array) else max  # on the host, nothing is asked of a device
    return model.blur_init_sigma * maximum(1 - nimg / (1000 * fade_kimg), 0)


def blur(images: jax.Array, sigma: jax.Array, max_sigma: float) -> jax.Array:
    """Images [b, H, W, C] filtered with 2^-(i / sigma)^2 for |i| <= floor(3 sigma), normalised; zeros outside.

    The base is 2, as in NVlabs/stylegan3 `StyleGAN2Loss.run_D`. sigma, at most max_sigma, may be traced: taps beyond
    its radius are zero.
    """
    radius = math.floor(3 * max_sigma)
    i = jnp.arange(-radius, radius + 1)
    taps = jnp.exp2(-jnp.square(i / jnp.maximum(sigma, 1e-8))) * (jnp.abs(i) <= jnp.floor(3 * sigma))
    return ops.filter2d(images, taps / jnp.sum(taps))


def mix_styles(key: jax.Array, ws: jax.Array, other: jax.Array, prob: float) -> jax.Array:
    """ws [b, num_ws, w_dim] whose entries from a random layer on are those of `other`, with probability `prob`.

    The layer, uniform in 1 .. num_ws - 1, is the same for the whole batch.
    """
    mix_key, layer_key = jax.random.split(key)
    num_ws = ws.shape[1]
    layer = jax.random.randint(layer_key, (), 1, num_ws)
    cutoff = jnp.where(jax.random.uniform(mix_key) < prob, layer, num_ws)
    return jnp.where(jnp.arange(num_ws)[None, :, None] < cutoff, ws, other)


def window_grid(size: tuple[int, int], offset: jax.Array | None) -> jax.Array:
    """Coordinates [b or 1, H, W, 2] of windows `offset` [b, 2] pixels from the frame, or of the frame itself."""
    grid = coords.grid(*size)[None]
    return grid if offset is None else grid + coords.pixel_shift(offset, size)[:, None, None]


def styles(
    model: Any, networks: Networks, params: dict, buffers: dict, latents: Latents, update_emas: bool = False
) -> tuple[jax.Array, dict]:
    """ws [b, num_ws, w_dim] of latents, mixed if the model says so, and G's buffers."""
    ws, buffers = networks.map(params, buffers, latents.z, latents.c, update_emas)
    if model.style_mixing_prob > 0:
        other, _ = networks.map(params, buffers, latents.other, latents.c, False)
        ws = mix_styles(latents.mixing, ws, other, model.style_mixing_prob)
    return ws, buffers


def seen(model: Any, images: jax.Array, lens: Lens) -> jax.Array:
    """Images [b, H, W, img_channels] as D sees them: blurred, then augmented, with coordinates if it sees any."""
    if lens.sigma is not None:
        images = blur(images, lens.sigma, model.blur_init_sigma)
    if lens.keys is not None:
        pipe = augment.PRESETS[model.augment_pipe]
        images = augment.augment(pipe, images, augment.draw(pipe, lens.keys, images.shape[1:], lens.p))
    if lens.grid is not None:
        images = jnp.concatenate([images, jnp.broadcast_to(lens.grid, (*images.shape[:3], 2))], axis=-1)
    return images


# Losses ---------------------------------------------------------------------------------------------------------------


def g_main(
    model: Any,
    networks: Networks,
    params: dict,
    g_buffers: dict,
    d: tuple[dict, dict],
    latents: Latents,
    lens: Lens = CLEAR,
    beside: Callable | None = None,
) -> tuple[jax.Array, dict]:
    """The generator's non-saturating logistic loss; also metrics.

    Args:
      d: (params, buffers) of the discriminator.
      beside: images [b, H, W, img_channels] -> (a further term of the loss, metrics); None: no such term.
    """
    ws, _ = styles(model, networks, params, g_buffers, latents)
    fake, _ = networks.synthesise(params, g_buffers, ws, latents.keys, False, latents.offset, latents.scale)
    loss = losses.logistic_g(networks.score(*d, seen(model, fake, lens), latents.c))
    if beside is None:
        return loss, {'loss/g': loss}
    term, metrics = beside(fake)
    return loss + term, {'loss/g': loss, **metrics}


def g_pl(
    model: Any,
    networks: Networks,
    params: dict,
    g_buffers: dict,
    mean: jax.Array,
    latents: Latents,
    noise: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, dict]]:
    """pl_weight times the path length penalty.

    Args:
      mean: the running mean of path lengths, [].
      noise: standard normal, of the shape of the images.
    Returns: the loss, the new mean, and metrics.
    """
    ws, _ = styles(model, networks, params, g_buffers, latents)
    lengths = losses.path_lengths(
        lambda ws: networks.synthesise(params, g_buffers, ws, latents.keys, False, latents.offset, latents.scale)[0],
        ws,
        noise,
    )
    penalty, mean = losses.path_length_penalty(lengths, mean, model.pl_decay)
    return model.pl_weight * penalty, (mean, {'loss/pl': penalty, 'path_length': mean})


def d_main(
    model: Any,
    networks: Networks,
    params: dict,
    d_buffers: dict,
    g: tuple[dict, dict],
    real: jax.Array,
    c: jax.Array | None,
    latents: Latents,
    lens: Lens = CLEAR,
) -> tuple[jax.Array, tuple[dict, jax.Array, dict]]:
    """The discriminator's logistic loss of real and generated images, which it sees in one pass.

    Args:
      g: (params, buffers) of the generator.
      real, c: images [b, H, W, img_channels] in [-1, 1] and their labels.
    Returns: the loss, G's buffers with their running means updated, the logits of the real images, and metrics.
    """
    ws, g_buffers = styles(model, networks, *g, latents, update_emas=True)
    fake, g_buffers = networks.synthesise(g[0], g_buffers, ws, latents.keys, True, latents.offset, latents.scale)
    both = jnp.concatenate([seen(model, real, lens), seen(model, fake, lens.second)])
    labels = None if c is None else jnp.concatenate([c, latents.c])
    real_logits, fake_logits = jnp.split(networks.score(params, d_buffers, both, labels, batches=2), 2)
    loss = losses.logistic_d(real_logits, fake_logits)
    metrics = {'loss/d': loss, 'logits/real': jnp.mean(real_logits), 'logits/fake': jnp.mean(fake_logits)}
    return loss, (g_buffers, real_logits, metrics)


def d_r1(
    model: Any,
    networks: Networks,
    params: dict,
    d_buffers: dict,
    real: jax.Array,
    c: jax.Array | None,
    gamma: float,
    lens: Lens = CLEAR,
) -> tuple[jax.Array, tuple[jax.Array, dict]]:
    """gamma / 2 times the R1 penalty with respect to the images before the lens; also their logits, and metrics."""
    penalty, logits = losses.r1_penalty_and_logits(
        lambda x: networks.score(params, d_buffers, seen(model, x, lens), c), real
    )
    return gamma / 2 * penalty, (logits, {'loss/r1': penalty})


# Assembly -------------------------------------------------------------------------------------------------------------


def sampler(model: Any, module: Any, options: tuple[str, ...], view: Callable | None) -> Sampler:
    """How images are made from seeds; options, view: see `Sampler`, for the module's method `synthesise`."""

    def mapped(variables: dict, z: jax.Array, c: jax.Array | None) -> jax.Array:
        return module.apply(variables, z, c, method='map')[:, 0]

    def synthesise(variables: dict, ws: jax.Array, **options: Any) -> jax.Array:
        return module.apply(variables, ws, **options, method='synthesise')

    return Sampler(
        draw=functools.partial(latents, z_dim=model.z_dim),
        synthesise=synthesise,
        map=mapped,
        w_avg=lambda variables: variables['buffers']['mapping']['w_avg'],
        num_ws=module.num_ws,
        options=options,
        view=view,
    )


def assemble(
    config: Any,
    generator: Callable,
    synthesise: Callable,
    options: tuple[str, ...],
    view: Callable | None = None,
    d_sees_coords: bool = False,
    beside: Callable | None = None,
) -> GAN:
    """The GAN of a StyleGAN2, StyleGAN3 or CREPS run configuration: G main, G path length, D main, D R1, in this order.

    Args:
      generator, synthesise: as for `networks`; options, view: as for `sampler`.
      d_sees_coords: D's input is the image beside its coordinates x and y.
      beside: (state, latents, images) -> (a term beside G's main loss, metrics); None: there is none.
    """
    model, batch_size = config.model, config.train.batch_size
    height, width = model.size
    nets = networks(model, generator, synthesise)
    exact = nets.exact or nets
    adaptive = model.augment == 'ada'
    gamma = 0.0002 * height * width / batch_size if model.r1_gamma is None else model.r1_gamma
    ema_kimg = batch_size * 10 / 32 if model.ema_kimg is None else model.ema_kimg
    ada_kimg = (500.0 if config.train.init_from is None else 100.0) if model.ada_kimg is None else model.ada_kimg

    def init(key: jax.Array) -> tuple[dict, dict, dict]:
        g_key, d_key = jax.random.split(key)
        images = jnp.zeros((1, height, width, model.img_channels + 2 * d_sees_coords))
        c = jnp.zeros((1, model.c_dim)) if model.c_dim else None
        g = generator(model).init(g_key, jnp.zeros((1, model.z_dim)), c)
        both = {'g': g, 'd': discriminator(model).init(d_key, images, c)}
        params, buffers = ({net: both[net].get(part, {}) for net in both} for part in ('params', 'buffers'))
        stats = {'pl_mean': jnp.float32(0)} if model.pl_weight > 0 else {}
        return params, buffers, stats | (augment.initial_stats(model.augment_p) if adaptive else {})

    def lens(state: Any, batch: dict, key: jax.Array, stage: Stage) -> Lens:
        sigma = blur_sigma(model, state.nimg, batch_size) if 'blur' in stage.flags else None
        grid = window_grid(model.size, batch.get('offset')) if d_sees_coords else None
        if model.augment == 'noaug':
            return Lens(sigma, grid=grid)
        keys = sample_keys(jax.random.fold_in(key, 0xADA), batch['index'])  # a number that no split of the key has
        return Lens(sigma, keys, state.stats['augment_p'] if adaptive else model.augment_p, grid)

    def counted(state: Any, real_logits: jax.Array) -> dict:
        return {'stats': augment.counted(state.stats, real_logits)} if adaptive else {}

    def net(state: Any, name: str) -> tuple[dict, dict]:
        return state.params[name], state.buffers[name]

    def g_main_loss(params: dict, state: Any, batch: dict, key: jax.Array, stage: Stage) -> tuple:
        fields = {}
        if adaptive:  # here, because it is the first of every step
            stats = augment.adapted(state.stats, state.step, batch_size, model.ada_target, ada_kimg)
            state, fields = state.replace(stats=stats), {'stats': stats}
        latents, seen = draw_latents(model, batch, key), lens(state, batch, key, stage)
        term = None if beside is None else functools.partial(beside, state, latents)
        loss, metrics = g_main(model, nets, params, state.buffers['g'], net(state, 'd'), latents, seen, term)
        return loss, (fields, metrics | ({'augment_p': seen.p} if adaptive else {}))

    def g_pl_loss(params: dict, state: Any, batch: dict, key: jax.Array, stage: Stage) -> tuple:
        names = ('index', 'label', 'offset', 'scale')
        few = fewer_rows({name: batch[name] for name in names if name in batch}, model.pl_batch_shrink)
        latents_key, noise_key = jax.random.split(key)
        noise = sample_normal(noise_key, few['index'], (height, width, model.img_channels))
        latents, mean = draw_latents(model, few, latents_key), state.stats['pl_mean']
        loss, (mean, metrics) = g_pl(model, exact, params, state.buffers['g'], mean, latents, noise)
        return loss, ({'stats': {**state.stats, 'pl_mean': mean}}, metrics)

    def d_main_loss(params: dict, state: Any, batch: dict, key: jax.Array, stage: Stage) -> tuple:
        latents, seen = draw_latents(model, batch, key), lens(state, batch, key, stage)
        loss, (g_buffers, real_logits, metrics) = d_main(
            model, nets, params, state.buffers['d'], net(state, 'g'), batch['image'], latents.c, latents, seen
        )
        return loss, ({'buffers': {**state.buffers, 'g': g_buffers}, **counted(state, real_logits)}, metrics)

    def d_r1_loss(params: dict, state: Any, batch: dict, key: jax.Array, stage: Stage) -> tuple:
        c, seen = labels_of(batch, model.c_dim), lens(state, batch, key, stage)
        loss, (logits, metrics) = d_r1(model, exact, params, state.buffers['d'], batch['image'], c, gamma, seen)
        return loss, (counted(state, logits), metrics)

    def stage_at(step: int, nimg: int, seed: int) -> Stage:
        # The blur is for a discriminator that knows nothing yet.
        blurs = config.train.init_from is None and 3 * blur_sigma(model, nimg, batch_size) >= 1
        return Stage(config.data.resolution, flags=('blur',) if blurs else ())

    def adam(lr: float, interval: int) -> optax.GradientTransformation:
        return optax.chain(optim.finite_gradients(), optim.adam(config.optim, lr, interval))

    updates = [
        Update('g', g_main_loss),
        *([Update('g', g_pl_loss, interval=model.pl_interval)] if model.pl_weight > 0 else []),
        Update('d', d_main_loss),
        *([Update('d', d_r1_loss, interval=model.r1_interval)] if gamma > 0 else []),
    ]
    return GAN(
        init=init,
        updates=tuple(updates),
        optimizers={'g': adam(config.optim.g_lr, model.pl_interval), 'd': adam(config.optim.d_lr, model.r1_interval)},
        sampler=sampler(model, generator(model), options, view),
        stage_at=stage_at,
        ema=lambda nimg, step: optim.ema_decay(config.train, nimg, ema_kimg, model.ema_rampup),
        c_dim=model.c_dim,
    )
