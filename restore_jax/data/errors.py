"""The one error that the data room raises."""

from restore_jax.errors import InputError


class DataError(InputError):
    """Images that cannot be had or used; the message is one sentence that says why."""
