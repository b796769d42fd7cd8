"""A run of the example; the argument is a folder of images.

python train.py --config tests/example/waves_config.py:photos --workdir runs/waves
"""

from example import waves

from pegan_jax.config import Config, DataConfig, OptimConfig, TrainConfig
from pegan_jax.models import SYSTEMS

SYSTEMS['waves'] = waves  # a system of this package has this line in pegan_jax/models/__init__.py


def get_config(arg=''):
    return Config(
        system='waves',
        model=waves.Config(),
        data=DataConfig(folder=arg or None, resolution=8),
        optim=OptimConfig(g_lr=0.02, d_lr=0.02),
        train=TrainConfig(
            batch_size=8,
            total_kimg=0.08,
            log_every=2,
            sample_every=0,
            checkpoint_every=4,
            keep_best=0,
            sample_grid=(2, 2),
        ),
    )
