"""A small CIPS that learns the procedural world on a laptop CPU."""

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
            d_channels=(32, 64, 96, 128),
            train_lookup='bilinear',
            r1_gamma=1.0,
            ema_kimg=2.0,
            ema_rampup=0.2,
        ),
        data=DataConfig(tfds='worlds', resolution=32, num_worlds=4096, cache=True),
        optim=OptimConfig(g_lr=0.003, d_lr=0.003),
        train=TrainConfig(batch_size=16, total_kimg=40, log_every=50, sample_every=500, checkpoint_every=1000, keep_best=1, metric_images=256),
    )
