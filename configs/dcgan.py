"""DCGAN, also without zero padding and with positional encodings.

python train.py --config configs/dcgan.py:ARGUMENTS --workdir WORKDIR [--config.data.folder=PATH]

Arguments combine with commas: one of the runs, no-pad, one of csg and spe, and tiny. SWD is the sliced Wasserstein
distance at 64, 32 and 16 pixels and their mean, as mmgeneration reports them for its plain models. None of these runs
has been repeated with this library.

  run                  data                        steps of 128 images   published SWD                 published MS-SSIM
  celeba64 (default)   CelebA, cropped to faces    300,002               8.93, 10.53, 50.32 (23.26)    0.2899
  bedroom64            LSUN bedroom                1,500,002             mean 58.6                     0.2095
  mnist64              MNIST                       5,000                 mean 11.32                    0.1395

no-pad removes zero padding from the generator. csg and spe append a Cartesian grid or sinusoids to its first feature
maps. Xu et al. 2021 study both on DCGAN; their program is not public, and none of their numbers is repeated here.
tiny is the same program on small procedural images.
"""

from pegan_jax.config import Config, ConfigError, DataConfig, OptimConfig, TrainConfig, pick
from pegan_jax.models import dcgan

# Data, learning rates of G and D, steps.
RUNS = {
    'celeba64': (dict(folder='data/celeba-cropped'), (2e-4, 2e-4), 300_002),
    'bedroom64': (dict(folder='data/lsun-bedroom'), (2e-4, 2e-4), 1_500_002),
    'mnist64': (dict(tfds='mnist'), (4e-4, 1e-4), 5_000),
}


def get_config(arg=''):
    words = pick(arg, (*RUNS, 'no-pad', 'csg', 'spe', 'tiny'), 'configs/dcgan.py')
    runs, codes = ([word for word in words if word in choices] for choices in (RUNS, ('csg', 'spe')))
    for chosen in (runs, codes):
        if len(chosen) > 1:
            raise ConfigError(f'{" and ".join(chosen)} exclude each other; choose one of them.')
    data, (g_lr, d_lr), steps = RUNS[(runs or ['celeba64'])[0]]
    model = dict(padding='none' if 'no-pad' in words else 'zero', encoding=(codes or ['none'])[0])
    data = dict(data, resolution=64, crop='stretch', flip=False)
    train = dict(batch_size=128, total_kimg=steps * 128 / 1000)
    if 'tiny' in words:
        model |= dict(img_resolution=16, z_dim=8, base_channels=16, d_base_channels=8)
        data = dict(resolution=16, num_worlds=256)
        train = dict(
            batch_size=8,
            total_kimg=0.8,
            log_every=10,
            sample_every=50,
            checkpoint_every=50,
            metric_images=32,
            sample_grid=(2, 4),
        )
    return Config(
        system='dcgan',
        model=dcgan.Config(**model),
        data=DataConfig(**data),
        optim=OptimConfig(g_lr=g_lr, d_lr=d_lr, beta1=0.5, beta2=0.999),
        train=TrainConfig(**train),
    )
