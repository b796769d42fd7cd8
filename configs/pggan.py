"""PGGAN, also without zero padding and with positional encodings.

python train.py --config configs/pggan.py:ARGUMENTS --workdir WORKDIR [--config.data.folder=PATH]

Arguments combine with commas: one of the runs, no-pad, one of csg and spe, and tiny. SWD is the sliced Wasserstein
distance, from the highest resolution down and their mean, as mmgeneration reports it for its plain models. None of
these runs has been repeated with this library.

  run                   data                       published SWD                   published MS-SSIM
  celeba128 (default)   CelebA, cropped to faces   3.42, 4.04, 4.78, 20.38 (8.15)  0.3023
  bedroom128            LSUN bedroom               3.5, 2.96, 2.76, 9.65 (4.72)    0.0602
  celebahq1024          CelebA-HQ                  mean 4.655                      0.3379

The published runs had batches of 512 images at 4 x 4, half as many at every stage up to 64 x 64, and then 32, for
280,000 steps: 12,072,500 images. Here a run has one batch size, that of the last stages, for as many images; only the
number of steps of the first stages differs.

no-pad removes zero padding from the generator. csg and spe append a Cartesian grid or sinusoids to its first feature
maps. Xu et al. 2021 study both on PGGAN; their program is not public, and none of their numbers is repeated here.
tiny is the same program on small procedural images, with stages of 20 steps.
"""

from pegan_jax.config import Config, ConfigError, DataConfig, OptimConfig, TrainConfig, pick
from pegan_jax.models import pggan

RUNS = {
    'celeba128': DataConfig(folder='data/celeba-cropped', resolution=128),
    'bedroom128': DataConfig(folder='data/lsun-bedroom', resolution=128),
    'celebahq1024': DataConfig(folder='data/celeba-hq', resolution=1024),
}


def get_config(arg=''):
    words = pick(arg, (*RUNS, 'no-pad', 'csg', 'spe', 'tiny'), 'configs/pggan.py')
    runs, codes = ([word for word in words if word in choices] for choices in (RUNS, ('csg', 'spe')))
    for chosen in (runs, codes):
        if len(chosen) > 1:
            raise ConfigError(f'{" and ".join(chosen)} exclude each other; choose one of them.')
    data = RUNS[(runs or ['celeba128'])[0]]
    model = dict(upsampling='no-pad' if 'no-pad' in words else 'fused', encoding=(codes or ['none'])[0])
    stages = (600.0,) + (1200.0,) * (data.resolution.bit_length() - 4)
    model |= dict(img_resolution=data.resolution, stage_kimg=stages)
    train = dict(batch_size=32, total_kimg=12_072.5)
    if 'tiny' in words:
        data = DataConfig(resolution=16, num_worlds=256)
        model |= dict(img_resolution=16, z_dim=8, channel_base=128, channel_max=16)
        model |= dict(stage_kimg=(0.16, 0.16), fade_kimg=0.08)
        train = dict(
            batch_size=8,
            total_kimg=0.48,
            log_every=10,
            sample_every=30,
            checkpoint_every=30,
            metric_images=32,
            sample_grid=(2, 4),
        )
    return Config(
        system='pggan',
        model=pggan.Config(**model),
        data=data,
        optim=OptimConfig(g_lr=0.001, d_lr=0.001),
        train=TrainConfig(**train),
    )
