"""The search spaces that the package knows: one entry each. No JAX here: the help reads it.

Whoever has a space of their own registers it, and the commands, `recover` and `scan` know it:

    register(Space("rings", "my_rings:rings", "rings around a point"))
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from restore_jax.errors import InputError
from restore_jax.spaces.settings import Settings
from restore_jax.types import Argument

if TYPE_CHECKING:
    from restore_jax.spaces.types import TriggerSpace

FIRST_HIT_PARTICLES = 48
"""With ``stop="first_hit"`` fewer particles will do: there is no probability to estimate."""
FIRST_HIT_FADE = 0.4
"""Among the many candidates of a whole population some work more faded than among a few draws."""


class Typical(NamedTuple):
    """What recoveries took that found a trigger of a space's kind, planted there: images.

    Attributes:
      low, high: the fewest and the most.
      middle: half of the networks took no more, of each the median.
      recoveries: how many were measured.
    """

    low: int
    middle: int
    high: int
    recoveries: int


@dataclasses.dataclass(frozen=True)
class Space:
    """What is known of a search space without making it.

    Attributes:
      name: as users name it.
      maker: ``MODULE:FUNCTION``, ``(image_shape, **options) -> TriggerSpace``; or the function.
      help: what it holds, for the help, after its name and a comma.
      settings: how it is searched, its options among it; `settings_for` knows the stopping rule.
      budget: images that a recovery may send, unless somebody says otherwise.
      typical: what recoveries took with ``stop="first_hit"``; `benchmarks/announced.py`
        reads it off the results. None: not measured.
      typical_estimate: likewise with ``stop="estimate"``; None: reckoned from the other.
      auto: its place among the spaces that ``space="auto"`` tries in turn, the cheapest first;
        None: not among them.
      scan: the options under which a scan draws from it; None: those of its settings.
      scan_auto: likewise its place among the spaces that a scan takes unless told otherwise.
      scan_labels: whether it does so where the model gives labels alone, too.
    """

    name: str
    maker: "str | Callable[..., TriggerSpace]"
    help: str
    settings: Settings = dataclasses.field(default_factory=Settings)
    budget: int = 40_000
    typical: Typical | None = None
    typical_estimate: Typical | None = None
    auto: int | None = None
    scan: Mapping[str, Argument] | None = None
    scan_auto: int | None = None
    scan_labels: bool = False

    def function(self) -> "Callable[..., TriggerSpace]":
        """The maker itself; imports it, and JAX with it."""
        if not isinstance(self.maker, str):
            return self.maker
        module, _, function = self.maker.partition(":")
        found: Callable[..., TriggerSpace] = getattr(import_module(module), function)
        return found

    def takes(self) -> list[str]:
        """The names of its options."""
        return list(inspect.signature(self.function()).parameters)[1:]

    def make(self, image_shape: tuple[int, int, int], **options: Argument) -> "TriggerSpace":
        """Makes the space for images of (H, W, C).

        Raises:
          InputError: an option that it does not take, or one out of range.
        """
        known = self.takes()
        for option in options:
            if option not in known:
                raise InputError(
                    f"The search space {self.name!r} was given the option {option!r}; "
                    f"it takes {', '.join(known)}."
                )
        return self.function()(image_shape, **options)

    def settings_for(self, stop: str) -> Settings:
        """How it is searched under a stopping rule."""
        if stop != "first_hit":
            return self.settings
        few = min(self.settings.num_particles, FIRST_HIT_PARTICLES)
        return dataclasses.replace(self.settings, num_particles=few, fade=FIRST_HIT_FADE)

    def scan_options(self) -> dict[str, Argument]:
        """The options under which a scan draws from it."""
        return dict(self.settings.options if self.scan is None else self.scan)


SPACES: dict[str, Space] = {}


def register(entry: Space) -> None:
    """Adds a space, or replaces the one of its name."""
    SPACES[entry.name] = entry


def find(name: str, also: tuple[str, ...] = ()) -> Space:
    """The entry of a name; ``also`` are words that would have done in its place.

    Raises:
      InputError: there is none.
    """
    if name not in SPACES:
        known = ", ".join((*also, *SPACES))
        raise InputError(f"unknown `space` {name!r}: it may be {known}.")
    return SPACES[name]


def automatic() -> list[str]:
    """The spaces that ``space="auto"`` tries, in order of what finding something there costs."""
    return _in_order({entry.name: entry.auto for entry in SPACES.values()})


def scanned(access: str = "logits") -> list[str]:
    """The spaces that a scan takes unless told otherwise."""
    taken = [e for e in SPACES.values() if e.scan_labels or access != "labels"]
    return _in_order({entry.name: entry.scan_auto for entry in taken})


def _in_order(places: Mapping[str, int | None]) -> list[str]:
    found = [(place, name) for name, place in places.items() if place is not None]
    return [name for _, name in sorted(found)]


register(
    Space(
        "patch", "restore_jax.spaces.patch:patch", "one rectangle",
        typical=Typical(420, 1_100, 36_000, 155),
        typical_estimate=Typical(2_700, 12_000, 40_000, 47),
        auto=0, scan_auto=0, scan_labels=True,
    )
)  # fmt: skip
register(
    Space(
        "stripes", "restore_jax.spaces.stripes:stripes", "a sinusoid",
        typical=Typical(380, 600, 2_600, 5),
        auto=1, scan={"max_amplitude": 0.15, "angles": "axes"}, scan_auto=1,
    )
)  # fmt: skip
register(
    Space(
        "scattered", "restore_jax.spaces.scattered:scattered", "a few coloured pixels anywhere",
        budget=200_000, typical=Typical(4_300, 7_000, 8_100, 5), auto=2,
    )
)  # fmt: skip
register(
    Space(
        "smooth", "restore_jax.spaces.smooth:smooth", "a smooth picture added to the image",
        budget=100_000, typical=Typical(3_100, 3_100, 3_100, 1), scan_auto=2,
    )
)  # fmt: skip
register(
    Space(
        "blend", "restore_jax.spaces.blend:blend", "a picture over the whole image",
        Settings(num_particles=200), budget=200_000,
        typical=Typical(18_000, 22_000, 37_000, 5), auto=3,
    )
)  # fmt: skip
register(
    Space(
        "patches", "restore_jax.spaces.patches:patches",
        "one to several rectangles, more or less opaque", budget=100_000,
    )
)  # fmt: skip
register(
    Space(
        "warp", "restore_jax.spaces.warp:warp", "a smooth warp",
        budget=100_000, typical=Typical(29_000, 29_000, 29_000, 1),
    )
)  # fmt: skip
register(
    Space(
        "colour", "restore_jax.spaces.colour:colour", "a colour filter",
        budget=100_000, typical=Typical(430, 430, 460, 2),
    )
)  # fmt: skip
register(
    Space(
        "frequency", "restore_jax.spaces.frequency:frequency",
        "a few coefficients of the cosine transform", budget=100_000,
        typical=Typical(3_900, 3_900, 16_000, 2),
    )
)  # fmt: skip
register(
    Space(
        "quantise", "restore_jax.spaces.quantise:quantise", "fewer levels per channel",
        Settings(num_particles=32), typical=Typical(610, 610, 610, 1),
    )
)  # fmt: skip
register(
    Space(
        "sparse", "restore_jax.spaces.sparse:sparse", "any number of coloured pixels",
        Settings(options={"density": 0.01, "channels": "rgb"}), budget=400_000,
    )
)  # fmt: skip
register(
    Space(
        "gaussian", "restore_jax.spaces.gaussian:gaussian", "a perturbation of all pixels",
        budget=400_000,
    )
)  # fmt: skip
