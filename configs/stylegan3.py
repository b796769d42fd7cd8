"""StyleGAN3.

python train.py --config configs/stylegan3.py:ARGUMENTS --workdir WORKDIR [--config.data.folder=PATH]

Arguments combine with commas: a row of the paper's table, a to h, t (default) or r, and one of the runs. A row without
a run uses the table's, ffhqu256. FID, EQ-T and EQ-R (dB) are what Karras et al. 2021 report, with 8 GPUs of 4
images each. None of these runs has been repeated with this library. metfaces, metfacesu, afhqv2, beaches and images
augment what D sees, adaptively, as the release does (ADA); for a hundred thousand images and more,
--config.model.augment=noaug costs less.

  run              data                                r1_gamma T, R   published T             published R
  ffhq (default)   FFHQ, 1024 x 1024                   32.8, 32.8      2.79, 61.21, 13.82      3.07, 64.76, 46.62
  ffhqu            FFHQ-U, unaligned                   32.8, 32.8      3.67, 61.69, 13.95      3.66, 64.78, 47.64
  metfaces         MetFaces, 1024 x 1024               6.6, 3.3        15.11, 65.23, 16.82     15.33, 64.86, 46.81
  metfacesu        MetFaces-U, unaligned               16.4, 6.6       18.75, 64.11, 16.63     18.75, 66.34, 48.57
  afhqv2           AFHQv2, 512 x 512                   8.2, 16.4       4.04, 60.15, 13.51      4.40, 64.89, 40.34
  beaches          Beaches, 512 x 512                  4.1, 12.3       4.32, 59.33, 15.88      4.57, 63.66, 37.42
  ffhqu256         FFHQ-U at 256 x 256, the ablation   1, 1            4.62, 63.01, 13.12      4.50, 66.65, 40.48
  images256        any folder, data.folder=PATH        2.05            none
  images512        any folder, data.folder=PATH        8.2             none
  images1024       any folder, data.folder=PATH        32.8            none
  small            the procedural world, 32 x 32       0.3, 0.3        none, some minutes on two CPU cores
  tiny             the procedural world, 16 x 16       0.3, 0.3        none, for tests
  turn32           faces that docs/smileys.py draws    1.5, 1.5        none; r,turn32 ships as turn32

`scales` beside them (but not with a to c) is the second stage of any-resolution training (Chai et al. 2022, arXiv
2204.07156): patches at all scales between the size of the run and that of each image. The generator and its teacher
both begin as the model of --config.train.init_from=WORKDIR, a run of whole images (docs/train.md). The paper has the
size of patches, that of the first stage, their random scales and places, a generator that knows the scale, half of the
images whole, and the weight 5 of the teacher. These are our choices: scales are uniform in the side of the whole image;
the scale reaches all layers but the input, as log2, through two hidden layers whose sum with w begins as w; the teacher
is compared with whole images too, and by squares and gradients where the paper has LPIPS; 5,000 kimg.

  row   what changes                                                     published FID, EQ-T, EQ-T_frac, EQ-R, 256 x 256
  a     StyleGAN2 (stylegan2:RUN)                                        5.14
  b     Fourier features instead of the learned constant                 4.79, 16.23, 16.28, 10.81
  c     no noise, no path length term, no mixing of styles               4.54, 15.81, 15.84, 10.84
  d     2 mapping layers, one output, inputs of layers divided by their  5.21, 19.47, 19.57, 10.41
        running magnitude, colours by 4
  e     margins of 10 samples, upsampling with Kaiser filters            6.02, 24.62, 24.70, 10.97
  f     filtered nonlinearities, upsampling after the convolution        6.35, 30.60, 30.68, 10.81
  g     cutoffs below the critical ones, except in the last two layers   4.78, 43.90, 42.24, 10.84
  h     styles turn and move the Fourier features                        4.64, 45.20, 42.78, 10.61
  t     cutoffs that grow from layer to layer                            4.62, 63.01, 46.40, 13.12
  r     kernels of one pixel, radial filters, twice the channels         4.50, 66.65, 45.92, 40.48

d to h, and the inputs of b and c, are not published; they are reconstructed from the text, with these choices:
  b, c  frequencies are fixed, uniform within 2 cycles; the canvas is 4 x 4 without a margin.
  c     path length and mixing end here, as the appendix says. The main text removes only the noise here, and these two
        in d: --config.model.pl_weight=2 --config.model.pl_interval=4 --config.model.style_mixing_prob=0.9.
  d-h   14 layers are two at each of the rates 4, 8, ... 256 (T: flexible_layers). A layer that doubles the rate is the
        first at the new one; with 12 taps the attenuation is 40.66 dB, and 42.14 with the 24 of a doubling fused with
        that of the nonlinearity: the paper's 40 and 42, though it gives 42 for the very first layer.
  e-h   the last two canvases have no margin, as in T. The filter that upsamples keeps the band of the previous layer,
        as in T and R.
  d, e  upsampling comes before the convolution, as in StyleGAN2; f moves it.
  g, h  the half width of the transition band stays, (sqrt 2 - 1) s / 2 at the rate s, and the cutoff is s / 2 minus
        that; the two layers before the colours stay critical, as in T. At s = 4 the cutoff is 1.17, below the 2 cycles
        of the input, whose filter keeps them: the first layer reads all of them.

Variations of T and R from the appendix, at 256 x 256: FID, EQ-T | FID, EQ-T, EQ-R (EQ-T_frac of the first six)
  --config.model.filter_size=4                                 4.72, 57.49, 39.70 (44.65) of R
  --config.model.filter_size=8                                 4.66, 65.57, 42.09 (46.57) of R
  --config.model.lrelu_upsampling=1                            4.38, 39.96, 36.42 (37.55) of R
  --config.model.lrelu_upsampling=4                            4.57, 74.21, 40.97 (46.81) of R
  --config.model.first_stopband=2.828                          4.62, 51.10, 29.14 (44.46) of R
  --config.model.first_stopband=8.574                          4.68, 73.13, 41.63 (46.27) of R
  --config.model.flexible_layers=False                         4.64, 45.20 | 4.65, 44.74, 22.52
  --config.model.filter_kind=lanczos                           4.69, 51.93 | 4.44, 57.70, 25.25
  --config.model.filter_kind=gaussian                          5.91, 56.89 | 5.73, 59.53, 39.43
  --config.model.learned_transform=False                       5.93, 64.57 | 6.48, 66.20, 41.77
  --config.model.style_mixing_prob=0.5                         4.60, 63.48 | 4.67, 63.59, 40.90
  --config.model.pl_weight=0.5 --config.model.pl_interval=4    5.00, 68.36 | 5.98, 71.64, 42.18
  half of channel_base and channel_max                         7.43, 63.14 | 6.52, 63.08, 39.89
  twice both                                                   3.80, 66.61 | 4.18, 70.06, 42.51
Two are not offered: noise inputs, and p4-symmetric convolutions. The other filters are a choice: for Lanczos and Gauss
the paper gives a = 2 and sigma = 0.4, here in units of half a period of the cutoff, along both axes.

r1_gamma matters, and depends on the data. For other images it is 0.001 height width / batch_size, which gives the
published 32.8 at 1024 pixels; if training does not converge, or collapses, try half and double. It is fixed when the
configuration is made: with another size or batch_size, also set --config.model.r1_gamma, and
model.magnitude_ema_beta to 0.5 ** (batch_size / 20000).

The MetFaces runs start from those of FFHQ-U: --config.train.init_from=WORKDIR of ffhqu.
Layers of the highest resolutions run in bfloat16, where the published runs had float16; model.dtype=float32 is exact.
"""

import dataclasses
import math

from pegan_jax.config import Config, ConfigError, DataConfig, OptimConfig, TrainConfig, load_config, pick
from pegan_jax.models import stylegan3

# What is StyleGAN2, and how it differs from A.
WAVES = dict(input='fourier')
STYLEGAN2 = {
    'a': dict(),
    'b': WAVES,
    'c': WAVES | dict(use_noise=False, pl_weight=0.0, pl_interval=0, style_mixing_prob=0.0),
}
# How the others differ from T.
UNMOVED, EARLY = dict(flexible_layers=False, learned_transform=False), dict(upsample_first=True, lrelu_upsampling=1)
STYLEGAN3 = {
    'd': UNMOVED | EARLY | dict(filter_kind='bilinear', margin_size=0),
    'e': UNMOVED | EARLY,
    'f': UNMOVED,
    'g': UNMOVED,
    'h': dict(flexible_layers=False),
    't': dict(),
    'r': dict(conv_kernel=1, use_radial_filters=True, blur_init_sigma=10.0),
}

# r1_gamma of T and R, data.
RUNS = {
    'ffhq': ((32.8, 32.8), DataConfig(tfds='ffhq', resolution=1024)),
    'ffhqu': ((32.8, 32.8), DataConfig(folder='data/ffhqu', resolution=1024)),
    'metfaces': ((6.6, 3.3), DataConfig(folder='data/metfaces', resolution=1024)),
    'metfacesu': ((16.4, 6.6), DataConfig(folder='data/metfacesu', resolution=1024)),
    'afhqv2': ((8.2, 16.4), DataConfig(folder='data/afhqv2', resolution=512)),
    'beaches': ((4.1, 12.3), DataConfig(folder='data/beaches', resolution=512)),
    'ffhqu256': ((1.0, 1.0), DataConfig(folder='data/ffhqu', resolution=256)),
    'images256': (None, DataConfig(folder='data/images', resolution=256)),
    'images512': (None, DataConfig(folder='data/images', resolution=512)),
    'images1024': (None, DataConfig(folder='data/images', resolution=1024)),
}

AUGMENTED = ('metfaces', 'metfacesu', 'afhqv2', 'beaches', 'images256', 'images512', 'images1024')


def get_config(arg=''):
    words = pick(arg, (*STYLEGAN2, *STYLEGAN3, *RUNS, 'small', 'tiny', 'turn32', 'scales'), 'configs/stylegan3.py')
    if 'scales' in words:
        return scales([word for word in words if word != 'scales'])
    rows = [word for word in words if len(word) == 1]
    runs = [word for word in words if len(word) > 1] or ['ffhqu256' if rows else 'ffhq']
    rows = rows or ['t']
    for chosen in (rows, runs):
        if len(chosen) > 1:
            raise ConfigError(f'{" and ".join(chosen)} exclude each other; choose one of them.')
    row, run = rows[0], runs[0]
    if row in STYLEGAN2:
        config = load_config(f'stylegan2:{run}')
        return dataclasses.replace(config, model=dataclasses.replace(config.model, **STYLEGAN2[row]))
    if run in ('small', 'tiny'):
        return small(row, tiny=run == 'tiny')
    if run == 'turn32':
        return faces(small(row, tiny=False))
    gammas, data = RUNS[run]
    batch_size = 64 if run == 'ffhqu256' else 32
    channel_base = 16384 if run == 'ffhqu256' else 32768
    # R has as many parameters in twice as many channels, because its kernels are 1 x 1.
    wide = 2 if row == 'r' else 1
    return Config(
        system='stylegan3',
        model=stylegan3.Config(
            r1_gamma=heuristic_gamma(data, batch_size) if gammas is None else gammas[row == 'r'],
            img_resolution=data.resolution,
            channel_base=channel_base * wide,
            channel_max=512 * wide,
            d_channel_base=channel_base,
            magnitude_ema_beta=0.5 ** (batch_size / 20_000),
            augment='ada' if run in AUGMENTED else 'noaug',
            blur_fade_kimg=200.0 if run == 'ffhqu256' else None,
            dtype='bfloat16',
            **(layers(row, data.resolution) | STYLEGAN3[row]),
        ),
        data=data,
        optim=OptimConfig(g_lr=0.0025, d_lr=0.0025 if run == 'ffhqu256' else 0.002),
        train=TrainConfig(batch_size=batch_size, total_kimg=5_000.0 if run.startswith('metfaces') else 25_000.0),
    )


def scales(words):
    """The second stage of a run; its first stage is in runs/whole unless train.init_from says otherwise."""
    if other := [word for word in words if word in STYLEGAN2]:
        raise ConfigError(
            f'{other[0]},scales: row {other[0]} is StyleGAN2, which has one scale; choose d to h, t or r.'
        )
    config = get_config(','.join(words))
    train = dataclasses.replace(config.train, init_from='runs/whole', init_partial=True)
    if config.train.total_kimg > 5_000:
        train = dataclasses.replace(train, total_kimg=5_000.0)
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, scale_layers=2, teacher_weight=5.0),
        data=dataclasses.replace(config.data, crop='scales', num_worlds=min(config.data.num_worlds, 1024)),
        train=train,
    )


def layers(row, resolution, flexible=14):
    """How many layers, and how many are critical: in d to h there are two at each rate from 4 on, in d to f all are."""
    count = flexible if row in 'tr' else 2 * int(math.log2(resolution / 4)) + 2
    return dict(num_layers=count, num_critical=count if row in 'def' else 2)


def heuristic_gamma(data, batch_size):
    """A first guess of r1_gamma, proportional to the number of pixels."""
    return 0.001 * data.size[0] * data.size[1] / batch_size


def small(row, tiny):
    """Few and narrow layers; the blur, if any, is gone after a thousand images."""
    resolution, channels, wide = (16, 16, 1) if tiny else (32, 48, 2 if row == 'r' else 1)
    blur = {'blur_init_sigma': resolution / 16, 'blur_fade_kimg': 1.0} if row == 'r' else {}
    return Config(
        system='stylegan3',
        model=stylegan3.Config(
            r1_gamma=0.3,
            img_resolution=resolution,
            z_dim=channels,
            w_dim=channels,
            channel_base=16 * resolution * wide,
            channel_max=channels * wide,
            d_channel_base=32 * resolution,
            d_channel_max=2 * channels,
            d_mapping_layers=2,
            magnitude_ema_beta=0.999 if tiny else 0.99,
            ema_kimg=2.0,
            ema_rampup=0.2,
            **(dict(margin_size=4) | layers(row, resolution, 3 if tiny else 5) | STYLEGAN3[row] | blur),
        ),
        data=DataConfig(resolution=resolution, num_worlds=256 if tiny else 4096, cache=True),
        optim=OptimConfig(g_lr=0.0025, d_lr=0.002),
        train=TrainConfig(
            batch_size=8 if tiny else 16,
            total_kimg=0.8 if tiny else 32.0,
            log_every=10 if tiny else 50,
            sample_every=50 if tiny else 500,
            checkpoint_every=50 if tiny else 1000,
            metric_images=32 if tiny else 256,
            sample_grid=(2, 4) if tiny else (4, 8),
        ),
    )


def faces(config):
    """Small, on images from a folder that docs/smileys.py makes. They are few, and R1 is stronger."""
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, r1_gamma=1.5),
        data=dataclasses.replace(config.data, tfds=None, folder='data/smileys'),
        train=dataclasses.replace(config.train, total_kimg=160.0),
    )
