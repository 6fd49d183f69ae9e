"""Where the populations of a space stand, saved between levels; see `restore_jax.run.saving`."""

import math
from collections.abc import Collection
from typing import Any, NamedTuple

from restore_jax.diagnosis.descent import Lane
from restore_jax.diagnosis.work import Work
from restore_jax.splitting import count


class Resumed(NamedTuple):
    """Where a descent begins.

    Attributes:
      lanes: by class.
      going: the classes that are followed.
      dropped: those that were given up.
      number: of the next level.
    """

    lanes: dict[int, Lane]
    going: list[int]
    dropped: set[int]
    number: int


class Descending:
    """The saved lanes of one space."""

    def __init__(self, work: Work, name: str):
        """Reads and writes them under a name; nothing, where the run saves nothing."""
        self._run, self._name = work.run, name

    def resumed(self, lanes: dict[int, Lane]) -> Resumed:
        """The lanes as they were saved, and booked, or else as they are.

        Args:
          lanes: as they have begun.
        """
        saved = self._run.saved
        like = {str(k): lane.state for k, lane in lanes.items()}
        stood = None if saved is None else saved.get(self._name, like)
        if stood is None:
            return Resumed(lanes, list(lanes), set(), 0)
        found = {}
        for k, lane in lanes.items():
            state, said = stood.tree[str(k)], stood.said["lanes"][str(k)]
            self._run.books.book(count(state.num_queries) - count(lane.state.num_queries))
            found[k] = lane._replace(
                state=state,
                depths=tuple(said["depths"]),
                levels=tuple(said["levels"]),
                stds=tuple(said["stds"]),
                event=_number(said["event"]),
                event_std=_number(said["event_std"]),
            )
        return Resumed(
            found, list(stood.said["going"]), set(stood.said["dropped"]), int(stood.said["number"])
        )

    def keep(
        self,
        lanes: dict[int, Lane],
        going: Collection[int],
        dropped: Collection[int],
        number: int,
        now: bool = False,
    ) -> None:
        """Saves the lanes before a level; see `Saved.put`."""
        if self._run.saved is None:
            return
        said = {
            "going": list(going),
            "dropped": sorted(dropped),
            "number": number,
            "lanes": {str(k): _said(lane) for k, lane in lanes.items()},
        }
        tree = {str(k): lane.state for k, lane in lanes.items()}
        self._run.saved.put(self._name, tree, said, now)


def _said(lane: Lane) -> dict[str, Any]:
    return {
        "depths": lane.depths,
        "levels": lane.levels,
        "stds": lane.stds,
        "event": None if math.isnan(lane.event) else lane.event,
        "event_std": None if math.isnan(lane.event_std) else lane.event_std,
    }


def _number(said: float | None) -> float:
    return math.nan if said is None else float(said)
