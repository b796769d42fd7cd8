"""The command study."""

import argparse

from pegan_jax import studies
from pegan_jax.cli import options
from pegan_jax.settings import UserError

HELP = "Repeat a paper's measurements: train its variants on one budget, score them alike, and draw the results."

EPILOG = """Trains and scores what --out does not have, seed by seed over all cells; a second call resumes, also with
more --seeds or a larger --kimg. With another --kimg PGGAN alone starts again, as its stages share half of it. Runs of
--setting gpu are in OUT/gpu. Rows go to OUT/results.jsonl; a table, charts and images of the same latents are drawn at
the end, or, with --report, from what is there.

examples:
  padding --out runs/padding
  padding --cells 'DCGAN*' --seeds 3 --out runs/padding
  cips --kimg 64 --cells 'CIPS,CIPS: no embedding' --out runs/cips
  rows --setting gpu --out runs/rows
  padding --report --out runs/padding
"""


def add_arguments(p: argparse.ArgumentParser) -> None:
    """What the command takes."""
    p.add_argument(
        'study',
        choices=[*studies.PLANS],
        help='padding: zero padding and positional encodings; cips: the ablation of CIPS; rows: those of StyleGAN3',
    )
    p.add_argument(
        '--setting',
        choices=('small', 'gpu'),
        default='small',
        help='sizes and lengths of the trainings; small takes hours on two cores (default)',
    )
    p.add_argument('--cells', default='', metavar='NAMES', help="train these cells alone, such as 'DCGAN*,MS-PIE: f'")
    p.add_argument('--seeds', type=int, help='trainings of each cell; default: as in the setting')
    p.add_argument('--kimg', type=options.real, help='thousands of images in each training; default: as in the setting')
    p.add_argument('--report', action='store_true', help='train nothing; draw what is there')
    p.add_argument(
        '--out', type=options.path, required=True, metavar='FOLDER', help='folder for runs, tables and pictures'
    )


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    plan = studies.PLANS[args.study]
    chosen = plan.settings[args.setting]
    args.seeds = chosen.seeds if args.seeds is None else args.seeds
    kimg = chosen.kimg if args.kimg is None else args.kimg
    options.at_least_one(args, 'seeds')
    if not kimg > 0:
        raise UserError(f'--kimg {kimg} must be positive.')
    cells = studies.cells_of(plan, [name.strip() for name in args.cells.split(',')] if args.cells else ())
    if not args.report:
        print(f'{plan.title}\nExpected: {plan.expected}', flush=True)
        if not studies.run(plan, args.out, setting=args.setting, cells=cells, seeds=args.seeds, kimg=kimg):
            print('stopped; the same command goes on from here.')
            return
    for path in studies.report(plan, args.out, args.setting, kimg):
        print(path)
    print(studies.markdown(studies.summary(plan, studies.results(args.out, args.setting), kimg)))
