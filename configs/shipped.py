"""The small models that ship with the library; each line trains one of them again on two CPU cores.

python train.py --config configs/shipped.py:worlds64 --workdir runs/worlds64

  NAME        system  images                     what it is for
  worlds64    CIPS    procedural worlds, 64 px   any grid: finer, wider, turned, scattered
  panorama64  CIPS    procedural worlds, 64 px   the same on a cylinder: panoramas, little planets

docs/models.md says how long each was trained, on what, and what it scores.
"""

from pegan_jax.config import Config, DataConfig, OptimConfig, TrainConfig, pick
from pegan_jax.models import cips

RUNS = {
    'worlds64': dict(),
    'panorama64': dict(panorama_width=256),
}


def get_config(arg=''):
    (name,) = pick(arg, tuple(RUNS), 'configs/shipped.py') or ['worlds64']
    return Config(
        system='cips',
        model=cips.Config(
            img_resolution=64,
            hidden_size=64,
            z_dim=64,
            mapping_layers=3,
            channels=(96, 96, 64),
            d_channels=(16, 32, 64, 128),
            patch_size=32,
            train_lookup='bilinear',
            r1_gamma=0.3,
            ema_kimg=4.0,
            ema_rampup=0.2,
            **RUNS[name],
        ),
        data=DataConfig(resolution=64, num_worlds=16384, cache=True),
        optim=OptimConfig(g_lr=0.003, d_lr=0.003),
        train=TrainConfig(batch_size=16, total_kimg=160, sample_every=1000, checkpoint_every=1000),
    )
