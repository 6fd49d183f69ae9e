"""Recovers the trigger of a backdoored classifier: ``python recover.py --help``."""

import sys

from restore_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["recover", *sys.argv[1:]]))
