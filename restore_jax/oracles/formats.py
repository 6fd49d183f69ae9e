"""The formats of models that are not ours: one entry each. No JAX here: the help reads it.

A format's file has these functions, in this order; the last four may be missing:

- ``load(place, options) -> model``: opens it.
- ``describe(model, options) -> Description``: what it says of itself.
- ``ask(model, images f32[b, H, W, C], sending) -> outputs``: asks it; ``sending(n)`` before n
  images are sent again.
- ``most(model, options) -> int | None``: the most images that it is given at once.
- ``traced(model, options) -> (weights, function) | None``: the model as a JAX function.
- ``outputs(model) -> tuple of str``: what it gives, in words, as "probs (?, 10)".
- ``shown(model) -> str``: its name in results, where its spec may hold a secret.
"""

from typing import NamedTuple


class Format(NamedTuple):
    """A format of models.

    Attributes:
      scheme: what a spec of it begins with, before a colon.
      module: the file that opens it.
      example: how a spec of it looks, for the help.
      whole_spec: whether the place that ``load`` is given is the whole spec, scheme and all.
    """

    scheme: str
    module: str
    example: str
    whole_spec: bool = False


FORMATS: dict[str, Format] = {}


def register(entry: Format) -> None:
    """Adds a format, or replaces the one of its scheme."""
    FORMATS[entry.scheme] = entry


register(Format("onnx", "restore_jax.oracles.onnx", "onnx:FILE"))
register(Format("torch", "restore_jax.oracles.torch", "torch:FILE"))
register(Format("keras", "restore_jax.oracles.keras", "keras:FILE"))
register(Format("hf", "restore_jax.oracles.hf", "hf:FOLDER"))
register(Format("python", "restore_jax.oracles.python", "python:MODULE:FUNCTION"))
register(Format("http", "restore_jax.oracles.http", "a URL", whole_spec=True))
register(Format("https", "restore_jax.oracles.http", "a URL", whole_spec=True))


def examples() -> list[str]:
    """How specs look, each once."""
    return list(dict.fromkeys(entry.example for entry in FORMATS.values()))
