"""What SinGAN knows about position: five ways to pad and encode, trained on one image and drawn twice as wide.

python benchmarks/singan_positions.py --out FOLDER [--image photo.jpg] [--side 36] [--iterations 400] [--seed 0]

Without --image, the toy: a sky over a ground, a disk at the left, a pole at the right. Writes FOLDER/positions.png (a
row for each variant: three samples, then three of twice the width; above them, the image) and FOLDER/positions.json. A
second call goes on where the first one stopped, and leaves out the seconds of trainings that the first one began.

Numbers are Pearson correlations. hp(x) is x after a 3x3 box filter, minus the mean of every row: of a layout, only what
varies from left to right. S is the image, S2 the image stretched to twice the width; samples come from all seeds.
"""

import argparse
import json
import pathlib
import time

import jax
import numpy as np
from PIL import Image
from scipy import ndimage

from pegan_jax import editing, load
from pegan_jax.config import Config, DataConfig, OptimConfig, TrainConfig
from pegan_jax.models import singan
from pegan_jax.pixels import image_grid, to_uint8
from pegan_jax.sampling import Model
from pegan_jax.train import run
from pegan_jax.train.checkpoint import steps_of

VARIANTS = {
    'SinGAN (zero padding)': dict(padding='zero'),
    '+ CSG': dict(padding='zero-layer', encoding='csg', noise_channels=1),
    '+ SPE': dict(padding='zero-layer', encoding='spe', noise_channels=1),
    'no padding': dict(padding='interp', noise_channels=1, d_norm=False),
    'no padding, CSG': dict(padding='interp', encoding='csg', noise_channels=1, d_norm=False),
}
SAMPLES = 24


def toy() -> np.ndarray:
    """uint8 [36, 48, 3]: vertical gradient, ground, a disk in the left third, a pole at the right, some noise."""
    y, x = np.mgrid[:36, :48].astype(float)
    image = 2 * np.stack([0.2 + 0.4 * y / 36, 0.1 + 0.2 * y / 36, 0.7 - 0.5 * y / 36], axis=-1) - 1
    image[27:] = (-0.2, 0.3, -0.6)
    image[(y - 14) ** 2 + (x - 13) ** 2 <= 49] = (0.9, 0.8, -0.7)
    image[9:30, 35:40] = -0.8
    image += 0.06 * np.random.default_rng(0).normal(size=image.shape)
    return to_uint8(np.clip(image, -1, 1))


def horizontal(image: np.ndarray) -> np.ndarray:
    """hp of images [..., H, W, 3]."""
    blurred = ndimage.uniform_filter(image, (1,) * (image.ndim - 3) + (3, 3, 1), mode='nearest')
    return blurred - blurred.mean(axis=-2, keepdims=True)


def corr(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def measure(real: np.ndarray, once: np.ndarray, twice: np.ndarray) -> dict[str, float]:
    """The numbers of a variant from its samples [N, H, W, 3] and those of twice the width."""
    width, border = real.shape[1], real.shape[1] // 4
    stretched = np.asarray(jax.image.resize(real, (real.shape[0], 2 * width, 3), 'linear'))
    hp, hp2 = horizontal(real), horizontal(stretched)
    mean2, spread = twice.mean(axis=0), once.std(axis=0).mean(axis=(0, 2))
    side = width // 8
    return {
        'layout: corr(hp(sample), hp(S))': float(np.mean([corr(horizontal(s), hp) for s in once])),
        'stretches: corr(hp(wide sample), hp(S2))': float(np.mean([corr(horizontal(s), hp2) for s in twice])),
        'keeps size: corr(hp(left of wide mean), hp(S))': corr(horizontal(mean2[:, :width]), hp),
        'left border of wide mean': corr(mean2[:, :border], real[:, :border]),
        'right border of wide mean': corr(mean2[:, -border:], real[:, -border:]),
        'spread at border / centre': float(
            np.r_[spread[:side], spread[-side:]].mean() / spread[width // 2 - side : width // 2 + side].mean()
        ),
    }


def configuration(
    image: pathlib.Path, size: tuple[int, int], changes: dict, iterations: int, width: int, seed: int
) -> Config:
    """A small SinGAN of an image, whose finest scale has `size` (width, height); the coarsest has half of it."""
    return Config(
        'singan',
        singan.Config(
            min_size=min(size) // 2,
            max_size=max(size),
            scale_factor=0.5,
            base_channels=width,
            min_feat_channels=width,
            iters_per_scale=iterations,
            lr_decay_iter=iterations * 4 // 5,
            **changes,
        ),
        DataConfig(image=str(image), flip=False, cache=True),
        OptimConfig(g_lr=5e-4, d_lr=5e-4, beta1=0.5, beta2=0.999),
        TrainConfig(batch_size=1, keep_best=0, seed=seed, sample_every=0, checkpoint_every=iterations),
    )


def trained(config: Config, workdir: pathlib.Path) -> tuple[Model, dict[str, float]]:
    """The model, and what its training took, unless an earlier call began it."""
    begun, start = bool(steps_of(workdir / 'checkpoints')), time.perf_counter()
    state = run(config, workdir)
    seconds, model = time.perf_counter() - start, load(workdir)
    if int(state.step) < model.gan.num_steps():  # it was asked to stop
        raise SystemExit(f'{workdir} is not finished, and nothing was written; the same command goes on.')
    return model, {} if begun else {'seconds of training': round(seconds, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=pathlib.Path, required=True)
    parser.add_argument('--image', type=pathlib.Path, help='default: the toy')
    parser.add_argument('--side', type=int, default=36, help='shorter side of the finest scale; the coarsest has half')
    parser.add_argument('--iterations', type=int, default=400, help='per scale')
    parser.add_argument('--width', type=int, default=16, help='channels of every layer')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    image = toy() if args.image is None else np.asarray(Image.open(args.image).convert('RGB'))
    scale = args.side / min(image.shape[:2])
    size = tuple(round(n * scale) for n in image.shape[1::-1])
    Image.fromarray(image).resize(size, Image.Resampling.LANCZOS).save(args.out / 'image.png')

    results, rows = {}, []
    for number, (name, changes) in enumerate(VARIANTS.items()):
        config = configuration(args.out / 'image.png', size, changes, args.iterations, args.width, args.seed)
        model, told = trained(config, args.out / str(number))
        real = editing.real_image(model)
        height, width = real.shape[:2]
        once, twice = (editing.samples(model, range(SAMPLES), size=(height, w)) for w in (width, 2 * width))
        results[name] = measure(real, once, twice) | told
        rows.append(np.concatenate([*once[:3], *twice[:3]], axis=1))
        print(name, json.dumps(results[name], indent=1), flush=True)
    top = np.ones_like(rows[0])
    top[:, : real.shape[1]] = real
    grid = image_grid(to_uint8(np.stack([top, *rows])), 1)
    Image.fromarray(grid).resize((2 * grid.shape[1], 2 * grid.shape[0]), Image.Resampling.NEAREST).save(
        args.out / 'positions.png'
    )
    (args.out / 'positions.json').write_text(
        json.dumps({'arguments': vars(args), 'results': results}, indent=2, default=str)
    )


if __name__ == '__main__':
    main()
