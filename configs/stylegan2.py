"""StyleGAN2.

python train.py --config configs/stylegan2.py:ARGUMENTS --workdir WORKDIR [--config.data.folder=PATH]
"""

from pegan_jax.config import Config, DataConfig, TrainConfig
from pegan_jax.models import stylegan2


def get_config(arg=''):
    model = stylegan2.Config(
        img_resolution=16,
        z_dim=16,
        w_dim=16,
        mapping_layers=2,
        channel_base=128,
        channel_max=16,
        d_channel_base=128,
        d_channel_max=16,
        r1_gamma=0.1,
        ema_kimg=1.0,
    )
    return Config(
        'stylegan2',
        model,
        DataConfig(resolution=16, num_worlds=256),
        train=TrainConfig(
            batch_size=8,
            total_kimg=0.8,
            log_every=10,
            sample_every=50,
            checkpoint_every=50,
            metric_images=32,
            sample_grid=(2, 4),
        ),
    )
