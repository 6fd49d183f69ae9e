"""Docstrings as the site reads them.

An example is code, wherever it stands, and what is said of several arguments is said of each.
"""

import re

from griffe import Extension, Object

_EXAMPLE = re.compile(r"^(?P<indent> *)>>> .*\n(?:(?P=indent)\S.*\n|(?P=indent) +\S.*\n)*", re.M)
_SHARED = re.compile(
    r"^(?P<indent> +)(?P<names>\w+(?:, \w+)+):(?P<text>.*\n(?:(?P=indent) +\S.*\n)*)", re.M
)


def each_alone(docstring: str) -> str:
    """The docstring, with a line for each of the names that share one.

    >>> print(each_alone("Args:\\n  low, high: ends,\\n    in [0, 1].\\n"), end="")
    Args:
      low: ends,
        in [0, 1].
      high: ends,
        in [0, 1].
    """

    def apart(found: re.Match[str]) -> str:
        names = found["names"].split(", ")
        return "".join(f"{found['indent']}{name}:{found['text']}" for name in names)

    return _SHARED.sub(apart, docstring.rstrip("\n") + "\n")


def with_code(docstring: str) -> str:
    """The docstring, each run of lines that begins with a prompt fenced as code.

    >>> with_code(">" ">> 1 + 1\\n2\\n")
    '```pycon\\n>>> 1 + 1\\n2\\n```\\n'
    """

    def fenced(found: re.Match[str]) -> str:
        indent = found["indent"]
        example = found[0].replace("  # doctest: +SKIP", "")
        return f"{indent}```pycon\n{example}{indent}```\n"

    return _EXAMPLE.sub(fenced, docstring.rstrip("\n") + "\n")


class Docstrings(Extension):
    """Rewrites every docstring."""

    def on_object(self, *, obj: Object, **_: object) -> None:
        """Of one object, once it is read."""
        if obj.docstring is not None:
            obj.docstring.value = with_code(each_alone(obj.docstring.value))
