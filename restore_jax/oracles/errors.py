"""The error that this room raises."""

from restore_jax.errors import InputError


class ModelError(InputError):
    """A model cannot be opened or asked; the message is one sentence that says why."""
