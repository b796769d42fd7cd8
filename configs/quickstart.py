"""A small CIPS that learns the procedural world in five to twelve minutes on two CPU cores.

python train.py --config quickstart --workdir runs/quickstart

Any other images: --config.data.folder=PATH.

Models of these names ship:
quickstart:worlds64 and quickstart:panorama64 are the same at 64 x 64 pixels, wider and trained ten times as long: on a
plane, and on a cylinder, where images are quarters of the circle. They are for a GPU.
quickstart:smileys32 is wider too, and learns the faces that docs/smileys.py draws.
"""

import dataclasses

from pegan_jax.config import Config, ConfigError, DataConfig, OptimConfig, TrainConfig, pick
from pegan_jax.models import cips

LARGE = dict(img_resolution=64, channels=(128, 128, 96), d_channels=(32, 64, 128, 128, 128), r1_gamma=1.0, ema_kimg=8.0)
MODELS = {'worlds64': dict(hidden_size=96, z_dim=96), 'panorama64': dict(panorama_width=256)}
FACES = dict(hidden_size=96, channels=(128, 128, 96), d_channels=(32, 64, 128, 128), ema_kimg=8.0)


def get_config(arg=''):
    words = pick(arg, (*MODELS, 'smileys32'), 'configs/quickstart.py')
    if len(words) > 1:
        raise ConfigError(f'{" and ".join(words)} exclude each other; choose one of them.')
    if words == ['smileys32']:
        return faces(small())
    return larger(small(), MODELS[words[0]]) if words else small()


def larger(config, changes):
    """As trained on a GPU."""
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, **LARGE, **changes),
        data=dataclasses.replace(config.data, resolution=64, num_worlds=8192),
        train=dataclasses.replace(config.train, batch_size=32, total_kimg=344.0, checkpoint_every=2000),
    )


def faces(config):
    """Images from a folder that docs/smileys.py makes."""
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, **FACES),
        data=dataclasses.replace(config.data, tfds=None, folder='data/smileys'),
        train=dataclasses.replace(config.train, batch_size=32, total_kimg=200.0),
    )


def small():
    """The quickstart."""
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
