"""DeepFillv2: free-form and user-guided inpainting.

python train.py --config configs/deepfill.py:ARGUMENTS --workdir WORKDIR --config.data.folder=PATH

Arguments combine with commas: one of the runs, any of the changes, and one of small and tiny. The published runs took
days on one GPU (some 5 on a GTX 1080 Ti for the authors' earlier system) and were ended by hand; here they end after
four million images. None of them has been repeated with this library.

  run               images                   what is done with them
  places2 (default) Places2                  random windows of 256 x 256 pixels
  celebahq          CelebA-HQ                resized to 256 x 256

  change            (each changes the model; all train with the same losses, masks and schedule)
  guided            a sketch channel, from edges of the training images: Canny; --config.data.edges=files takes edges
                    from files, such as those of HED, which the publication used. A model knows one kind of edges.
                    With partial, only for comparison: `inpaint` then refuses sketches, because it cannot see them.
  partial           partial convolutions (Liu et al. 2018) on the layers of this network: a baseline
  vanilla           ordinary convolutions: a baseline
  gate-depthwise    gates from depthwise and pointwise convolutions (Yi et al. 2020)
  gate-single       one gate for all channels of a layer (Yi et al. 2020)
  wide              1.4 times the width: about as many parameters as gated convolutions, for partial and vanilla
  port              what differs in the PyTorch port of the program, with its spectral norm

fill64, used alone, is the shipped model of this name, as the last part of its run trained it: guided and small,
with a wider discriminator, batches of 16, the published rate and more weight on the absolute error. docs/models.md has
the earlier parts.

small is the same program on windows of 64 pixels from any photographs, with a third of the width, a larger rate and
2000 steps, for a CPU. tiny is for tests: small procedural images, a hundred steps.
"""

import dataclasses

from pegan_jax.config import Config, ConfigError, DataConfig, OptimConfig, TrainConfig, merge, pick
from pegan_jax.models import deepfill

RUNS = {
    'places2': DataConfig(folder='data/places2', resolution=256, crop='window', flip=False),
    'celebahq': DataConfig(folder='data/celebahq', resolution=256, crop='stretch', flip=False),
}
CHANGES = {
    'guided': dict(guided=True),
    'partial': dict(conv_type='partial'),
    'vanilla': dict(conv_type='vanilla'),
    'gate-depthwise': dict(gate='depthwise'),
    'gate-single': dict(gate='single_channel'),
    'wide': dict(cnum=68),
    'port': deepfill.VARIANTS['port-pt'],
}


def get_config(arg=''):
    words = pick(arg, (*RUNS, *CHANGES, 'fill64', 'small', 'tiny'), 'configs/deepfill.py')
    if 'fill64' in words and len(words) > 1:
        raise ConfigError(f'{" and ".join(words)} do not combine; fill64 is a run of its own.')
    runs = [word for word in words if word in RUNS] or ['places2']
    if len(runs) > 1:
        raise ConfigError(f'{" and ".join(runs)} exclude each other; choose one of them.')
    changes, data = merge(words, CHANGES, 'configs/deepfill.py'), RUNS[runs[0]]
    if 'guided' in words:
        data = dataclasses.replace(data, edges='canny')
    optim = OptimConfig(g_lr=1e-4, d_lr=1e-4, beta1=0.5, beta2=0.999)
    if 'fill64' in words:
        return shipped(small(CHANGES['guided'], dataclasses.replace(data, edges='canny'), optim))
    if 'tiny' in words:
        return tiny(changes, data, optim)
    if 'small' in words:
        return small(changes, data, optim)
    return Config(
        system='deepfill',
        model=deepfill.Config(**changes),
        data=data,
        optim=optim,
        train=TrainConfig(batch_size=16, total_kimg=4000.0, sample_every=4000, checkpoint_every=4000),
    )


def small(changes, data, optim):
    """Images of 64 pixels, and a third of the width."""
    model = deepfill.Config(img_resolution=64, d_cnum=16, **(changes | {'cnum': 24 if 'cnum' in changes else 16}))
    return Config(
        system='deepfill',
        model=model,
        data=dataclasses.replace(data, resolution=64, flip=True),
        optim=dataclasses.replace(optim, g_lr=1e-3, d_lr=1e-3),
        train=TrainConfig(
            batch_size=8, total_kimg=16.0, sample_every=500, checkpoint_every=500, metric_images=64, sample_grid=(4, 8)
        ),
    )


def shipped(config):
    """`small` with a discriminator of twice the width, and the settings of the last part of the training."""
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, d_cnum=32, l1_weight=16.0),
        optim=dataclasses.replace(config.optim, g_lr=1e-4, d_lr=1e-4),
        train=dataclasses.replace(config.train, batch_size=16, total_kimg=137.0),
    )


def tiny(changes, data, optim):
    """Images of 32 pixels, and a sixth of the width."""
    model = deepfill.Config(img_resolution=32, d_cnum=8, **(changes | {'cnum': 12 if 'cnum' in changes else 8}))
    return Config(
        system='deepfill',
        model=model,
        data=dataclasses.replace(data, tfds='worlds', folder=None, resolution=32, num_worlds=256),
        optim=dataclasses.replace(optim, g_lr=1e-3, d_lr=1e-3),
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
