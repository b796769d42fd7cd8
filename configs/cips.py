"""CIPS.

python train.py --config configs/cips.py --workdir WORKDIR

Arguments: ffhq256 (default) is the published run, for 8 devices with 4 images each; tiny is the same program on small
procedural images, a hundred steps in well under a minute on a laptop's CPU.
"""

from pegan_jax.config import Config, DataConfig, TrainConfig, pick
from pegan_jax.models import cips


def get_config(arg=''):
    words = pick(arg, ('ffhq256', 'tiny'), 'configs/cips.py')
    if 'tiny' in words:
        return Config(
            system='cips',
            model=cips.Config(
                img_resolution=16,
                hidden_size=16,
                z_dim=16,
                mapping_layers=2,
                channels=(32, 32, 16),
                d_channels=(16, 32, 32),
                ema_kimg=1.0,
                ema_rampup=0.05,
            ),
            data=DataConfig(resolution=16, num_worlds=256),
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
    return Config(
        system='cips',
        model=cips.Config(),
        data=DataConfig(tfds='ffhq', resolution=256),
        train=TrainConfig(batch_size=32, total_kimg=38_400.0),
    )
