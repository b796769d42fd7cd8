"""CIPS.

python train.py --config configs/cips.py:ARGUMENTS --workdir WORKDIR [--config.data.folder=PATH]

Arguments combine with commas: one of the runs, any of the ablations, and tiny. FID is what Anokhin et al. 2021 report
(for 1024 x 1024, what the authors report with their released weights): 50,000 samples, no truncation. None of these
runs has been repeated with this library. Published command: 8 processes of 4 images, at most 1.2 million steps.

  run                   data                              model                                           published FID
  ffhq256 (default)     FFHQ                              skips to the output                             4.38
  churches256           LSUN churches                     as ffhq256                                      2.92
  landscapes256         landscape photographs             residual blocks, as in the released weights     3.61
  satellite-buildings   satellite images of buildings     as ffhq256, turned by random angles             69.67
  satellite-landscapes  satellite images of landscapes    as ffhq256, turned by random angles             48.47
  ffhq1024              FFHQ                              that of 256 x 256, on finer and finer grids     10.07
  panorama              landscape photographs             on a cylinder; images are quarters of it        none

  ablation              (the rows of the paper's table 3 and the activations of its program)
  no-embedding          CIPS-NE: only Fourier features
  no-fourier            only coordinate embeddings
  no-modulation         plain layers, which get w beside the encoding
  no-skips              one to-RGB layer, at the end
  residual              residual blocks and one to-RGB layer
  sine                  the sine in all layers
  sinrelu               leaky ReLU in half of the channels, the sine in the others
  patches               trained on patches of half the side at two scales

The schedule of ffhq1024, the arc of panorama and the sizes of the satellite images are not published; these are ours.
The satellite images are larger than the crops, so that turning leaves no empty corners.

tiny is the same program on small procedural images, a hundred steps in well under a minute on a laptop's CPU.
"""

from pegan_jax.config import Config, ConfigError, DataConfig, TrainConfig, merge, pick
from pegan_jax.models import cips

RUNS = {
    'ffhq256': (dict(), DataConfig(tfds='ffhq', resolution=256)),
    'churches256': (dict(), DataConfig(tfds='lsun/church_outdoor', resolution=256)),
    'landscapes256': (dict(wiring='residual'), DataConfig(folder='data/landscapes', resolution=256, crop='random')),
    'satellite-buildings': (
        dict(rotate=True),
        DataConfig(folder='data/satellite-buildings', resolution=362, crop='random'),
    ),
    'satellite-landscapes': (
        dict(rotate=True),
        DataConfig(folder='data/satellite-landscapes', resolution=362, crop='random'),
    ),
    # 'raw' would forget where a patch comes from, because patches have the size of the native grid.
    'ffhq1024': (
        dict(patch_size=256, num_scales=3, progressive_kimg=12_800.0, train_lookup='bilinear'),
        DataConfig(tfds='ffhq', resolution=1024),
    ),
    'panorama': (
        dict(panorama_width=1024, train_lookup='bilinear', wiring='residual'),
        DataConfig(folder='data/landscapes', resolution=256, crop='random'),
    ),
}

ABLATIONS = {
    'no-embedding': dict(coord_embedding=False),
    'no-fourier': dict(fourier_features=False),
    'no-modulation': dict(modulation=False),
    'no-skips': dict(wiring='plain'),
    'residual': dict(wiring='residual'),
    'sine': dict(activation='sin'),
    'sinrelu': dict(activation='sinrelu'),
    'patches': dict(patch_size=128),
}


def get_config(arg=''):
    words = pick(arg, (*RUNS, *ABLATIONS, 'tiny'), 'configs/cips.py')
    runs = [word for word in words if word in RUNS] or ['ffhq256']
    if len(runs) > 1:
        raise ConfigError(f'{" and ".join(runs)} exclude each other; choose one of them.')
    changes, data = RUNS[runs[0]]
    changes = changes | merge(words, ABLATIONS, 'configs/cips.py')
    if 'tiny' in words:
        return tiny(changes, data)
    return Config(
        system='cips',
        model=cips.Config(**changes),
        data=data,
        train=TrainConfig(batch_size=32, total_kimg=38_400.0),
    )


def tiny(changes, data):
    """A sixteenth of every length, and a schedule to match."""
    lengths = {name: changes[name] // 16 for name in ('patch_size', 'panorama_width') if name in changes}
    progressive = {'progressive_kimg': 0.3} if 'progressive_kimg' in changes else {}
    model = cips.Config(
        img_resolution=16,
        hidden_size=16,
        z_dim=16,
        mapping_layers=2,
        channels=(32, 32, 16),
        d_channels=(16, 32) if changes.get('patch_size') == 128 else (16, 32, 32),
        ema_kimg=1.0,
        ema_rampup=0.05,
        **(changes | lengths | progressive),
    )
    return Config(
        system='cips',
        model=model,
        data=DataConfig(resolution=-(-data.resolution // 16), num_worlds=256, crop=data.crop),
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
