"""The first look at a model, before anything is concluded from what it says.

A model that is asked wrongly still answers: with one class whatever it is shown, with probabilities
where logits were promised, or with something else each time. A search would make a verdict of that.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from restore_jax.data.probes import open_probes
from restore_jax.errors import Inconclusive
from restore_jax.oracles.checking import SUMS
from restore_jax.oracles.errors import ModelError
from restore_jax.oracles.types import Oracle, Seen

if TYPE_CHECKING:
    from restore_jax.run.run import Run

FIRST, AGAIN = 8, 5
"""Images looked at, and those of them that are asked about once more, in another batch."""
FILLED = 27
"""Images beside these in their batch, where that is free."""
MOST_LOOKED_AT = 96
"""Images of one kind that are looked at where all get the same class."""
DIFFERENT = 0.02
"""Margins differ if they do by this share of the largest."""
READ_AS_PROBABILITIES = (
    "the model answers with probabilities, not with logits (it ends in a softmax or a sigmoid): "
    "their logarithms are compared"
)


def examine(run: "Run") -> None:
    """Looks at a run's model: `FIRST` + `AGAIN` images, booked where asking again costs anything.

    Where the logits that it gives are probabilities the run's model becomes one that is read so.

    Raises:
      ModelError: it answers differently in another batch, or another time, and is not said to be
        noisy.
      Inconclusive: it gives everything that it is shown one class.
    """
    images = _some(run, FIRST)
    if not len(images) or not _pays(run, len(images) + AGAIN):
        return
    seen = run.look(images)
    again = images[:AGAIN][::-1]
    if not run.model.repeat_cost(1):
        # What fills up a batch costs nothing here: let it be of another kind.
        others = np.resize(1.0 - images, (FILLED, *images.shape[1:]))
        again = np.concatenate([again, others])
    once_more = run.look(again)
    _same_again(run, seen, Seen(*(part[: min(AGAIN, len(images))] for part in once_more)))
    _read_rightly(run, seen)
    _several_classes(run, seen.labels)


def cost(model: Oracle) -> int:
    """The images that `examine` takes of a model that gives several classes."""
    return model.repeat_cost(FIRST + AGAIN)


def _some(run: "Run", number: int) -> np.ndarray:
    available = run.source.available
    number = number if available is None else min(number, available)
    return np.asarray(run.source.draw(0, number))


def _pays(run: "Run", images: int) -> bool:
    return run.model.repeat_cost(images) <= run.ledger.left


def _read_rightly(run: "Run", seen: Seen) -> None:
    """Reads the model's logits as probabilities, if that is what they are."""
    model = run.model
    if model.access != "logits":
        return
    low, sums = seen.lowest, seen.sums
    rows = bool((low >= 0).all() and np.allclose(sums, 1.0, atol=0.1 * SUMS, rtol=0))
    single = bool(model.options.get("binary")) and bool(((low >= 0) & (sums <= 1)).all())
    if rows or single:
        run.model = model.reading("probabilities")
        run.notes.append(READ_AS_PROBABILITIES)


def _same_again(run: "Run", seen: Seen, again: Seen) -> None:
    """Compares two answers to the same images, the second in the opposite order."""
    first = slice(len(again.labels) - 1, None, -1)
    most = float(np.abs(seen.margins).max())
    apart = np.abs(seen.margins[first] - again.margins)
    other = apart > DIFFERENT * most
    if run.model.access == "labels":
        other = seen.labels[first] != again.labels
    if not other.any():
        return
    what = (
        f"of {len(other)} images that it was asked about twice, in two batches, {int(other.sum())} "
        "got another answer"
    )
    if run.model.options.get("noisy"):
        run.notes.append(f"the model's answers are not always the same: {what}")
        return
    raise ModelError(
        f"{run.model.name} does not always answer in the same way: {what}; call model.eval() where "
        "dropout or batch norm are left in training mode, or give `noisy`, and every image is "
        "asked about several times."
    )


def _several_classes(run: "Run", labels: np.ndarray) -> None:
    """Looks on until the model has given two classes."""
    shown, only = len(labels), int(labels[0])
    if (labels != only).any():
        return
    for images in _others(run):
        if not _pays(run, len(images)):
            break
        shown += len(images)
        if (run.look(images).labels != only).any():
            return
    model = run.model
    raise Inconclusive(
        f"{model.name} gives all {shown} images that it was shown the same class, {only} "
        f"({model.class_names[only]}), so nothing can be said of it: is it asked rightly? Try "
        f"{_advice(model)}; or give other `probes`."
    )


def _others(run: "Run") -> Iterator[np.ndarray]:
    """More images of the run's own kind, and then of every kind that can be drawn here."""
    model = run.model
    height, width, channels = model.image_shape
    available = run.source.available
    most = MOST_LOOKED_AT if available is None else min(available, MOST_LOOKED_AT)
    begin = min(FIRST, most)
    while begin < most:
        end = min(most, 2 * begin)
        yield np.asarray(run.source.draw(begin, end - begin))
        begin = end
    plain = np.linspace(0, 1, 5, dtype=np.float32)[:, None, None, None]
    yield np.broadcast_to(plain, (5, height, width, channels))
    if channels not in (1, 3):
        return
    for kind in ("dead_leaves", "shapes"):
        if kind != run.source.name:
            source = open_probes(kind, run.seed, model.image_shape)
            yield np.asarray(source.draw(0, MOST_LOOKED_AT))


def _advice(model: Oracle) -> str:
    """What to say of a model that gives one class, by what is said of it already."""
    said: dict[str, Any] = model.options
    if model.metadata and not said:  # one of our checkpoints
        return "another model: this one says itself how it is asked"
    ranges = "`value_range` 0,1" if said.get("value_range") else "`value_range` 0,255"
    more = [name for name in ("mean", "std", "layout") if name not in said]
    return ", ".join([ranges, *(f"`{name}`" for name in more)])
