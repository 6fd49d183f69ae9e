"""``python -m restore_jax``: the commands."""

import sys

from restore_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
