"""A small CIPS that learns the procedural world in about five minutes on two CPU cores.

python train.py --config quickstart --workdir runs/quickstart

Any other images: --config.data.folder=PATH.
"""

from pegan_jax.config import Config, DataConfig, OptimConfig, TrainConfig, pick
from pegan_jax.models import cips


def get_config(arg=''):
    pick(arg, (), 'configs/quickstart.py')
    return Config(
        system='cips',
        model=cips.Config(
            img_resolution=32,
            hidden_size=64,
            z_dim=64,
            mapping_layers=3,
            channels=(96, 96, 64),
            d_channels=(16, 32, 64, 128),
            train_lookup='bilinear',
            r1_gamma=0.3,
            ema_kimg=2.0,
            ema_rampup=0.2,
        ),
        data=DataConfig(resolution=32, cache=True),
        optim=OptimConfig(g_lr=0.003, d_lr=0.003),
        train=TrainConfig(batch_size=16, total_kimg=32, sample_every=500, checkpoint_every=1000),
    )
