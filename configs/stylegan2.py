"""StyleGAN2.

python train.py --config configs/stylegan2.py:ARGUMENTS --workdir WORKDIR [--config.data.folder=PATH]

Arguments combine with commas: a run, another base for it, cond, and small or tiny. FID is what Karras et al. 2021
report in the StyleGAN3 paper, with 8 GPUs of 4 images each. There, except for ffhqu256, StyleGAN2 has Fourier features
as its input (its configuration B: --config.model.input=fourier, or stylegan3:b,RUN). None of these runs has been
repeated with this library. metfaces, metfacesu, afhqv2, beaches, cifar10 and images augment what D sees, adaptively, as
the release does (ADA); for a hundred thousand images and more, --config.model.augment=noaug costs less.

  run              data                          base       r1_gamma   published FID
  ffhq (default)   FFHQ, 1024 x 1024             stylegan2  10         2.70
  ffhqu            FFHQ-U, unaligned             stylegan2  10         3.79
  metfaces         MetFaces, 1024 x 1024         stylegan2  5          15.22
  metfacesu        MetFaces-U, unaligned         stylegan2  10         18.98
  afhqv2           AFHQv2, 512 x 512             stylegan2  5          4.62
  beaches          Beaches, 512 x 512            stylegan2  2          5.03
  ffhqu256         FFHQ-U, 256 x 256             paper256   1          5.14
  cifar10          CIFAR-10, 32 x 32             cifar      0.01       none here
  images256        any folder, data.folder=PATH  stylegan2  heuristic  none
  images512        any folder, data.folder=PATH  stylegan2  heuristic  none
  images1024       any folder, data.folder=PATH  stylegan2  heuristic  none

  base        (a run with a base other than its own takes r1_gamma from that base)
  stylegan2   the preset of the StyleGAN3 release
  auto        the heuristic of StyleGAN2-ADA for 8 GPUs, a function of the resolution
  paper256    as StyleGAN2-ADA compares at 256 x 256
  cifar       as StyleGAN2-ADA trains on CIFAR-10

The heuristic is r1_gamma = 0.0002 height width / batch_size; it follows --config.train.batch_size. Good values differ
between data sets by a factor of ten and more. cond trains with labels: the classes of CIFAR-10 or of AFHQv2's folders.

The MetFaces runs start from those of FFHQ-U: --config.train.init_from=WORKDIR of ffhqu. With
--config.model.freeze_layers=N the first N convolutions of its discriminator are kept as they are (Freeze-D). Layers of
the highest resolutions run in bfloat16, where the published runs had float16; model.dtype=float32 is exact.

small and tiny are the same program on procedural images of 32 and 16 pixels: some minutes on two CPU cores, and a test.
"""

import dataclasses

from pegan_jax.config import Config, ConfigError, DataConfig, OptimConfig, TrainConfig, pick
from pegan_jax.models import stylegan2

# Data, published r1_gamma, base, classes.
RUNS = {
    'ffhq': (DataConfig(tfds='ffhq', resolution=1024), 10.0, 'stylegan2', 0),
    'ffhqu': (DataConfig(folder='data/ffhqu', resolution=1024), 10.0, 'stylegan2', 0),
    'metfaces': (DataConfig(folder='data/metfaces', resolution=1024), 5.0, 'stylegan2', 0),
    'metfacesu': (DataConfig(folder='data/metfacesu', resolution=1024), 10.0, 'stylegan2', 0),
    'afhqv2': (DataConfig(folder='data/afhqv2', resolution=512), 5.0, 'stylegan2', 3),
    'beaches': (DataConfig(folder='data/beaches', resolution=512), 2.0, 'stylegan2', 0),
    'ffhqu256': (DataConfig(folder='data/ffhqu', resolution=256), 1.0, 'paper256', 0),
    'cifar10': (DataConfig(tfds='cifar10', resolution=32, flip=False), 0.01, 'cifar', 10),
    'images256': (DataConfig(folder='data/images', resolution=256), None, 'stylegan2', 0),
    'images512': (DataConfig(folder='data/images', resolution=512), None, 'stylegan2', 0),
    'images1024': (DataConfig(folder='data/images', resolution=1024), None, 'stylegan2', 0),
}

AUGMENTED = ('metfaces', 'metfacesu', 'afhqv2', 'beaches', 'cifar10', 'images256', 'images512', 'images1024')


def auto(resolution, devices=8):
    """(model fields, learning rate, batch size, kimg) of the heuristic of StyleGAN2-ADA."""
    batch_size = max(min(devices * min(4096 // resolution, 32), 64), devices)
    base = 16384 if resolution < 512 else 32768
    model = dict(
        mapping_layers=2,
        w_avg_beta=0.995,
        channel_base=base,
        d_channel_base=base,
        mbstd_group_size=min(batch_size // devices, 4),
    )
    return model, 0.002 if resolution >= 1024 else 0.0025, batch_size, 25_000.0


PAPER256 = dict(
    w_avg_beta=0.995,
    channel_base=16384,
    d_channel_base=16384,
    mbstd_group_size=8,
    r1_gamma=1.0,
    ema_kimg=20.0,
    ema_rampup=None,
)
CIFAR = dict(
    mapping_layers=2,
    w_avg_beta=0.995,
    d_architecture='orig',
    mbstd_group_size=32,
    r1_gamma=0.01,
    pl_weight=0.0,
    style_mixing_prob=0.0,
    ema_kimg=500.0,
)
BASES = {
    'stylegan2': lambda resolution: (dict(), 0.002, 32, 25_000.0),
    'auto': auto,
    'paper256': lambda resolution: (PAPER256, 0.0025, 64, 25_000.0),
    'cifar': lambda resolution: (CIFAR, 0.0025, 64, 100_000.0),
}


def get_config(arg=''):
    words = pick(arg, (*RUNS, *BASES, 'cond', 'small', 'tiny'), 'configs/stylegan2.py')
    runs, bases = ([word for word in words if word in choices] for choices in (RUNS, BASES))
    for chosen in (runs, bases):
        if len(chosen) > 1:
            raise ConfigError(f'{" and ".join(chosen)} exclude each other; choose one of them.')
    run = (runs or ['ffhq'])[0]
    data, gamma, base, classes = RUNS[run]
    changes, lr, batch_size, kimg = BASES[(bases or [base])[0]](data.resolution)
    if bases in ([], [base]):
        changes = changes | dict(r1_gamma=gamma)
    short = [word for word in words if word in ('small', 'tiny')]
    if 'cond' in words:
        if not classes or short:
            raise ConfigError(f'configs/stylegan2.py: {short[0] if short else run} has no classes for cond.')
        data, changes = dataclasses.replace(data, labels=True), changes | dict(c_dim=classes)
    if run in AUGMENTED:
        changes = changes | dict(augment='ada')
    if run.startswith('metfaces'):
        kimg = 5_000.0
    if short:
        return small(changes, lr, tiny='tiny' in words)
    return Config(
        system='stylegan2',
        model=stylegan2.Config(img_resolution=data.resolution, dtype='bfloat16', **changes),
        data=data,
        optim=OptimConfig(g_lr=lr, d_lr=lr),
        train=TrainConfig(batch_size=batch_size, total_kimg=kimg),
    )


def small(changes, lr, tiny):
    """Few resolutions and channels, and a schedule to match."""
    resolution, channels = (16, 16) if tiny else (32, 48)
    sizes = dict(
        z_dim=channels,
        w_dim=channels,
        mapping_layers=2,
        channel_base=128 if tiny else 512,
        channel_max=channels,
        d_channel_base=128 if tiny else 1024,
        d_channel_max=16 if tiny else 96,
        mbstd_group_size=4,
        r1_gamma=0.1,
        ema_kimg=1.0 if tiny else 2.0,
    )
    return Config(
        system='stylegan2',
        model=stylegan2.Config(img_resolution=resolution, **(changes | sizes)),
        data=DataConfig(resolution=resolution, num_worlds=256 if tiny else 4096, cache=not tiny),
        optim=OptimConfig(g_lr=lr, d_lr=lr),
        train=TrainConfig(
            batch_size=8 if tiny else 16,
            total_kimg=0.8 if tiny else 32.0,
            log_every=10 if tiny else 50,
            sample_every=50 if tiny else 500,
            checkpoint_every=50 if tiny else 1000,
            metric_images=32 if tiny else 256,
            sample_grid=(2, 4) if tiny else (4, 8),
        ),
    )
