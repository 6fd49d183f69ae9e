"""The errors that this room raises, and how the reasons of others are told."""

from restore_jax.errors import InputError

MOST_WORDS = 400
"""Characters of somebody else's reason that are told."""
_BEGINNING = 120


class ModelError(InputError):
    """A model cannot be opened or asked; the message is one sentence that says why."""


class ModelFailed(ModelError):
    """A model did not answer, though it may when it is asked again in the same way."""


def cause(error: BaseException) -> str:
    """What an error says, in one line and without a full stop.

    Of a long one the middle is left out: frameworks begin with what they were doing and end with
    the reason.

    >>> cause(ValueError("the file\\n is damaged."))
    'the file is damaged'
    """
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    if len(text) <= MOST_WORDS:
        return text
    return f"{text[:_BEGINNING].rstrip()} ... {text[_BEGINNING - MOST_WORDS :].lstrip()}"
