"""Inpainting with partial convolutions (Liu et al. 2018), a baseline for DeepFillv2.

python train.py --config configs/pconv.py:ARGUMENTS --workdir WORKDIR --config.data.folder=PATH --config.model.vgg=FILE

Arguments combine with commas: one of the runs, finetune, and tiny. FILE holds the weights of torchvision's vgg16, which
are not downloaded here; without it, training goes without the perceptual and style terms of the published loss.

  run                  data        pixels   batch   learning rate, then with finetune
  places256 (default)  Places2     256      6       2e-4, 5e-5
  places512            Places2     512      6       2e-4, 5e-5
  celebahq512          CelebA-HQ   512      6       2e-4, 5e-5

Three things differ from the paper: 256 pixels have one level less; the masks are those of DeepFillv2; and the length,
which the paper gives in days, is half a million steps, and a tenth of that for finetune. finetune keeps the statistics
of the encoder's batch normalisations from the first run, which is in runs/first unless --config.train.init_from=WORKDIR
says otherwise. Places2 is read from data/places2, CelebA-HQ from data/celebahq. None of these runs has been repeated
with this library. tiny is the same program on small procedural images.
"""

from pegan_jax.config import Config, ConfigError, DataConfig, OptimConfig, TrainConfig, pick
from pegan_jax.models import pconv

RUNS = {
    'places256': (256, dict(folder='data/places2', crop='window')),
    'places512': (512, dict(folder='data/places2', crop='window')),
    'celebahq512': (512, dict(folder='data/celebahq', crop='stretch')),
}


def get_config(arg=''):
    words = pick(arg, (*RUNS, 'finetune', 'tiny'), 'configs/pconv.py')
    runs, finetune = [word for word in words if word in RUNS], 'finetune' in words
    if len(runs) > 1:
        raise ConfigError(f'{" and ".join(runs)} exclude each other; choose one of them.')
    resolution, data = RUNS[(runs or ['places256'])[0]]
    model = dict(img_resolution=resolution, freeze_encoder_bn=finetune)
    train = dict(batch_size=6, total_kimg=300.0 if finetune else 3000.0)
    if 'tiny' in words:
        resolution, data = 32, dict(num_worlds=256)
        model |= dict(img_resolution=32, channel_base=8, channel_max=16)
        train = dict(
            batch_size=8,
            total_kimg=0.8,
            log_every=10,
            sample_every=50,
            checkpoint_every=50,
            metric_images=32,
            sample_grid=(2, 4),
        )
    if finetune:
        train |= dict(init_from='runs/first')
    return Config(
        system='pconv',
        model=pconv.Config(**model),
        data=DataConfig(resolution=resolution, flip=False, **data),
        optim=OptimConfig(g_lr=5e-5 if finetune else 2e-4, beta1=0.9, beta2=0.999),
        train=TrainConfig(**train),
    )
