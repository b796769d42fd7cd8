"""python -m pegan_jax COMMAND"""

import sys

from pegan_jax.cli import main

if __name__ == '__main__':
    sys.exit(main())
