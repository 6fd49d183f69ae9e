"""Trains a classifier with planted backdoors: ``python train.py --help``."""

import sys

from restore_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
