"""What reading results may say."""

from restore_jax.errors import InputError


class ResultError(InputError):
    """A written result cannot be used; the message is one sentence that says why."""
