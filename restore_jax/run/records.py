"""What a result says of the run that made it."""

import dataclasses
from collections.abc import Mapping

from restore_jax.types import JSON


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a run took.

    Attributes:
      queries: images sent, everything counted.
      budget: images that it might have sent.
      queries_by_stage: images, by the stage that sent them, in order; they add up to ``queries``.
      seconds: of the clock, by what they went into: "compile" and "run" of the search, "total"
        until the verdict; whichever are known.
      seconds_by_stage: of the clock.
      asking: what asking a model from the host took (calls, images sent again, latency, cost);
        None of a model in this process.
      price: dollars for 1,000 images; None: nobody said.
      limit: which limit ended the run before it was through: "images", "dollars" or "seconds";
        None: none did.
    """

    queries: int
    budget: int
    queries_by_stage: Mapping[str, int] = dataclasses.field(default_factory=dict)
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    seconds_by_stage: Mapping[str, float] = dataclasses.field(default_factory=dict)
    asking: Mapping[str, JSON] | None = None
    price: float | None = None
    limit: str | None = None

    @property
    def dollars(self) -> float | None:
        """What the images cost; None where nobody said the price."""
        return None if self.price is None else self.queries * self.price / 1000


@dataclasses.dataclass(frozen=True)
class Provenance:
    """What a result came from: who has the same of all of it gets the same result.

    Attributes:
      model: how the user named it.
      access: "logits", "probabilities" or "labels": what it was asked for.
      probes: the name of the probes.
      seed: of everything drawn.
      model_options: what the user said of the model, where anything was.
      versions: of Python and of the packages that a result depends on.
      device: what JAX computed on, as "gpu: NVIDIA H100".
      notes: what was seen of the model that a reader should know, a sentence each.
    """

    model: str
    access: str
    probes: str
    seed: int
    model_options: Mapping[str, JSON] = dataclasses.field(default_factory=dict)
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    device: str = ""
    notes: tuple[str, ...] = ()
