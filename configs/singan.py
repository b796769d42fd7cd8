"""SinGAN, and its variants with positional encodings: one image in, a generator out.

python train.py --config configs/singan.py:ARGUMENTS --workdir WORKDIR --config.data.image=photo.jpg

Arguments combine with commas: one of the runs (default: singan), disc-nobn, and one of small and tiny.

  run           image of the publication     model
  singan        any                          Shaham et al. 2019: zero padding before each block, at most 250 pixels
  balloons      balloons                     the same with the pyramid and schedule of mmgen
  fish          a school of fish             as balloons, at most 300 pixels
  bohemian      Bohemian Rhapsody            as balloons, at most 500 pixels
  csg           bohemian                     Xu et al. 2021: Cartesian grid at the coarsest scale
  spe-dim4      bohemian                     sinusoids, 4 channels per axis
  spe-dim8      bohemian                     sinusoids, 8 channels per axis (the released file of this name has 4)
  interp-pad    balloons                     no padding at all
  sr            any, small                   enlarging by 4: train on it, then `edit --mode super-resolution`
  paint         any                          for `edit --mode paint --scale 1`: this scale sees five of its colours
  animation     any                          noise of the size that blocks need, for `edit --mode animate`
  disc-nobn     (combines with all)          critics without batch normalisation

small is at most 120 pixels with a fifth of the iterations, half an hour to 80 minutes on two CPU cores; tiny is for
tests. By the rules of mmgen (balloons to spe-dim8, interp-pad) the finest scale keeps the size of the file, whatever
the limit: make a large file smaller first.
The images are those of the publications; none comes with this library, and none of the runs has been repeated with it.
"""

from pegan_jax.config import Config, ConfigError, DataConfig, OptimConfig, TrainConfig, pick
from pegan_jax.models import singan

RUNS = {
    'singan': dict(),
    'balloons': dict(rules='mmgen'),
    'fish': dict(rules='mmgen', max_size=300),
    'bohemian': dict(rules='mmgen', max_size=500),
    'csg': dict(rules='mmgen', max_size=500, padding='zero-layer', encoding='csg', noise_channels=1),
    'spe-dim4': dict(rules='mmgen', max_size=500, padding='zero-layer', encoding='spe', spe_dim=4, noise_channels=1),
    'spe-dim8': dict(rules='mmgen', max_size=500, padding='zero-layer', encoding='spe', spe_dim=8, noise_channels=1),
    'sr': dict(sr_factor=4.0, min_size=18, recon_weight=100.0),
    'paint': dict(paint_scale=1),
    'animation': dict(padding='noise', min_size=20),
    'interp-pad': dict(rules='mmgen', padding='interp', noise_channels=1),
}
SMALL = dict(max_size=120, iters_per_scale=400, lr_decay_iter=320)
TINY = dict(max_size=32, min_size=20, base_channels=8, min_feat_channels=8, iters_per_scale=20, lr_decay_iter=16)


def get_config(arg=''):
    words = pick(arg, (*RUNS, 'disc-nobn', 'small', 'tiny'), 'configs/singan.py')
    runs = [word for word in words if word in RUNS] or ['singan']
    if len(runs) > 1:
        raise ConfigError(f'{" and ".join(runs)} exclude each other; choose one of them.')
    changes = RUNS[runs[0]]
    if 'disc-nobn' in words:
        changes = changes | dict(d_norm=False)
    for word, less in (('small', SMALL), ('tiny', TINY)):
        changes = changes | (less if word in words else {})
    every = 10 if 'tiny' in words else 400
    return Config(
        system='singan',
        model=singan.Config(**changes),
        data=DataConfig(image='photo.jpg', flip=False, cache=True),
        optim=OptimConfig(g_lr=5e-4, d_lr=5e-4, beta1=0.5, beta2=0.999),
        train=TrainConfig(
            batch_size=1,
            log_every=min(every, 100),
            sample_every=every,
            checkpoint_every=every,
            keep_best=0,
            sample_grid=(2, 3),
        ),
    )
