"""What StyleGAN3's filters keep and let through, layer by layer (Karras et al. 2021, sections 3.1 and 3.2).

A layer's signal has a sampling rate, a cutoff and a stopband. Its nonlinearity makes new frequencies at a higher rate;
those above half of the layer's rate when samples are dropped come back as other frequencies: aliases.
"""

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from pegan_jax import filters
from pegan_jax.analysis.drawing import Study, line_chart, rounded, text_table
from pegan_jax.models import stylegan3
from pegan_jax.sampling import Model
from pegan_jax.settings import UserError

COLUMNS = ('rate', 'cutoff', 'stopband', 'canvas', 'channels', 'up', 'down')
COLUMNS += ('asked up', 'up dB', 'asked down', 'down dB', 'diagonal')


def response(f: np.ndarray, rate: float, frequencies: np.ndarray, diagonal: bool = False) -> np.ndarray:
    """|H| of a filter [n] or [n, n] at frequencies [K] along an axis, or at lengths [K] along the diagonal."""
    n = len(f)
    t = (np.arange(n) - (n - 1) / 2) / rate
    along = frequencies / math.sqrt(2) if diagonal else frequencies
    waves = np.exp(-2j * np.pi * along[:, None] * t[None])
    if f.ndim == 1:
        return np.abs(waves @ f) ** (2 if diagonal else 1)
    return np.abs(np.einsum('kx,yx,ky->k', waves, f, waves if diagonal else np.ones_like(waves)))


def stopband_attenuation(f: np.ndarray, rate: float, stopband: float, diagonal: bool = False) -> float:
    """The least attenuation of a filter between the stopband and half the rate, in dB below frequency 0."""
    high = np.linspace(stopband, rate / 2 * (math.sqrt(2) if diagonal else 1), 2000)
    return float(-20 * np.log10(response(f, rate, high, diagonal).max()))


def layer_table(model: stylegan3.Config) -> dict[str, dict[str, Any]]:
    """{layer: its numbers}, of COLUMNS, in cycles per unit; a stopband begins where a filter's transition ends.

    'asked' is Kaiser's formula for the taps and the transition band of a filter, in dB. The rest is measured;
    'diagonal' is for the downsampling filter along the diagonal, where separable ones pass frequencies as high.
    """
    table = {}
    for i, layer in enumerate(stylegan3.layers(model)):
        plan, source, target = stylegan3.resampling(model, layer), layer.source, layer.target
        rate = max(source.sampling_rate, target.sampling_rate) * (1 if layer.to_rgb else model.lrelu_upsampling)
        row: dict[str, Any] = {
            'rate': target.sampling_rate,
            'cutoff': target.cutoff,
            'stopband': target.cutoff + target.half_width,
            'canvas': stylegan3.canvas(model, i, model.size),
            'channels': target.channels,
            'up': plan.first * plan.up,
            'down': plan.down,
        }
        used = [
            (name, f, at, signal)
            for name, f, at, signal in (
                ('up dB', plan.first_filter, plan.first * source.sampling_rate, source),
                ('up dB', plan.up_filter, rate, source),
                ('down dB', plan.down_filter, rate, target),
            )
            if f is not None
        ]
        for name, f, at, signal in used:
            stopband = signal.cutoff + signal.half_width
            row[name] = stopband_attenuation(f, at, stopband)
            row[f'asked {name.split()[0]}'] = filters.attenuation(len(f), 2 * signal.half_width, at)
            if name == 'down dB':
                row['diagonal'] = stopband_attenuation(f, at, stopband, diagonal=True)
        table[layer.name] = row
    return table


def alias_energy(model: stylegan3.Config, variables: dict, ws: jax.Array) -> dict[str, dict[str, float]]:
    """{layer: {'filtered', 'bare'}}: power that comes back as aliases where samples are dropped, in dB of all power.

    The nonlinearity is applied to the layer's own input, at the rate at which it runs. The power beyond half of the
    layer's rate is measured after the downsampling filter and without it. Layers that drop no samples are left out.
    """
    module = stylegan3.Generator(model)
    _, seen = jax.jit(
        lambda v, ws: module.apply(v, ws, method='synthesise', capture_intermediates=True, mutable=['intermediates'])
    )(variables, ws)
    outputs = {
        name: out['__call__'][0] for name, out in seen['intermediates']['synthesis'].items() if name != '__call__'
    }
    plain, x, table = dataclasses.replace(model, lrelu_upsampling=1), outputs['input'], {}
    for i, layer in enumerate(stylegan3.layers(model)):
        plan = stylegan3.resampling(model, layer)
        if plan.down > 1:
            # The layer with the rate of its nonlinearity as its own: the same but for the filter that follows.
            rate = layer.target.sampling_rate * plan.down
            before = layer._replace(target=layer.target._replace(sampling_rate=rate))
            size = tuple(plan.down * side for side in stylegan3.canvas(model, i, model.size))
            own = {kind: variables[kind]['synthesis'][layer.name] for kind in variables}
            y = stylegan3.SynthesisLayer(plain, before).apply(own, x, ws[:, i + 1], size)
            table[layer.name] = _aliases(np.asarray(y, np.float64), plan.down, np.asarray(plan.down_filter))
        x = outputs[layer.name]
    return table


def _aliases(y: np.ndarray, down: int, f: np.ndarray) -> dict[str, float]:
    """dB of the power of y [N, H, W, C] beyond 1 / (2 down) cycles per sample, with and without a filter."""
    height, width = y.shape[1:3]
    window = np.outer(np.kaiser(height, 8), np.kaiser(width, 8))[None, :, :, None]
    power = (np.abs(np.fft.fft2((y - y.mean((1, 2), keepdims=True)) * window, axes=(1, 2))) ** 2).sum((0, 3))
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    beyond = np.maximum(np.abs(fy), np.abs(fx)) > 0.5 / down
    kernel = np.outer(f, f) if f.ndim == 1 else f
    padded = np.zeros((max(height, len(kernel)), max(width, len(kernel))))
    padded[: len(kernel), : len(kernel)] = kernel
    passed = power * np.abs(np.fft.fft2(padded)[:height, :width]) ** 2
    return {
        name: float(10 * np.log10(max(p[beyond].sum() / p.sum(), 1e-20)))
        for name, p in (('filtered', passed), ('bare', power))
    }


def filter_study(models: dict[str, Model], seed: int = 0) -> Study:
    """Tables and curves of every layer: rates, cutoffs, stopbands, what filters let through, and aliases.

    Args: models: by the name to show, of the system 'stylegan3'; random weights will do for all but the aliases.
    Raises: ValueError for other systems.
    """
    numbers, pictures = {}, {}
    for number, (name, loaded) in enumerate(models.items()):
        model = loaded.config.model
        if not isinstance(model, stylegan3.Config):
            raise UserError(
                f'{name} is of system {loaded.config.system!r}, whose layers have no such filters; choose a stylegan3.'
            )
        table, w = layer_table(model), loaded.styles(range(seed, seed + 2), label=loaded.classes_of([0]))
        aliases = alias_energy(model, loaded.variables, jax.numpy.repeat(w[:, None], model.num_layers + 2, axis=1))
        for layer, row in aliases.items():
            table[layer] |= {f'alias dB, {kind}': value for kind, value in row.items()}
        numbers[name] = {layer: {k: rounded(v) for k, v in row.items()} for layer, row in table.items()}
        suffix = '' if len(models) == 1 else f'_{number}'
        layers = np.arange(len(table))
        rows = list(table.values())
        curves = {
            'half the rate': [row['rate'] / 2 for row in rows],
            'stopband': [row['stopband'] for row in rows],
            'cutoff': [row['cutoff'] for row in rows],
        }
        pictures[f'schedule{suffix}'] = line_chart(
            f'{name}: what each layer carries', {k: (layers, np.log2(v)) for k, v in curves.items()},
            'layer', 'log2 of cycles per unit',
        )  # fmt: skip
        pictures[f'responses{suffix}'] = _responses(name, model)
        if aliases:
            at = [list(table).index(layer) for layer in aliases]
            pictures[f'aliases{suffix}'] = line_chart(
                f'{name}: power beyond half of the rate, where samples are dropped',
                {kind: (at, [row[kind] for row in aliases.values()]) for kind in ('bare', 'filtered')},
                'layer', 'dB of all power',
            )  # fmt: skip
        pictures[f'table{suffix}'] = text_table(
            f'{name}: layers',
            ('layer', *COLUMNS),
            [[layer, *(_cell(row.get(c)) for c in COLUMNS)] for layer, row in table.items()],
        )
    return Study(numbers, pictures)


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return 'x'.join(map(str, value))
    return '' if value is None else f'{value:g}' if isinstance(value, int) else f'{value:.2f}'.removesuffix('.00')


def _responses(name: str, model: stylegan3.Config) -> Any:
    """Responses of every layer's downsampling filter, or the one before its convolution, over the layer's rate."""
    curves = {}
    for layer in stylegan3.layers(model):
        plan = stylegan3.resampling(model, layer)
        f = plan.down_filter if plan.down_filter is not None else plan.first_filter
        if f is not None:
            rate = layer.target.sampling_rate
            at = rate * (plan.down if plan.down_filter is not None else 1)
            x = np.linspace(0, at / 2, 400)
            curves[layer.name] = (x / rate, np.maximum(20 * np.log10(np.maximum(response(f, at, x), 1e-8)), -90))
    return line_chart(f'{name}: magnitude responses', curves, 'cycles per sample of the layer', 'dB', ramp=True)
