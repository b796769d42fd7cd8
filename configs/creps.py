"""CREPS: images of any scale from rows and columns.

python train.py --config configs/creps.py:ARGUMENT --workdir WORKDIR [--config.data.folder=PATH]

FID is what Nguyen et al. 2023 report; that of churches is as quoted by others. None of these runs has been repeated
with this library. All but small and tiny augment what D sees, adaptively (ADA, bgc), as the published
program does unless told otherwise.

  run              data                              r1_gamma   published FID
  ffhq512          FFHQ, 512 x 512                   8.2        4.43
  ffhq1024         FFHQ, 1024 x 1024                 32.8       4.09
  churches256      LSUN churches, 256 x 256          2.0       5.50
  afhqv2           AFHQv2, 512 x 512                 8.2        none; 12.3 s for 1000 images on 8 A100
  images256        any folder, data.folder=PATH      2.0       none
  images512        any folder, data.folder=PATH      8.2        none
  images1024       any folder, data.folder=PATH      32.8       none
  small            the procedural world, 32 x 32     0.1        none, some minutes on two CPU cores
  tiny             the procedural world, 16 x 16     0.1        none, for tests

r1_gamma of ffhq1024, churches256 and the folders is StyleGAN3's guess, 0.001 height width / batch_size. Layers of the
last blocks and of the pixels run in bfloat16, where the published runs had float16; model.dtype=float32 is exact.
"""

from pegan_jax.config import Config, ConfigError, DataConfig, OptimConfig, TrainConfig, pick
from pegan_jax.models import creps

RUNS = {
    'ffhq512': DataConfig(tfds='ffhq', resolution=512),
    'ffhq1024': DataConfig(tfds='ffhq', resolution=1024),
    'churches256': DataConfig(folder='data/churches', resolution=256),
    'afhqv2': DataConfig(folder='data/afhqv2', resolution=512),
    'images256': DataConfig(folder='data/images', resolution=256),
    'images512': DataConfig(folder='data/images', resolution=512),
    'images1024': DataConfig(folder='data/images', resolution=1024),
}


def get_config(arg=''):
    words = pick(arg, (*RUNS, 'small', 'tiny'), 'configs/creps.py') or ['ffhq512']
    if len(words) > 1:
        raise ConfigError(f'{" and ".join(words)} exclude each other; choose one of them.')
    if words[0] in ('small', 'tiny'):
        return small(tiny=words[0] == 'tiny')
    data = RUNS[words[0]]
    return Config(
        system='creps',
        model=creps.Config(
            r1_gamma=round(0.001 * data.resolution**2 / 32, 1),
            img_resolution=data.resolution,
            augment='ada',
            dtype='bfloat16',
        ),
        data=data,
        optim=OptimConfig(g_lr=0.002, d_lr=0.002),
        train=TrainConfig(batch_size=32, total_kimg=25_000.0),
    )


def small(tiny):
    """Few blocks and channels, and a schedule to match."""
    resolution, channels = (16, 16) if tiny else (32, 48)
    return Config(
        system='creps',
        model=creps.Config(
            r1_gamma=0.1,
            img_resolution=resolution,
            z_dim=channels,
            w_dim=channels,
            mapping_layers=2,
            channel_base=16 * resolution,
            channel_max=channels,
            rank=4 if tiny else 8,
            biline_channels=8 if tiny else 16,
            frequency_std=2.0,
            d_channel_base=128 if tiny else 1024,
            d_channel_max=16 if tiny else 96,
            d_mapping_layers=2,
            ema_kimg=1.0 if tiny else 2.0,
        ),
        data=DataConfig(resolution=resolution, num_worlds=256 if tiny else 4096, cache=not tiny),
        optim=OptimConfig(g_lr=0.0025, d_lr=0.0025),
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
