"""MS-PIE and the StyleGAN2 studies of Xu et al. 2021: positional encodings instead of zero padding.

python train.py --config configs/mspie.py:ARGUMENTS --workdir WORKDIR [--config.data.folder=PATH]

Arguments combine with commas: one row (default f), changes to it, and small or tiny. The scores are those of the
release for FFHQ at the largest of the row's sizes, with 8 GPUs: FID of 50,000 images, precision and recall of 10,000.
None of these runs has been repeated with this library.

  row     input                padding  upsampling    channels G/D  sizes             FID    precision  recall
  a       constant 4 x 4       zero     deconv        2 / 2         256               5.56   75.92      51.24
  b       constant 4 x 4       zero     deconv        2 / 2         512               4.91   75.65      54.58
  c       constant, resized    zero     conv-resize   2 / 2         256, 384, 512     3.35   73.84      55.77
  d       grid                 zero     conv-resize   2 / 2         256, 384, 512     3.50   73.28      56.16
  e       sinusoids, resized   zero     conv-resize   2 / 2         256, 384, 512     3.15   74.13      56.88
  f       sinusoids, expanded  zero     conv-resize   2 / 2         256, 384, 512     2.93   73.51      57.32
  g       sinusoids, expanded  zero     conv-resize   1 / 1         256, 384, 512     3.40   73.05      56.45
  h       constant, resized    none     resize-conv   2 / 2         256, 384, 512     4.01   72.81      54.35
  i       grid                 none     resize-conv   2 / 2         256, 384, 512     3.76   73.26      54.71
  j       sinusoids, resized   none     resize-conv   2 / 2         256, 384, 512     4.23   73.11      54.63
  k       sinusoids, expanded  none     resize-conv   2 / 2         256, 384, 512     4.17   73.05      51.07
  f-896   sinusoids, expanded  zero     conv-resize   2 / 2         256, 512, 896     4.10   72.21      50.29
  f-1024  sinusoids, expanded  zero     conv-resize   1 / 2         256, 512, 1024    6.24   71.79      49.92

  change                    of
  const, csg, spe           the input
  expand, interpolate       how sinusoids get to other sizes
  deconv, conv-resize, resize-conv
                            the upsampling
  pad, no-pad               zero padding in the generator; no-pad takes resize-conv, unless conv-resize is given
  intended-probs            the first size is drawn half of the time and the others a quarter each, as in the paper;
                            the released program draws them uniformly

Row a is also called sg2, for the study of a single size: sg2, sg2,conv-resize, sg2,no-pad, sg2,no-pad,csg,
sg2,no-pad,spe. `sample --size HxW` makes images in sizes that were not trained, including rectangles.

small is the same program on procedural worlds at 32, 48 and 64 pixels (some hours on two CPU cores; f,small ships as
sizes64), tiny at 16 and 24, for tests. Rows of one size take the first.
"""

from pegan_jax.config import Config, ConfigError, DataConfig, OptimConfig, TrainConfig, pick
from pegan_jax.models import mspie

LITE = 16384  # channel_base of the networks with half of the channels
MULTI = dict(upsampling='conv-resize', scales=(0, 2, 4), d_pool=2)
BARE = dict(upsampling='resize-conv', padding=False, scales=(0, 2, 4), d_pool=2)
ROWS = {
    'a': dict(),
    'b': dict(img_resolution=512),
    'c': dict(head='const', **MULTI),
    'd': dict(head='csg', **MULTI),
    'e': dict(head='spe', interpolate_head=True, **MULTI),
    'f': dict(head='spe', **MULTI),
    'g': dict(head='spe', channel_base=LITE, d_channel_base=LITE, **MULTI),
    'h': dict(head='const', **BARE),
    'i': dict(head='csg', **BARE),
    'j': dict(head='spe', interpolate_head=True, **BARE),
    'k': dict(head='spe', **BARE),
    'f-896': dict(head='spe', **MULTI | dict(scales=(0, 4, 10))),
    'f-1024': dict(head='spe', channel_base=LITE, **MULTI | dict(scales=(0, 4, 12))),
}
ROWS['sg2'] = ROWS['a']
CHANGES = {
    'head': {'const': 'const', 'csg': 'csg', 'spe': 'spe'},
    'interpolate_head': {'expand': False, 'interpolate': True},
    'upsampling': {'deconv': 'deconv', 'conv-resize': 'conv-resize', 'resize-conv': 'resize-conv'},
    'padding': {'pad': True, 'no-pad': False},
    'scale_probs': {'intended-probs': (0.5, 0.25, 0.25)},
}


def chosen(words, choices):
    """The one of `words` that is among `choices`, or None."""
    found = [word for word in words if word in choices]
    if len(found) > 1:
        raise ConfigError(f'{" and ".join(found)} exclude each other; choose one of them.')
    return found[0] if found else None


def get_config(arg=''):
    changing = (word for choices in CHANGES.values() for word in choices)
    words = pick(arg, (*ROWS, *changing, 'small', 'tiny'), 'configs/mspie.py')
    row = chosen(words, ROWS) or 'f'
    changes = {name: choices[word] for name, choices in CHANGES.items() if (word := chosen(words, choices))}
    if changes.get('padding') is False:
        changes = dict(upsampling='resize-conv') | changes
    model = ROWS[row] | changes
    if 'small' in words or 'tiny' in words:
        return small(model, 'tiny' in words)
    iterations, batch_size = (1_500_002, 16) if row == 'f-1024' else (1_100_002, 24)
    resolution = {'a': 256, 'sg2': 256, 'f-896': 1024, 'f-1024': 1024}.get(row, 512)
    return Config(
        system='mspie',
        model=mspie.Config(**model),
        data=DataConfig(tfds='ffhq', resolution=resolution),
        optim=OptimConfig(g_lr=0.002, d_lr=0.002),
        train=TrainConfig(batch_size=batch_size, total_kimg=iterations * batch_size / 1000),
    )


def small(model, tiny):
    """Narrow networks. Rows of several sizes have three, as published, or the smallest pair."""
    resolution, channels = (16, 16) if tiny else (32, 64)
    scales = (0,) if 'scales' not in model else (0, 2) if tiny else (0, 2, 4)
    if 'scale_probs' in model and tiny:
        model = model | dict(scale_probs=(0.75, 0.25))
    narrow = dict(
        img_resolution=resolution,
        scales=scales,
        z_dim=channels,
        mapping_layers=2,
        channel_base=128 if tiny else 768,
        channel_max=channels,
        d_channel_base=128 if tiny else 1024,
        d_channel_max=16 if tiny else 96,
        # With 0.1 the critic of `small` was far ahead after 39,000 images, and images had no detail.
        r1_gamma=0.1 if tiny else 1.0,
        pl_weight=2.0 if tiny else 0.0,  # as in the CIFAR-10 runs of StyleGAN2
        r1_interval=4 if tiny else 16,
        ema_beta=0.98 if tiny else 0.999,
    )
    return Config(
        system='mspie',
        model=mspie.Config(**model | narrow),
        data=DataConfig(resolution=resolution * (4 + scales[-1]) // 4, num_worlds=256 if tiny else 8192),
        optim=OptimConfig(g_lr=0.002, d_lr=0.002),
        train=TrainConfig(
            batch_size=8 if tiny else 16,
            total_kimg=0.8 if tiny else 160.0,
            log_every=10 if tiny else 100,
            sample_every=50 if tiny else 1000,
            checkpoint_every=50 if tiny else 1000,
            metric_images=32 if tiny else 256,
            sample_grid=(2, 4) if tiny else (4, 8),
        ),
    )
