"""StyleGAN3 (Karras et al. 2021, arXiv 2106.12423): a generator whose images move as their input coordinates move.

The input is a set of Fourier features on a canvas a little larger than the image. Each layer puts out a signal with a
sampling rate, a cutoff and a transition band that `schedule` fixes. Its nonlinearity runs at a higher rate between two
low-pass filters, so that no frequency arises that the sampling rate cannot carry. Nothing else tells where a pixel is:
a transform of the coordinates moves the scene, and a larger canvas shows more of it.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pegan_jax import coords, encodings, ops
from pegan_jax.augment import Preset
from pegan_jax.filters import lowpass, setup_filter, windowed
from pegan_jax.gan import GAN, size_of
from pegan_jax.layers import EqualDense, MappingNetwork, lrelu
from pegan_jax.models import any_resolution, stylegan_training
from pegan_jax.settings import ConfigError, UserError, at_least, check_types

TRAINING_FIELDS = stylegan_training.TRAINING_FIELDS | {'magnitude_ema_beta', 'teacher_weight'}


@dataclass(frozen=True)
class Config:
    """The model; defaults are StyleGAN3-T; configs/stylegan3.py has R and the published data sets.

    r1_gamma: the R1 term is r1_gamma / 2 times the penalty. It has no default: a good value grows with the number of
      pixels and differs between data sets.
    img_resolution: side, or (height, width), of the training images, both even. The schedule is that of the shorter
      side, which spans one unit of the coordinates; the longer one shows more at the same pixel pitch.
    img_channels: channels of the images, the same as data.channels: 1 is grey, 3 RGB, 4 RGBA.
    z_dim, c_dim, w_dim: sizes of the latent z, of the label (0: none) and of the mapped latent w.
    mapping_layers, lr_multiplier: dense layers of the mapping network and their learning rate relative to the rest.
    w_avg_beta: decay of the running mean of w, per step.
    channel_base, channel_max: a layer of cutoff f has min(channel_base / 2 / f, channel_max) channels.
    num_layers, num_critical: layers before the last one, which gives colours; the last `num_critical` of them keep all
      that their sampling rate can carry.
    flexible_layers: cutoffs grow from layer to layer (T, R); otherwise there are two layers at each rate, 4, 8, ..., as
      in StyleGAN2 (D to H), and first_stopband, last_stopband_rel are not used.
    learned_transform: whether a style turns and moves the input (H, T, R).
    first_cutoff, first_stopband: cutoff and stopband of the input, in cycles per unit.
    last_stopband_rel: stopband of the last layer divided by its cutoff, which is half of the shorter side.
    margin_size: samples of the canvas beyond each border of the image, at the rate of the layer.
    output_scale: factor on the colours.
    num_fp16_res: layers whose rate is among the highest, down to 1 / 2^(num_fp16_res - 1) of the image's, compute in
      `dtype`, and as many resolutions of D.
    conv_kernel: 3 (T) or 1 (R).
    filter_size: taps of a low-pass filter at the lower of its two rates.
    filter_kind: 'kaiser', as published; 'lanczos' (a = 2) and 'gaussian' (0.4 samples) as tried in appendix A, never
      radial; 'bilinear', the [1, 3, 3, 1] of StyleGAN2 for upsample_first (D).
    lrelu_upsampling: rate at which the nonlinearity runs, relative to the higher rate of its input and output.
    upsample_first: a layer that doubles the rate does so before its convolution (D, E), not at its nonlinearity.
    use_radial_filters: radially symmetric downsampling filters, except in the critical layers (R).
    conv_clamp: limit of activations in both networks; None: no limit.
    magnitude_ema_beta: decay, per step, of the running mean square of each layer's input, by which that is divided.
    blur_init_sigma: all that D sees is blurred, at first by this many pixels (R: 10); 0: off.
    d_sees_coords: the discriminator's input is the image beside its coordinates x and y, as data.outside requires; they
      are those of the image before it is augmented.
    scale_layers: hidden layers of the network that tells all layers how fine the pixels are, which patches of
      data.crop='scales' need; see `ScaleMapping`. 0: no such network.
    teacher_weight: with data.crop='scales', weight of the distance from what the model of train.init_from shows for the
      same latents, at its pixels; that model is kept unchanged beside this one (published: 5). 0: no such term.
    pl_weight, style_mixing_prob: off in all published runs; tried in the paper's appendix A.
    The rest as in `stylegan2.Config`; dtype is that of the layers that `num_fp16_res` names, everything else is
    float32.
    """

    r1_gamma: float
    img_resolution: int | tuple[int, int] = 256
    img_channels: Literal[1, 3, 4] = 3
    z_dim: int = 512
    c_dim: int = 0
    w_dim: int = 512
    mapping_layers: int = 2
    lr_multiplier: float = 0.01
    w_avg_beta: float = 0.998
    channel_base: int = 32768
    channel_max: int = 512
    num_layers: int = 14
    num_critical: int = 2
    flexible_layers: bool = True
    learned_transform: bool = True
    first_cutoff: float = 2.0
    first_stopband: float = 2**2.1
    last_stopband_rel: float = 2**0.3
    margin_size: int = 10
    output_scale: float = 0.25
    num_fp16_res: int = 4
    conv_kernel: int = 3
    filter_size: int = 6
    filter_kind: Literal['kaiser', 'lanczos', 'gaussian', 'bilinear'] = 'kaiser'
    lrelu_upsampling: int = 2
    upsample_first: bool = False
    use_radial_filters: bool = False
    conv_clamp: float | None = 256.0
    magnitude_ema_beta: float = 0.999
    d_architecture: Literal['resnet', 'skip', 'orig'] = 'resnet'
    d_channel_base: int = 32768
    d_channel_max: int = 512
    d_channels: tuple[int, ...] | None = None
    d_mapping_layers: int = 8
    d_sees_coords: bool = False
    mbstd_group_size: int = 4
    scale_layers: int = 0
    teacher_weight: float = 0.0
    freeze_layers: int = 0
    r1_interval: int = 16
    pl_weight: float = 0.0
    pl_interval: int = 0
    pl_batch_shrink: int = 2
    pl_decay: float = 0.01
    style_mixing_prob: float = 0.0
    blur_init_sigma: float = 0.0
    blur_fade_kimg: float | None = None
    augment: Literal['noaug', 'ada', 'fixed'] = 'noaug'
    augment_pipe: Preset = 'bgc'
    augment_p: float = 0.0
    ada_target: float = 0.6
    ada_kimg: float | None = None
    ema_kimg: float | None = None
    ema_rampup: float | None = 0.05
    dtype: Literal['float32', 'bfloat16'] = 'float32'

    def __post_init__(self) -> None:
        check_types(self)
        for name in (
            'channel_base', 'channel_max', 'num_layers', 'conv_kernel',
            'filter_size', 'lrelu_upsampling',
        ):  # fmt: skip
            at_least(self, name, 1)
        for name in ('num_critical', 'margin_size', 'scale_layers', 'teacher_weight'):
            at_least(self, name, 0)
        for name in ('lr_multiplier', 'first_cutoff', 'output_scale'):
            if getattr(self, name) <= 0:
                raise ConfigError(f'model.{name}={getattr(self, name)} must be positive.')
        if not 0 <= self.magnitude_ema_beta < 1:
            raise ConfigError(f'model.magnitude_ema_beta={self.magnitude_ema_beta} must lie in [0, 1).')
        stylegan_training.check(self)
        try:
            check_size(self.size)
        except ValueError as error:
            raise ConfigError(f'model.img_resolution={self.img_resolution}: {error}') from None
        if self.num_critical >= self.num_layers + (not self.flexible_layers):
            raise ConfigError(
                f'model.num_critical={self.num_critical} must be less than model.num_layers={self.num_layers}; without '
                'model.flexible_layers it may be as many.'
            )
        if self.filter_kind == 'bilinear' and not (self.upsample_first and self.lrelu_upsampling == 1):
            raise ConfigError(
                "model.filter_kind='bilinear' only doubles: it needs model.upsample_first=True and "
                f'model.lrelu_upsampling=1, got {self.upsample_first} and {self.lrelu_upsampling}.'
            )
        if not self.first_cutoff < self.resolution / 2:
            raise ConfigError(
                f'model.first_cutoff={self.first_cutoff} must be less than half of the shorter side of '
                f'model.img_resolution={self.img_resolution}.'
            )
        if self.channel_base <= self.resolution / 2:
            raise ConfigError(
                f'model.channel_base={self.channel_base} leaves no channel at a cutoff of {self.resolution / 2:g}; '
                f'use at least {self.resolution // 2 + 1}.'
            )
        if not self.first_stopband > self.first_cutoff:
            raise ConfigError(
                f'model.first_stopband={self.first_stopband} must exceed model.first_cutoff={self.first_cutoff}.'
            )
        if not self.last_stopband_rel > 1:
            raise ConfigError(f'model.last_stopband_rel={self.last_stopband_rel} must exceed 1.')
        rate = schedule(self)[0].sampling_rate
        if self.flexible_layers and not rate > 2 * self.first_cutoff:
            raise ConfigError(
                f'model.first_stopband={self.first_stopband} with model.img_resolution={self.img_resolution} leaves '
                f'the input a sampling rate of {rate:g}, which cannot carry model.first_cutoff={self.first_cutoff}; '
                'raise the stopband.'
            )
        if not self.flexible_layers and not rate >= 2 * self.first_cutoff:
            raise ConfigError(
                f'model.num_layers={self.num_layers}, two for each sampling rate, begin at a rate of {rate:g}, which '
                f'cannot carry model.first_cutoff={self.first_cutoff}; use fewer layers.'
            )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the training images."""
        return size_of(self.img_resolution)

    @property
    def resolution(self) -> int:
        """The shorter side of the training images: pixels per unit of the coordinates."""
        return min(self.size)


def validate(config: Any) -> None:
    """Checks a whole run configuration. Raises ConfigError."""
    stylegan_training.validate(config)
    model, crop = config.model, config.data.crop
    if crop == 'scales' and model.d_sees_coords:
        raise ConfigError(
            "model.d_sees_coords=True with data.crop='scales': the discriminator of patches sees no coordinates; use "
            'False.'
        )
    for name in ('scale_layers', 'teacher_weight'):
        if getattr(model, name) and crop != 'scales':
            raise ConfigError(
                f'model.{name}={getattr(model, name)} with data.crop={crop!r}: all images have one scale, which '
                f"teaches nothing of others; set data.crop='scales', or model.{name}=0."
            )
    if model.teacher_weight and config.train.init_from is None:
        raise ConfigError(
            f'model.teacher_weight={model.teacher_weight} needs a teacher: set train.init_from to a run, or a model, '
            'that learned whole images of this size, or model.teacher_weight=0.'
        )


def check_size(size: tuple[int, int]) -> None:
    """Raises ValueError unless both sides are positive and even.

    An odd image would be centred on a pixel instead of between two, half a pixel off from all others.
    """
    if min(size) < 2 or any(side % 2 for side in size):
        even = ' x '.join(str(max(side + side % 2, 2)) for side in size)
        raise UserError(f'{size[0]} x {size[1]} pixels; both sides must be even and at least 2, for example {even}.')


# Schedule -------------------------------------------------------------------------------------------------------------


class Signal(NamedTuple):
    """What a layer puts out; frequencies are in cycles, or samples, per unit, the training images' shorter side."""

    channels: int
    sampling_rate: float
    cutoff: float
    half_width: float  # of the transition band; the cutoff is its middle


def schedule(model: Config) -> list[Signal]:
    """The signals of layers 0, ..., num_layers; the last one is the image."""
    rates, cutoffs, half_widths = (_flexible if model.flexible_layers else _rigid)(model)
    channels = np.rint(np.minimum(model.channel_base / 2 / cutoffs, model.channel_max)).astype(int)
    channels[-1] = model.img_channels
    columns = (channels.tolist(), rates.tolist(), cutoffs.tolist(), half_widths.tolist())
    return [Signal(*row) for row in zip(*columns, strict=True)]


def input_signal(model: Config) -> Signal:
    """What the input block puts out: a signal at the rate of layer 0, with frequencies up to first_cutoff."""
    return schedule(model)[0]._replace(cutoff=model.first_cutoff)


def _rigid(model: Config) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rates, cutoffs and half widths of StyleGAN2's progression (Karras et al. 2021, section 3.2, D to H).

    There are two layers at each rate s; the last rate is R. The half width of a transition band is (sqrt 2 - 1) s / 2;
    the cutoff is s / 2 minus that, and s / 2 in critical layers.
    """
    i = np.arange(model.num_layers + 1)
    rates = model.resolution * 0.5 ** (np.maximum(model.num_layers - 1 - i, 0) // 2)
    half_widths = (math.sqrt(2) - 1) * rates / 2
    return rates, rates / 2 - np.where(i < model.num_layers - model.num_critical, half_widths, 0), half_widths


def _flexible(model: Config) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rates, cutoffs and half widths (Karras et al. 2021, section 3.2 "flexible layer specifications").

    With R the shorter side of the training images and e_i = min(i / (num_layers - num_critical), 1), cutoffs and
    stopbands grow geometrically: f_i = first_cutoff ((R / 2) / first_cutoff)^e_i, and likewise from first_stopband to
    last_stopband_rel R / 2. The sampling rate is the smallest R / 2^k that carries the stopband, at most R.
    """
    half = model.resolution / 2
    e = np.minimum(np.arange(model.num_layers + 1) / (model.num_layers - model.num_critical), 1)
    cutoffs = model.first_cutoff * (half / model.first_cutoff) ** e
    stopbands = model.first_stopband * (half * model.last_stopband_rel / model.first_stopband) ** e
    # Relative to R, so that any R works; for powers of two these are the published rates, also powers of two.
    rates = model.resolution * np.exp2(np.ceil(np.log2(np.minimum(2 * stopbands / model.resolution, 1))))
    return rates, cutoffs, np.maximum(stopbands, rates / 2) - cutoffs


def canvas(model: Config, index: int, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) in samples of the signal of layer `index` for images of a size.

    A rate of s samples per unit needs s H / R of them, rounded up to an even number so that all canvases have the same
    centre, plus the margin on both sides; the last two layers have no margin.
    """
    if index >= model.num_layers - 1:
        return size
    scale = schedule(model)[index].sampling_rate / model.resolution
    height, width = (2 * math.ceil(side * scale / 2) + 2 * model.margin_size for side in size)
    return height, width


class Layer(NamedTuple):
    """What distinguishes a layer: its input and output signals, and where it stands.

    name: L{index}_{canvas of the shorter side}_{channels}, as in the official checkpoints.
    critical: one of the last `num_critical` or later: its downsampling filter is never radial.
    to_rgb: the last one: a 1x1 convolution without demodulation, resampling and nonlinearity.
    low_precision: it computes in `dtype`.
    """

    name: str
    source: Signal
    target: Signal
    critical: bool = False
    to_rgb: bool = False
    low_precision: bool = False


def layers(model: Config) -> list[Layer]:
    """Layers 0, ..., num_layers; the first one takes the output of the input block."""
    signals, square = schedule(model), (model.resolution, model.resolution)
    sources = [input_signal(model), *signals[:-1]]
    return [
        Layer(
            name=f'L{i}_{canvas(model, i, square)[0]}_{target.channels}',
            source=sources[i],
            target=target,
            critical=i >= model.num_layers - model.num_critical,
            to_rgb=i == model.num_layers,
            low_precision=target.sampling_rate * 2**model.num_fp16_res > model.resolution,
        )
        for i, target in enumerate(signals)
    ]


class Resampling(NamedTuple):
    """Factors before a layer's convolution, to and from its nonlinearity's rate; filters, None for a factor of 1."""

    first: int
    up: int
    down: int
    first_filter: np.ndarray | None
    up_filter: np.ndarray | None
    down_filter: np.ndarray | None

    def padding(self, before: tuple[int, int], after: tuple[int, int]) -> tuple[int, int, int, int]:
        """(left, right, top, bottom) for `ops.filtered_lrelu` to turn one size into another, with the same centre."""
        sides = []
        for n, target in zip(before[::-1], after[::-1], strict=True):
            taps = sum(1 if f is None else len(f) for f in (self.up_filter, self.down_filter))
            total = (target - 1) * self.down + 1 - n * self.up + taps - 2
            sides += [(total + self.up) // 2, total - (total + self.up) // 2]
        return tuple(sides)


def resampling(model: Config, layer: Layer) -> Resampling:
    """The rate of the nonlinearity is `lrelu_upsampling` times the higher one of the two signals.

    The filter before it keeps the band of the source, the one after it opens that of the target. With upsample_first,
    a layer reaches its target's rate before its convolution.
    """
    (source, target), rates = layer[1:3], [s.sampling_rate for s in layer[1:3]]
    early = max(rates) if model.upsample_first else source.sampling_rate
    rate = max(rates) * (1 if layer.to_rgb else model.lrelu_upsampling)
    radial = model.use_radial_filters and not layer.critical

    def plan(signal: Signal, low: float, high: float, radial: bool = False) -> tuple[int, np.ndarray | None]:
        factor = round(high / low)
        taps = model.filter_size * factor if factor > 1 and not layer.to_rgb else 1
        return factor, _filter(model, taps, signal, high, radial)

    stages = plan(source, rates[0], early), plan(source, early, rate), plan(target, rates[1], rate, radial)
    return Resampling(*(factor for factor, _ in stages), *(f for _, f in stages))


def _filter(model: Config, taps: int, signal: Signal, rate: float, radial: bool) -> np.ndarray | None:
    """A filter that keeps a signal's band, at a rate."""
    if model.filter_kind == 'kaiser':
        return lowpass(taps, signal.cutoff, 2 * signal.half_width, rate, radial=radial)
    if model.filter_kind == 'bilinear':
        return None if taps == 1 else setup_filter((1, 3, 3, 1), separable=True)
    return windowed(taps, signal.cutoff, rate, model.filter_kind)


# Generator ------------------------------------------------------------------------------------------------------------


class SynthesisInput(nn.Module):
    """Fourier features, moved as the style says, and a learned mix of them: w [N, w_dim] -> [N, *size, channels].

    Buffers: freqs [channels, 2], phases [channels], and transform [3, 3], the user's, when none is given.
    """

    signal: Signal
    learned_transform: bool = True

    @nn.compact
    def __call__(self, w: jax.Array, size: tuple[int, int], transform: jax.Array | None = None) -> jax.Array:
        channels, bandwidth = self.signal.channels, self.signal.cutoff

        def draw(part: int) -> jax.Array:
            return encodings.sg3_frequencies(self.make_rng('params'), channels, bandwidth)[part]

        freqs = self.variable('buffers', 'freqs', draw, 0).value
        phases = self.variable('buffers', 'phases', draw, 1).value
        stored = self.variable('buffers', 'transform', lambda: jnp.eye(3)).value
        t = jnp.broadcast_to(jnp.array([[1.0, 0.0, 0.0, 0.0]]), (w.shape[0], 4))
        if self.learned_transform:  # at first no style turns or moves anything
            t = EqualDense(4, weight_init=0.0, bias_init=(1.0, 0.0, 0.0, 0.0), name='affine')(w)
        features = encodings.sg3_fourier_input(
            t, freqs, phases, stored if transform is None else transform,
            height=size[0], width=size[1], sampling_rate=self.signal.sampling_rate, bandwidth=bandwidth,
        )  # fmt: skip
        return encodings.sg3_mix(features, self.param('weight', nn.initializers.normal(1.0), (channels, channels)))


def octaves(matrix: jax.Array) -> jax.Array:
    """How much finer than whole images of training a transform shows a scene: [3, 3] -> [1, 1], [N, 3, 3] -> [N, 1].

    That is log2 of the scale, the root of the factor by which the transform reduces an area; 0 if it is coarser.
    """
    a, b, c, d = (matrix[..., i, j].astype(jnp.float32).reshape(-1, 1) for i in range(2) for j in range(2))
    return jnp.maximum(-jnp.log2(jnp.abs(a * d - b * c)) / 2, 0)


class ScaleMapping(nn.Module):
    """What `octaves` [n, 1] add to the styles of all layers, smoothly: [n, features]. At first it is zero.

    Dense layers fc0, fc1, ..., activated, and `out`, which begins as zeros. Always float32.
    """

    features: int
    num_layers: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.num_layers):
            x = lrelu(EqualDense(self.features, name=f'fc{i}')(x))
        return EqualDense(self.features, weight_init=0.0, name='out')(x)


class SynthesisLayer(nn.Module):
    """Modulated convolution and filtered leaky ReLU: x [N, h, w, C], style [N, w_dim] -> [N, *size, channels].

    The convolution is full, widening the image by kernel - 1; resampling then cuts to `size` about the centre.
    """

    model: Config
    layer: Layer

    @nn.compact
    def __call__(self, x: jax.Array, w: jax.Array, size: tuple[int, int], update_emas: bool = False) -> jax.Array:
        model, layer, channels, features = self.model, self.layer, x.shape[-1], self.layer.target.channels
        magnitude = self.variable('buffers', 'magnitude_ema', jnp.ones, ())
        if update_emas:
            mean = jax.lax.stop_gradient(jnp.mean(jnp.square(x.astype(jnp.float32))))
            magnitude.value = mean + model.magnitude_ema_beta * (magnitude.value - mean)

        # Filters are variables: checkpoints hold them, and theirs may differ from those designed here.
        plan = resampling(model, layer)
        first_filter, up_filter, down_filter = (
            None if f is None else self.variable('buffers', name, jnp.asarray, f).value
            for name, f in zip(('first_filter', 'up_filter', 'down_filter'), plan[3:], strict=True)
        )
        kernel = 1 if layer.to_rgb else model.conv_kernel
        styles = EqualDense(channels, bias_init=1.0, name='affine')(w)
        if layer.to_rgb:
            styles = styles / math.sqrt(channels)
        x = x.astype(model.dtype if layer.low_precision else jnp.float32)
        padding = kernel - 1
        if plan.first > 1:  # what the filter spreads beyond the canvas replaces the convolution's zeros
            x, padding = ops.upsample2d(x, first_filter, up=plan.first, padding=padding), 0
        x = ops.modulated_conv(
            x,
            self.param('weight', nn.initializers.normal(1.0), (kernel, kernel, channels, features)),
            styles,
            demodulate=not layer.to_rgb,
            padding=padding,
            input_gain=jax.lax.rsqrt(magnitude.value),
        )

        return ops.filtered_lrelu(
            x,
            self.param('bias', nn.initializers.zeros, (features,)),
            up_filter,
            down_filter,
            up=plan.up,
            down=plan.down,
            padding=plan.padding(x.shape[1:3], size),
            gain=1.0 if layer.to_rgb else math.sqrt(2),
            slope=1.0 if layer.to_rgb else 0.2,
            clamp=model.conv_clamp,
        )


class Synthesis(nn.Module):
    """ws [N, num_ws, w_dim] -> images [N, *size, img_channels] float32."""

    model: Config

    @nn.compact
    def __call__(
        self, ws: jax.Array, transform: jax.Array | None, size: tuple[int, int], update_emas: bool
    ) -> jax.Array:
        model = self.model
        entry = SynthesisInput(input_signal(model), model.learned_transform, name='input')
        x = entry(ws[:, 0], canvas(model, 0, size), transform)
        if model.scale_layers:  # for all layers, but not the input: a scene stays where it is
            shown = entry.get_variable('buffers', 'transform') if transform is None else transform
            ws = ws + ScaleMapping(model.w_dim, model.scale_layers, name='scale')(octaves(shown))[:, None]
        for i, layer in enumerate(layers(model)):
            x = SynthesisLayer(model, layer, name=layer.name)(x, ws[:, i + 1], canvas(model, i, size), update_emas)
        return x.astype(jnp.float32) * model.output_scale


class Generator(nn.Module):
    """StyleGAN3: `map`, then `synthesise`. Paths of variables are those of the official checkpoints."""

    model: Config

    @property
    def num_ws(self) -> int:
        """Styles of an image: one for the input, one per layer."""
        return self.model.num_layers + 2

    def setup(self) -> None:
        model = self.model
        self.mapping = MappingNetwork(
            model.w_dim,
            num_layers=model.mapping_layers,
            lr_multiplier=model.lr_multiplier,
            num_ws=self.num_ws,
            w_avg_beta=model.w_avg_beta,
        )
        self.synthesis = Synthesis(model)

    def map(self, z: jax.Array, c: jax.Array | None = None, update_emas: bool = False) -> jax.Array:
        """ws [N, num_ws, w_dim] of latents [N, z_dim] and labels [N, c_dim] or None; see `MappingNetwork`."""
        return self.mapping(z, c, update_emas=update_emas)

    def synthesise(
        self,
        ws: jax.Array,
        transform: jax.Array | None = None,
        size: tuple[int, int] | None = None,
        update_emas: bool = False,
    ) -> jax.Array:
        """Images [N, *size, img_channels] float32 of ws [N, num_ws, w_dim].

        Args:
          transform: [3, 3], or one per image [N, 3, 3], on positions in units of the training images' shorter side
            about the middle, as `coords.translate`, `rotate` and `zoom` make them; None: the 'transform' buffer.
          size: (height, width), even; None: that of training. A larger one shows more at the same pixel pitch.
          update_emas: move `magnitude_ema` of every layer, before it is used; 'buffers' must be mutable.
        """
        return self.synthesis(ws, transform, self.model.size if size is None else size, update_emas)

    def __call__(self, z: jax.Array, c: jax.Array | None = None) -> jax.Array:
        """Images of latents [N, z_dim] and labels [N, c_dim]. Touches every variable, for `init`."""
        return self.synthesise(self.map(z, c))


# The system -----------------------------------------------------------------------------------------------------------


def view(size: tuple[int, int] | None, transform: jax.Array | None) -> dict:
    """Options of `Generator.synthesise`: images of a size, at the pitch of training, of a scene that a matrix moves."""
    if size is not None:
        check_size(size)
    return {k: v for k, v in (('size', size), ('transform', transform)) if v is not None}


def synthesise(
    module: Generator,
    params: dict,
    buffers: dict,
    ws: jax.Array,
    keys: jax.Array,
    update_emas: bool,
    offset: jax.Array | None = None,
    scale: jax.Array | None = None,
) -> tuple[jax.Array, dict]:
    """Images of ws, and the buffers, as `stylegan_training.Networks` asks for them; there is no noise to draw."""
    variables, moved = {'params': params, 'buffers': buffers}, None
    if offset is not None:  # what lies to the right comes into sight as the scene moves to the left
        moved = jax.vmap(lambda n: coords.translate(-n[0], -n[1]))(offset / module.model.resolution)
    if scale is not None:  # about the middle of what is shown
        moved = jax.vmap(lambda m, s: coords.compose(m, coords.zoom(s)))(moved, scale)
    images, new = module.apply(variables, ws, moved, update_emas=update_emas, method='synthesise', mutable=['buffers'])
    return images, new['buffers']


def build(config: Any) -> GAN:
    """The GAN of a run configuration (`pegan_jax.config.Config`) whose model is a `Config`.

    With a teacher, its variables are params['teacher'] of the state: no update changes that network.
    """
    model, taught = config.model, config.model.teacher_weight > 0
    teacher = dataclasses.replace(model, scale_layers=0)
    nets = stylegan_training.networks(teacher, Generator, synthesise)

    def beside(state: Any, latents: Any, images: jax.Array) -> tuple[jax.Array, dict]:
        own = state.params['teacher']
        ws, _ = stylegan_training.styles(teacher, nets, own['params'], own['buffers'], latents)
        whole, _ = nets.synthesise(own['params'], own['buffers'], ws, latents.keys, False)
        distance = any_resolution.teacher_distance(images, whole, latents.offset, latents.scale)
        return model.teacher_weight * distance, {'loss/teacher': distance}

    gan = stylegan_training.assemble(
        config,
        Generator,
        synthesise,
        options=('size', 'transform'),
        view=view,
        d_sees_coords=model.d_sees_coords,
        beside=beside if taught else None,
    )

    def init(key: jax.Array) -> tuple[dict, dict, dict]:
        params, buffers, stats = gan.init(key)
        c = jnp.zeros((1, model.c_dim)) if model.c_dim else None
        return {**params, 'teacher': Generator(teacher).init(key, jnp.zeros((1, model.z_dim)), c)}, buffers, stats

    return gan._replace(init=init) if taught else gan
