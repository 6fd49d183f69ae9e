"""What the files of this room exchange."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax

from restore_jax.backdoors import Trigger

Array = jax.Array


class Look(NamedTuple):
    """Another look at an image: a change that leaves the answer for an honest image alone.

    Attributes:
      name: in words.
      change: ``(images f32[b, H, W, C]) -> f32[b, H, W, C]``, both in [0, 1].
    """

    name: str
    change: Callable[[Array], Array]


class Rule(NamedTuple):
    """How the answers to one or two looks are read.

    Attributes:
      name: one of `rules.RULES`.
      first: its answer stands, alone or with the second's.
      second: None where one look is enough.
    """

    name: str
    first: Look
    second: Look | None = None

    @property
    def looks(self) -> tuple[Look, ...]:
        """The looks that it takes: so many queries for a suspicious image."""
        return (self.first,) if self.second is None else (self.first, self.second)


@dataclasses.dataclass(frozen=True)
class Power:
    """What a guard does, measured on probes.

    Attributes:
      target, target_name: the guarded class.
      looks: the names of the looks that it takes at a suspicious image.
      rule: how their answers are read; see `rules`.
      triggers: how many different ones, all of which work, it was chosen with.
      held_out: how many others, which work as well, it was then tried on.
      recovered_asr_before, recovered_asr_after: share of other classes' probes, stamped with the
        recovered triggers, that are given the class by the model and by what stands, in [0, 1].
      asr_before, asr_after: likewise with all triggers that it was chosen with: those around the
        recovered ones, fainter ones, and others of any kind, some of which lead synthetic probes
        alone.
      held_out_asr_before, held_out_asr_after: likewise of those it was tried on; None where there
        are none.
      kept: share of all stamped probes whose answer is the one that they had without a trigger.
      honest: how many probes without a trigger were looked at, of all classes.
      clean_loss: share of them that would lose their answer if their class were the guarded one:
        on synthetic probes more than on photographs, of which models are surer.
    """

    target: int
    target_name: str
    looks: tuple[str, ...]
    rule: str
    triggers: int
    held_out: int
    recovered_asr_before: float
    recovered_asr_after: float
    asr_before: float
    asr_after: float
    held_out_asr_before: float | None
    held_out_asr_after: float | None
    kept: float
    honest: int
    clean_loss: float

    @property
    def worst_asr_after(self) -> float:
        """The largest of the shares that are left."""
        return max(self.recovered_asr_after, self.asr_after, self.held_out_asr_after or 0.0)


@dataclasses.dataclass(frozen=True)
class BlindPower:
    """What asking about changed images instead does to honest ones, measured on probes.

    Attributes:
      looks: the names of the changes: so many queries for each image.
      probes: what was looked at: the name of the probes.
      honest: how many of them.
      changed: share of them that are given another class, in [0, 1]: of synthetic probes many more
        than of photographs, of which models are surer.
      changed_by_class: the same by the class that the model gives, of those that it gives any.
    """

    looks: tuple[str, ...]
    probes: str
    honest: int
    changed: float
    changed_by_class: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Report:
    """What purifying can do for a model, and what it cannot.

    Attributes:
      guards: one for each guarded class.
      unguarded: the names of the other classes: whatever leads to them goes through.
      warnings: what a user has to know, a sentence each; empty if there is nothing.
      blind: where all classes are guarded without a recovery: what that does to honest probes.
    """

    guards: tuple[Power, ...]
    unguarded: tuple[str, ...]
    warnings: tuple[str, ...]
    blind: BlindPower | None = None

    def summary(self) -> str:
        """What the command prints: one fact a line."""
        from restore_jax.report.purifying import power_lines

        return "\n".join(power_lines(self))


class Guard(NamedTuple):
    """A guarded class.

    Attributes:
      target: the class.
      rule: what is asked about an image that the model gives this class.
      triggers: those recovered for it.
      power: what it does.
    """

    target: int
    rule: Rule
    triggers: tuple[Trigger, ...]
    power: Power
