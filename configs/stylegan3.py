"""StyleGAN3.

python train.py --config configs/stylegan3.py:ARGUMENTS --workdir WORKDIR [--config.data.folder=PATH]

Arguments combine with commas: t (default, translation equivariance) or r (and rotation), and one of the runs.
FID, EQ-T and EQ-R (dB) are what Karras et al. 2021 report for T and for R, with 8 GPUs of 4 images each. None of these
runs has been repeated with this library. metfaces, metfacesu, afhqv2 and beaches augment what D sees, adaptively, as
published (ADA); for a small set of your own images, of some ten thousand or fewer, --config.model.augment=ada.

  run              data                                r1_gamma T, R   published T             published R
  ffhq (default)   FFHQ, 1024 x 1024                   32.8, 32.8      2.79, 61.21, 13.82      3.07, 64.76, 46.62
  ffhqu            FFHQ-U, unaligned                   32.8, 32.8      3.67, 61.69, 13.95      3.66, 64.78, 47.64
  metfaces         MetFaces, 1024 x 1024               6.6, 3.3        15.11, 65.23, 16.82     15.33, 64.86, 46.81
  metfacesu        MetFaces-U, unaligned               16.4, 6.6       18.75, 64.11, 16.63     18.75, 66.34, 48.57
  afhqv2           AFHQv2, 512 x 512                   8.2, 16.4       4.04, 60.15, 13.51      4.40, 64.89, 40.34
  beaches          Beaches, 512 x 512                  4.1, 12.3       4.32, 59.33, 15.88      4.57, 63.66, 37.42
  ffhqu256         FFHQ-U at 256 x 256, the ablation   1, 1            4.62, 63.01, 13.12      4.50, 66.65, 40.48
  images256        any folder, data.folder=PATH        2.05            none
  images512        any folder, data.folder=PATH        8.2             none
  images1024       any folder, data.folder=PATH        32.8            none
  small            the procedural world, 32 x 32       0.3, 0.3        none, some minutes on two CPU cores
  tiny             the procedural world, 16 x 16       0.3, 0.3        none, for tests

r1_gamma matters, and depends on the data. For other images it is 0.001 height width / batch_size, which gives the
published 32.8 at 1024 pixels; where it does not converge, or collapses, half and double are what to try next. It is
fixed when the configuration is made: with another size or batch_size set --config.model.r1_gamma too, and
model.magnitude_ema_beta to 0.5 ** (batch_size / 20000).

The MetFaces runs start from those of FFHQ-U: --config.train.init_from=WORKDIR of ffhqu, with ada_kimg=100.
Layers of the highest resolutions run in bfloat16, where the published runs had float16; model.dtype=float32 is exact.
"""

from pegan_jax.config import Config, ConfigError, DataConfig, OptimConfig, TrainConfig, pick
from pegan_jax.models import stylegan3

VARIANTS = {
    't': dict(),
    'r': dict(conv_kernel=1, use_radial_filters=True, blur_init_sigma=10.0),
}

# r1_gamma of T and R, data.
RUNS = {
    'ffhq': ((32.8, 32.8), DataConfig(tfds='ffhq', resolution=1024)),
    'ffhqu': ((32.8, 32.8), DataConfig(folder='data/ffhqu', resolution=1024)),
    'metfaces': ((6.6, 3.3), DataConfig(folder='data/metfaces', resolution=1024)),
    'metfacesu': ((16.4, 6.6), DataConfig(folder='data/metfacesu', resolution=1024)),
    'afhqv2': ((8.2, 16.4), DataConfig(folder='data/afhqv2', resolution=512)),
    'beaches': ((4.1, 12.3), DataConfig(folder='data/beaches', resolution=512)),
    'ffhqu256': ((1.0, 1.0), DataConfig(folder='data/ffhqu', resolution=256)),
    'images256': (None, DataConfig(folder='data/images', resolution=256)),
    'images512': (None, DataConfig(folder='data/images', resolution=512)),
    'images1024': (None, DataConfig(folder='data/images', resolution=1024)),
}

AUGMENTED = ('metfaces', 'metfacesu', 'afhqv2', 'beaches')


def get_config(arg=''):
    words = pick(arg, (*VARIANTS, *RUNS, 'small', 'tiny'), 'configs/stylegan3.py')
    variants = [word for word in words if word in VARIANTS] or ['t']
    runs = [word for word in words if word not in VARIANTS] or ['ffhq']
    for chosen in (variants, runs):
        if len(chosen) > 1:
            raise ConfigError(f'{" and ".join(chosen)} exclude each other; choose one of them.')
    variant, run = variants[0], runs[0]
    if run in ('small', 'tiny'):
        return small(variant, tiny=run == 'tiny')
    gammas, data = RUNS[run]
    batch_size = 64 if run == 'ffhqu256' else 32
    channel_base = 16384 if run == 'ffhqu256' else 32768
    # R has as many parameters in twice as many channels, as its kernels are 1 x 1.
    wide = 2 if variant == 'r' else 1
    transfer = dict(blur_init_sigma=0.0, ema_rampup=None, ada_kimg=100.0) if run.startswith('metfaces') else {}
    return Config(
        system='stylegan3',
        model=stylegan3.Config(
            r1_gamma=heuristic_gamma(data, batch_size) if gammas is None else gammas[variant == 'r'],
            img_resolution=data.resolution,
            channel_base=channel_base * wide,
            channel_max=512 * wide,
            d_channel_base=channel_base,
            magnitude_ema_beta=0.5 ** (batch_size / 20_000),
            augment='ada' if run in AUGMENTED else 'noaug',
            dtype='bfloat16',
            **(VARIANTS[variant] | transfer),
        ),
        data=data,
        optim=OptimConfig(g_lr=0.0025, d_lr=0.0025 if run == 'ffhqu256' else 0.002),
        train=TrainConfig(batch_size=batch_size, total_kimg=5_000.0 if transfer else 25_000.0),
    )


def heuristic_gamma(data, batch_size):
    """A first guess of r1_gamma, proportional to the number of pixels."""
    return 0.001 * data.size[0] * data.size[1] / batch_size


def small(variant, tiny):
    """Few and narrow layers; with blur, it is gone after a thousand images."""
    resolution, channels, wide = (16, 16, 1) if tiny else (32, 48, 2 if variant == 'r' else 1)
    blur = {'blur_init_sigma': resolution / 16, 'blur_fade_kimg': 1.0} if variant == 'r' else {}
    return Config(
        system='stylegan3',
        model=stylegan3.Config(
            r1_gamma=0.3,
            img_resolution=resolution,
            z_dim=channels,
            w_dim=channels,
            channel_base=16 * resolution * wide,
            channel_max=channels * wide,
            num_layers=3 if tiny else 5,
            margin_size=4,
            d_channel_base=32 * resolution,
            d_channel_max=2 * channels,
            d_mapping_layers=2,
            magnitude_ema_beta=0.999 if tiny else 0.99,
            ema_kimg=2.0,
            ema_rampup=0.2,
            **(VARIANTS[variant] | blur),
        ),
        data=DataConfig(resolution=resolution, num_worlds=256 if tiny else 4096, cache=True),
        optim=OptimConfig(g_lr=0.0025, d_lr=0.002),
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
