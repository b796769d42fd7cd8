"""Trains a model: python train.py --config configs/quickstart.py --workdir runs/quickstart [--config.a.b=VALUE].

`python -m pegan_jax train` is the same for those who installed the package without this file.
"""

import sys

from pegan_jax.cli import main

if __name__ == '__main__':
    sys.exit(main(['train', *sys.argv[1:]]))
