"""How a space is searched."""

import dataclasses

from restore_jax.types import Argument


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to search; each space has its own defaults, see `restore_jax.spaces.catalogue`.

    Attributes:
      num_probes: images that a candidate is shown.
      num_particles: triggers carried along.
      survival: share of them that survives a level, in (0, 1).
      num_moves: moves of every particle per level.
      max_levels: levels at most, before and after the event is reached.
      fade: how much of a trigger's effect is taken back, in [0, 1), when candidates that make
        the event happen are told apart, and pixels that matter from those that do not.
        Synthetic probes are easier to lead than photographs; what leads them faded, too, also
        leads those.
      refine_levels: if no candidate makes the event happen faded, how many levels at most go on
        towards one that does it three quarters as faded.
      num_guides: with labels, where none of the first particles leads any probe: how many
        images just short of the model's boundary show how close a trigger comes.
      options: what the space takes.

    >>> Settings(options={"max_size": 5}).num_probes
    20
    """

    num_probes: int = 20
    num_particles: int = 96
    survival: float = 0.25
    num_moves: int = 3
    max_levels: int = 60
    fade: float = 0.5
    refine_levels: int = 10
    num_guides: int = 16
    options: dict[str, Argument] = dataclasses.field(default_factory=dict)
