"""Kinds of convolution for inpainting, compared on procedural worlds: one network, one budget, other convolutions.

python benchmarks/inpainting.py --out FOLDER [--side 64] [--steps 1000] [--batch 8] [--cnum 16] [--seeds 0 1]
  [--gan-weight 0] [--methods vanilla gated ...] [--settings free guided]

Trains each of METHODS with each seed, without and (where it says so) with sketches, by the masks of DeepFillv2, --steps
with a rate of 1e-3 and a quarter of them more with 1e-4, and scores all on the same held-out worlds and masks, with
scikit-image's biharmonic inpainting beside them. The losses are the absolute errors alone: with the published weight of
the adversarial one, 1, so short a training differs more between seeds than between methods, and some diverge. Edge
recall: of the sketch's pixels that lie at least 3 pixels inside a hole, the share with an edge of the result (Canny,
made thicker by a pixel); also when the same model gets no sketch.

Writes FOLDER/inpainting.json, a table, and pictures: free.png and guided.png. A second call goes on where the first one
stopped and replaces the table by its own: another choice of options needs another FOLDER. A larger setting, for a GPU:
--side 256 --steps 100000 --batch 16 --cnum 48 --gan-weight 1.
"""

import argparse
import functools
import json
import pathlib
import time

import jax
import numpy as np
from PIL import Image
from scipy import ndimage

from pegan_jax import evaluation, inpaint, inpainting, load
from pegan_jax.config import Config, DataConfig, OptimConfig, TrainConfig
from pegan_jax.data import edges
from pegan_jax.models import deepfill
from pegan_jax.pixels import image_grid
from pegan_jax.sampling import Model
from pegan_jax.train import run

# name: changes to the model, and whether it is trained with sketches too
METHODS = {
    'vanilla': (dict(conv_type='vanilla'), True),
    'vanilla, 1.5 x width': (dict(conv_type='vanilla', cnum=1.5), False),
    'partial': (dict(conv_type='partial'), True),
    'gated': (dict(), True),
    'gated, depthwise gates': (dict(gate='depthwise'), False),
    'gated, a gate per layer': (dict(gate='single_channel'), False),
}
WORLDS = 2048
IMAGES = 32  # of the evaluation
SHOWN = (0, 5, 9, 14)


def config(args: argparse.Namespace, changes: dict, guided: bool, seed: int, steps: int, rate: float) -> Config:
    cnum = round(args.cnum * changes.get('cnum', 1) / 4) * 4
    return Config(
        system='deepfill',
        model=deepfill.Config(
            img_resolution=args.side,
            d_cnum=args.cnum if args.gan_weight else 1,  # it has no say
            gan_weight=args.gan_weight,
            guided=guided,
            **{**changes, 'cnum': cnum},
        ),
        data=DataConfig(
            resolution=args.side,
            num_worlds=WORLDS,
            data_dir=str(args.out / 'tfds'),
            cache=True,
            edges='canny' if guided else 'none',
        ),
        optim=OptimConfig(g_lr=rate, d_lr=rate, beta1=0.5, beta2=0.999),
        train=TrainConfig(
            batch_size=args.batch,
            total_kimg=steps * args.batch / 1000,
            seed=seed,
            sample_every=0,
            checkpoint_every=max(args.steps // 3, 1),
            keep=1,
            keep_best=0,
        ),
    )


def trained(args: argparse.Namespace, name: str, changes: dict, guided: bool, seed: int) -> Model:
    word = ''.join(c if c.isalnum() else '-' for c in name)
    workdir = args.out / f'{word}{"-guided" if guided else ""}-{seed}'
    start = time.perf_counter()
    # Without the slower end, the last steps' noise is larger than what is compared.
    for steps, rate in ((args.steps, 1e-3), (args.steps * 5 // 4, 1e-4)):
        wanted = config(args, changes, guided, seed, steps, rate)
        if int(run(wanted, workdir).step) < wanted.train.total_steps:  # it was asked to stop
            raise SystemExit(f'{workdir} is not finished, and nothing was scored; the same command goes on.')
    print(f'{workdir.name}: {time.perf_counter() - start:.0f} s', flush=True)
    return load(workdir)


def sketches(images: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W], 1 on edges."""
    return np.stack([edges.extract(image, 'canny')[..., 0] // 255 for image in images])


def edge_recall(results: np.ndarray, drawn: np.ndarray, masks: np.ndarray) -> float:
    """Share of the drawn pixels, at least 3 inside a hole, on which the results have an edge."""
    inside = np.stack([ndimage.binary_erosion(mask, np.ones((7, 7)), border_value=1) for mask in masks])
    wanted = inside & (drawn > 0)
    return float(sketches(results)[wanted].mean())


def picture(columns: list[np.ndarray]) -> Image.Image:
    """Columns of images, one row for each of SHOWN."""
    rows = np.stack([column[list(SHOWN)] for column in columns], axis=1)
    grid = image_grid(rows.reshape(-1, *rows.shape[2:]), len(columns))
    return Image.fromarray(grid).resize((grid.shape[1] * 2, grid.shape[0] * 2), Image.Resampling.NEAREST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=pathlib.Path, required=True)
    for name, value in (('side', 64), ('steps', 1000), ('batch', 8), ('cnum', 16)):
        parser.add_argument(f'--{name}', type=int, default=value)
    parser.add_argument('--gan-weight', type=float, default=0.0)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1])
    parser.add_argument('--methods', nargs='+', choices=METHODS, default=list(METHODS))
    parser.add_argument('--settings', nargs='+', choices=('free', 'guided'), default=['free', 'guided'])
    args = parser.parse_args()
    if 'free' not in args.settings and not all(METHODS[name][1] for name in args.methods):
        sketched = ', '.join(repr(name) for name, (_, both) in METHODS.items() if both)
        parser.error(f'--settings guided: only {sketched} are trained with sketches; name these as --methods.')

    images = evaluation.read_images(DataConfig(resolution=args.side), IMAGES)
    cases = evaluation.cases(0, 8, (args.side, args.side), IMAGES, ('box', 'brush'))
    masks, reals = np.stack([c.mask for c in cases]), images[[c.image for c in cases]]
    brushed = [i for i, c in enumerate(cases) if c.kind == 'brush' and c.bucket[0] >= 0.1]
    free, free_reals = masks[brushed], reals[brushed]
    drawn = sketches(free_reals)
    score = functools.partial(evaluation.evaluate, images=images, masked=cases)
    found = {'biharmonic': score({'biharmonic': inpainting.biharmonic})}
    masked = np.where(free[..., None] > 0, 128, free_reals).astype(np.uint8)
    shown = {False: [free_reals, masked], True: [free_reals, np.where((drawn * free)[..., None] > 0, 255, masked)]}
    shown[False].append(inpainting.biharmonic(free_reals, free))
    rows = []
    for guided in (setting == 'guided' for setting in args.settings):
        for name in args.methods:
            changes, both = METHODS[name]
            if guided and not both:
                continue
            for seed in args.seeds:
                model = trained(args, name, changes, guided, seed)
                count = sum(x.size for x in jax.tree.leaves(model.variables['params']))
                row = {'method': name, 'guided': guided, 'seed': seed, 'parameters': count}
                if guided:
                    blank = inpaint(model, free_reals, free)
                    told = inpaint(model, free_reals, free, drawn * free) if model.completer.guided else blank
                    row |= {'recall': edge_recall(told, drawn, free), 'recall_blank': edge_recall(blank, drawn, free)}
                    error = [np.abs(y / 255.0 - free_reals / 255.0)[free > 0].mean() for y in (told, blank)]
                    row |= {'l1_hole': 100 * error[0], 'l1_hole_blank': 100 * error[1]}
                else:
                    results = score({name: functools.partial(inpaint, model)})[name]
                    found[f'{name}, seed {seed}'] = {name: results}
                    row |= {kind: results[kind]['all'] for kind in ('box', 'brush')}
                rows.append(row)
                if seed == args.seeds[0]:
                    shown[guided].append(told if guided else inpaint(model, free_reals, free))
            (args.out / 'inpainting.json').write_text(json.dumps({'rows': rows, 'by_ratio': found}, indent=1))
    for setting in args.settings:
        picture(shown[setting == 'guided']).save(args.out / f'{setting}.png')

    if 'free' in args.settings:
        smooth = found['biharmonic']['biharmonic']
        print('| method | parameters | seed | l1 in boxes | l1 in strokes | psnr, strokes | ssim, strokes |')
        print(f'| biharmonic (no learning) | | | {smooth["box"]["all"]["l1_hole"]:.2f} | ', end='')
        print(' | '.join(f'{smooth["brush"]["all"][k]:.3g}' for k in ('l1_hole', 'psnr', 'ssim')) + ' |')
        for r in (r for r in rows if not r['guided']):
            b = r['brush']
            print(
                f'| {r["method"]} | {r["parameters"]:,} | {r["seed"]} | {r["box"]["l1_hole"]:.2f} |',
                f'{b["l1_hole"]:.2f} | {b["psnr"]:.2f} | {b["ssim"]:.4f} |',
            )
    if 'guided' in args.settings:
        print('| with sketches | seed | edge recall | without the sketch | l1 in strokes | without the sketch |')
        for r in (r for r in rows if r['guided']):
            print(f'| {r["method"]} | {r["seed"]} | {r["recall"]:.3f} | {r["recall_blank"]:.3f} |', end='')
            print(f' {r["l1_hole"]:.2f} | {r["l1_hole_blank"]:.2f} |')


if __name__ == '__main__':
    main()
