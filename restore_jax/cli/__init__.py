"""The commands: arguments, progress, errors as sentences. No logic."""

from restore_jax.cli.main import main

__all__ = ["main"]
