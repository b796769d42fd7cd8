"""Measurements of papers, repeated: configurations and seeds on one budget, scored alike, in tables and pictures.

A study consists of its cells. `run` trains and scores what is missing, seed by seed over all cells, so that a study
that was stopped is balanced; a later call resumes, also with more seeds or a larger budget. Only PGGAN, whose stages
share half of the budget, starts again with another budget.
"""

import fnmatch
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from pegan_jax import train
from pegan_jax.analysis import drawing
from pegan_jax.config import Config, load_config
from pegan_jax.evaluation import score_model
from pegan_jax.files import Path
from pegan_jax.metrics.names import HIGHER_IS_BETTER, Score, parse_all
from pegan_jax.pixels import to_uint8, with_channels
from pegan_jax.sampling import Model, load, sample
from pegan_jax.scoring import record
from pegan_jax.scoring.scores import scorer_of
from pegan_jax.settings import UserError
from pegan_jax.train.checkpoint import steps_of

SHOWN = 8  # latents of the pictures


class Setting(NamedTuple):
    """side: of images, in pixels; of several scales, the smallest. worlds: number to learn. seeds, kimg: per cell."""

    side: int
    worlds: int
    batch_size: int
    seeds: int
    kimg: float


class Plan(NamedTuple):
    """A study.

    title, expected: what is measured, and what the papers report.
    cells: {name: (configuration, a key of SIZES)}; names of kinds that are compared begin alike, up to a colon.
    settings: by name. metrics: names that `evaluate` takes.
    """

    title: str
    expected: str
    cells: dict[str, tuple[str, str]]
    settings: dict[str, Setting]
    metrics: str


def _narrow(setting: Setting) -> dict[str, Any]:
    return {
        'channel_base': 512, 'channel_max': 48, 'd_channel_base': 1024, 'd_channel_max': 96, 'z_dim': 48,
        'r1_interval': 16, 'ema_beta': 0.995, 'img_resolution': setting.side,
    }  # fmt: skip


def _grown(setting: Setting) -> dict[str, Any]:
    """Stages up to the resolution share half of the budget."""
    count = setting.side.bit_length() - 3
    stage = round(setting.kimg / 2 / count, 3)
    return {
        'channel_base': 512, 'channel_max': 48, 'z_dim': 48, 'stage_kimg': (stage,) * count, 'fade_kimg': stage / 2,
        'img_resolution': setting.side, 'ema_decay': 0.5 ** (setting.batch_size / (30 * setting.kimg)),
    }  # fmt: skip


# Fields of the model by kind of cell, from a setting with the length of the training.
SIZES: dict[str, Callable[[Setting], dict[str, Any]]] = {
    'dcgan': lambda s: {'base_channels': 64, 'd_base_channels': 32, 'z_dim': 32, 'img_resolution': s.side},
    'stylegan2': _narrow,
    'scales': _narrow,
    'pggan': _grown,
    'cips': lambda s: {
        'hidden_size': 32, 'z_dim': 32, 'channels': (64, 64, 48, 32), 'img_resolution': s.side,
        'd_channels': (32, *(64,) * (s.side.bit_length() - 3)),
    },
    'as it is': lambda s: {},
}  # fmt: skip

SETTINGS = {'small': Setting(32, 4096, 16, 2, 16.0), 'gpu': Setting(64, 16384, 64, 3, 1000.0)}
PLANS = {
    'padding': Plan(
        'Zero padding, its absence, and positional encodings (Xu et al. 2021)',
        'Upsampling before a convolution beats a transposed convolution; images are worse without padding; sinusoids '
        'recover much of the loss, in DCGAN more than all of it; with several scales row f is best, and without '
        'padding the grid, row i.',
        {
            **{
                f'{title}: {name}': (f'{config}{words},tiny', kind)
                for title, config, kind in (('DCGAN', 'dcgan:', 'dcgan'), ('PGGAN', 'pggan:', 'pggan'))
                for name, words in {
                    'zero padding': 'celeba64' if kind == 'dcgan' else 'celeba128',
                    'no padding': 'no-pad',
                    'no padding + CSG': 'no-pad,csg',
                    'no padding + SPE': 'no-pad,spe',
                }.items()
            },
            'StyleGAN2: deconv': ('mspie:sg2,tiny', 'stylegan2'),
            'StyleGAN2: up + conv': ('mspie:sg2,conv-resize,tiny', 'stylegan2'),
            'StyleGAN2: no padding': ('mspie:sg2,no-pad,tiny', 'stylegan2'),
            'StyleGAN2: no padding + CSG': ('mspie:sg2,no-pad,csg,tiny', 'stylegan2'),
            'StyleGAN2: no padding + SPE': ('mspie:sg2,no-pad,spe,tiny', 'stylegan2'),
            **{f'MS-PIE: {row}': (f'mspie:{row},tiny', 'scales') for row in 'cdefhijk'},
        },
        SETTINGS,
        'fd_worlds2k,swd2k,spectral2k,horizon2k,rows2k',
    ),
    'cips': Plan(
        'The ablation of CIPS (Anokhin et al. 2021, table 3)',
        'Without the coordinate embedding, images are worst but have the spectrum nearest to that of real ones.',
        {
            'CIPS': ('cips:tiny', 'cips'),
            **{
                f'CIPS: {name}': (f'cips:{word},tiny', 'cips')
                for name, word in {
                    'no embedding': 'no-embedding',
                    'no Fourier features': 'no-fourier',
                    'no modulation': 'no-modulation',
                    'no skips': 'no-skips',
                    'residual': 'residual',
                    'sine': 'sine',
                    'lrelu and sine': 'sinrelu',
                }.items()
            },
        },
        SETTINGS,
        'fd_worlds2k,swd2k,spectral2k,horizon2k',
    ),
    'rows': Plan(
        'Rows of the table of StyleGAN3 (Karras et al. 2021, table 1)',
        'EQ-T grows from D on, most of all at F, G and T; EQ-R stays at 10 to 13 dB up to T and is 40 dB in R.',
        {row.upper(): (f'stylegan3:{row},small', 'as it is') for row in 'adfgtr'},
        {'small': Setting(32, 4096, 16, 1, 16.0), 'gpu': Setting(32, 16384, 16, 2, 1000.0)},
        'fd_worlds2k,swd2k,eqt64_int,eqt64_frac,eqr64',
    ),
}


def cells_of(plan: Plan, patterns: Sequence[str] = ()) -> list[str]:
    """Names of the cells that match one of the patterns, such as 'DCGAN*', or all.

    Raises: UserError for a pattern that no cell matches.
    """
    if wrong := [p for p in patterns if not fnmatch.filter(plan.cells, p)]:
        raise UserError(f'no cell is called {", ".join(wrong)}; there are {", ".join(plan.cells)}.')
    return [name for name in plan.cells if not patterns or any(fnmatch.fnmatch(name, p) for p in patterns)]


def configuration(plan: Plan, setting: str, cell: str, seed: int, kimg: float) -> Config:
    """The configuration of one training."""
    config, kind = plan.cells[cell]
    chosen = plan.settings[setting]._replace(kimg=kimg)
    shared = {
        'data.resolution': chosen.side * 3 // 2 if kind == 'scales' else chosen.side,
        'data.num_worlds': chosen.worlds, 'data.cache': True, 'train.batch_size': chosen.batch_size,
        'train.seed': seed, 'train.total_kimg': kimg, 'train.log_every': 100, 'train.checkpoint_every': 0,
        'train.sample_every': 0, 'train.keep_best': 0, 'train.keep': 1,
    }  # fmt: skip
    own = {f'model.{name}': value for name, value in SIZES[kind](chosen).items()}
    return load_config(config, [f'{name}={value}' for name, value in (shared | own).items()])


def run(
    plan: Plan,
    out: Path,
    *,
    setting: str,
    cells: Sequence[str],
    seeds: int | None = None,
    kimg: float | None = None,
    say: Callable[[str], None] = print,
) -> bool:
    """Trains and scores what OUT/results.jsonl does not have. Returns: whether all is there; False if it was stopped.

    Args:
      out: a folder; every training has a workdir in it.
      cells: names from `cells_of`.
      seeds, kimg: how many trainings of each cell, and how long; None: those of the setting.
    """
    seeds = plan.settings[setting].seeds if seeds is None else seeds
    kimg = plan.settings[setting].kimg if kimg is None else kimg
    for seed in range(seeds):
        for cell in cells:
            if (cell, seed, kimg) in {(row['cell'], row['seed'], row['kimg']) for row in results(out, setting)}:
                continue
            config, start = configuration(plan, setting, cell, seed, kimg), time.monotonic()
            workdir = workdir_of(plan, out, setting, cell, seed, kimg)
            begun = bool(steps_of(workdir / 'checkpoints'))
            state = train.run(config, workdir)
            if int(state.nimg) < config.train.total_images:
                return False
            if int(state.nimg) >= config.train.total_images + config.train.batch_size:
                raise UserError(
                    f'{workdir} has been trained for {int(state.nimg) / 1000:g} kimg, longer than --kimg {kimg:g}; '
                    'choose another --out for the smaller budget.'
                )
            seconds, model = time.monotonic() - start, load(workdir)
            scored = [score for score in parse_all(plan.metrics) if _has(model, score)]
            values, about = score_model(model, scorer_of(scored, out))
            told = {'cell': cell, 'seed': seed, 'kimg': kimg, 'setting': setting}
            if not begun:  # otherwise these are the seconds of its last part
                told['seconds'] = round(seconds, 1)
            record.append(out / 'results.jsonl', model.step, told | {'scores': values}, about)
            say(f'{cell}, seed {seed}: ' + '  '.join(f'{name} {value:.4g}' for name, value in values.items()))
    return True


def _has(model: Model, score: Score) -> bool:
    """Whether a score applies to a model: scores that move coordinates need a model that has some to move."""
    return score.kind not in ('eqt', 'eqr') or 'transform' in model.sampler.options


def workdir_of(plan: Plan, out: Path, setting: str, cell: str, seed: int, kimg: float) -> Path:
    """The workdir of one training; a longer one resumes in it, except with stages, which are parts of the length."""
    length = f'-{kimg:g}kimg' if plan.cells[cell][1] == 'pggan' else ''
    return (out if setting == 'small' else out / setting) / f'{slug(cell)}-{seed}{length}'


def slug(cell: str) -> str:
    """'DCGAN: no padding, CSG' -> 'dcgan-no-padding-csg'"""
    return '-'.join(''.join(c if c.isalnum() else ' ' for c in cell.lower()).split())


def results(out: Path, setting: str) -> list[dict[str, Any]]:
    """Rows of one setting in OUT/results.jsonl, oldest first."""
    return [row for row in record.rows(out / 'results.jsonl') if row['setting'] == setting]


# Reports --------------------------------------------------------------------------------------------------------------


def summary(plan: Plan, rows: Sequence[dict[str, Any]], kimg: float) -> dict[str, dict[str, list[float]]]:
    """{cell: {score: its values, one per seed}} of what was trained for `kimg`, in the order of the plan."""
    found = {}
    for cell in plan.cells:
        of_cell = [row['scores'] for row in rows if row['cell'] == cell and row['kimg'] == kimg]
        if of_cell:
            found[cell] = {name: [scores[name] for scores in of_cell] for name in of_cell[0]}
    return found


def markdown(found: dict[str, dict[str, list[float]]]) -> str:
    """A table of means and, for several seeds, standard deviations."""
    names = list(dict.fromkeys(name for scores in found.values() for name in scores))
    lines = ['| cell | seeds | ' + ' | '.join(names) + ' |', '|---' * (len(names) + 2) + '|']
    for cell, scores in found.items():
        cells = [_cell(scores.get(name)) for name in names]
        lines.append(f'| {cell} | {max(map(len, scores.values()))} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def _cell(values: list[float] | None) -> str:
    if values is None:
        return ''
    spread = f' ± {np.std(values, ddof=1):.2g}' if len(values) > 1 else ''
    return f'{np.mean(values):.4g}{spread}'


def report(plan: Plan, out: Path, setting: str, kimg: float, *, say: Callable[[str], None] = print) -> list[Path]:
    """Writes the table, a chart of every score, and images of the same latents by every cell's first seed.

    The images come from the checkpoints that were scored; cells whose checkpoint is gone have none.

    Returns: their paths. Raises: UserError if nothing was trained for `kimg`.
    """
    rows = results(out, setting)
    found = summary(plan, rows, kimg)
    if not found:
        there = ', '.join(f'{k:g}' for k in sorted({row['kimg'] for row in rows})) or 'nothing yet'
        raise UserError(f'{out} has no results of --setting {setting} at {kimg:g} kimg; it has {there}.')
    pictures = {}
    for name in dict.fromkeys(name for scores in found.values() for name in scores):
        higher = next(score.kind in HIGHER_IS_BETTER for score in parse_all(plan.metrics) if name in score.results)
        values = {cell: scores[name] for cell, scores in found.items() if name in scores}
        pictures[name] = drawing.dot_chart(
            f'{name}, {kimg:g} kimg', values, f'{name}; {"higher" if higher else "lower"} is better'
        )
    shown = {}
    steps = {row['cell']: row['step'] for row in rows if row['seed'] == 0 and row['kimg'] == kimg}
    for cell in found:
        workdir, step = workdir_of(plan, out, setting, cell, 0, kimg), steps.get(cell)
        if step not in steps_of(workdir / 'checkpoints'):
            say(f'{cell}: no images, because {workdir} does not have the checkpoint that was scored, step {step}.')
            continue
        model = load(workdir, step)
        images = to_uint8(np.asarray(sample(model, range(SHOWN), label=model.classes_of(range(SHOWN)))))
        shown[cell] = [(f'seed {i}', with_channels(image, 3)) for i, image in enumerate(images)]
    if shown:
        pictures['samples'] = drawing.picture_table(f'{plan.title}: the same latents', shown)
    about = {'title': plan.title, 'expected': plan.expected, 'kimg': kimg, 'table': markdown(found).splitlines()}
    return drawing.save(drawing.Study(found, pictures), out, 'study', about)
