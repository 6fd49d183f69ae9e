"""Names of classes: plain text, each of another class."""

from collections import Counter
from collections.abc import Iterable

from restore_jax.errors import InputError

LONGEST = 200
"""Characters of a name."""


def checked_names(model: str, names: Iterable[str]) -> tuple[str, ...]:
    """The names of a model's classes.

    Args:
      model: how it is called, for the error.
      names: of its classes, in order.

    Raises:
      InputError: two are the same, or one cannot be shown in a line.
    """
    found = tuple(names)
    for name in found:
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= LONGEST:
            raise InputError(
                f"{model} has a class named {str(name)[:LONGEST]!r}: a name is one line of 1 to "
                f"{LONGEST} characters that can be shown."
            )
    word, times = Counter(found).most_common(1)[0] if found else ("", 0)
    if times > 1:
        raise InputError(
            f"{model} has {times} classes named {word!r}: give every class a name of its own with "
            "`classes`."
        )
    return found
