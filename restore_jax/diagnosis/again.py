"""A second look at the classes that stand out most, so that none does so by chance.

A population of some hundred triggers says how far a class stands out to within about one standing,
and the largest of thirty such figures is too large by the luck that made it the largest. So the
class and space that stand out most are followed again, by several populations that have nothing in
common with the first but its random draws, and the mean of what *these* reach takes its place.
That is done until a class that was looked at again stands out most. What stands out farther than
chance takes any class is not looked at again.
"""

import math
from collections.abc import Mapping

import jax
import numpy as np

from restore_jax.diagnosis.descending import Descending
from restore_jax.diagnosis.descent import Lane
from restore_jax.diagnosis.looking import Beginning, Look, standing_of
from restore_jax.diagnosis.standing import level_at
from restore_jax.diagnosis.types import ClassLook
from restore_jax.diagnosis.work import Work

Array = jax.Array


def look_again(work: Work, looks: dict[str, Look], end: int) -> None:
    """Looks again at what stands out most, and puts what is seen in its place in ``looks``.

    Args:
      work: the scan.
      looks: by space, what was seen; with labels nothing is looked at again.
      end: where the ledger may come to stand.

    Raises:
      KeyboardInterrupt: while a class was looked at again, whose first look then stands.
    """
    if work.run.model.access == "labels":
        return
    with work.run.stage("second look"):
        for _ in range(work.settings.most_again):
            if not _one_more(work, looks, end):
                return


def _one_more(work: Work, looks: dict[str, Look], end: int) -> bool:
    """Looks again at one class; whether another may need it."""
    first = foremost({name: look.seen.classes for name, look in looks.items()})
    if first is None:
        return False
    name, k = first
    one = looks[name].seen.classes[k]
    assert one.standing is not None
    if one.again or one.standing.value >= work.settings.beyond_chance:
        return False
    levels, queries = repeated(work, looks[name].beginning, k, looks[name].seen.depth, end)
    if len(levels) < work.settings.num_again:
        return False
    looks[name] = with_levels(work, looks[name], k, levels, queries)
    now = looks[name].seen.classes[k].standing
    assert now is not None
    work.tell(
        f"{name}: looked at {work.run.model.class_names[k]} again: it stands out by "
        f"{now.value:.2f}, not {one.standing.value:.2f}"
    )
    return True


def foremost(classes: Mapping[str, Mapping[int, ClassLook]]) -> tuple[str, int] | None:
    """The space and class that stand out most; None where nothing was compared."""
    found = {
        (name, k): one.standing.value
        for name, seen in classes.items()
        for k, one in seen.items()
        if one.standing is not None
    }
    return max(found, key=lambda at: found[at]) if found else None


def repeated(
    work: Work, beginning: Beginning, k: int, depth: float, end: int
) -> tuple[list[float], int]:
    """The scores that new populations of a class reach.

    Args:
      work, beginning, k: the scan, what a space's populations begin with, and the class.
      depth: log10 of the probability at which.
      end: where the ledger may come to stand; a population that would pass it is left out.

    Returns:
      The scores, and how many images they took.
    """
    descent, name, began = beginning.descent, beginning.space.name, work.run.ledger.spent
    a_level = work.run.model.each * descent.most_a_level
    numbers = range(work.settings.num_again)
    keys = [jax.random.fold_in(beginning.key, 2 + number) for number in numbers]
    lanes = {i: descent.begin(key, k, beginning.draws) for i, key in enumerate(keys)}
    descending = Descending(work, f"again-{name}-{k}")
    lanes, _, _, number = descending.resumed(lanes)
    try:
        while number < work.settings.max_levels:
            going = [i for i, lane in lanes.items() if not _done(lane, depth)]
            if not going or work.run.ledger.spent + len(going) * a_level > end:
                break
            moved = descent.advance([lanes[i] for i in going])
            lanes, number = lanes | dict(zip(going, moved, strict=True)), number + 1
            descending.keep(lanes, going, set(), number)
            deepest = max(lane.depths[-1] for lane in lanes.values())
            work.tell(f"{name}: {work.run.model.class_names[k]} again at 10^{deepest:.1f}", False)
    except KeyboardInterrupt:
        descending.keep(lanes, list(lanes), set(), number, now=True)
        raise
    whole = [lane for lane in lanes.values() if _done(lane, depth)]
    levels = [level_at(lane.depths, lane.levels, depth) for lane in whole]
    return levels, work.run.ledger.spent - began


def with_levels(work: Work, look: Look, k: int, levels: list[float], queries: int) -> Look:
    """A look in which a class stands where its new populations say, on average."""
    classes = dict(look.seen.classes)
    gain = float(np.mean(levels)) - classes[k].empty
    standing = standing_of(work, look, k, gain)
    classes[k] = classes[k]._replace(
        standing=standing, first_standing=classes[k].standing, again=tuple(levels)
    )
    seen = look.seen._replace(classes=classes, queries=look.seen.queries + queries)
    return look._replace(seen=seen)


def _done(lane: Lane, depth: float) -> bool:
    return not lane.running or lane.depths[-1] <= depth or math.isinf(lane.levels[-1])
