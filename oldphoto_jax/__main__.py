"""`python -m oldphoto_jax` is the command `oldphoto`."""

import sys

from oldphoto_jax.cli import main

if __name__ == '__main__':
  sys.exit(main())
