"""Keeps using a model that has backdoors: takes triggers out of the images it is asked about.

Only what the model gives a recovered trigger's class is suspicious, and there are two ways
to tell a triggered image from one that is of that class:

- *Local triggers* (a rectangle, scattered pixels). The few windows that stand out most from what
  surrounds them are transplanted onto a probe of another class, and the model is asked about that:
  a trigger leads the probe, wherever it lies and whatever its colours; a piece of a real
  cat makes no cat of it. The same windows are painted over from what surrounds them, and the model
  is asked about what is left: that answer stands.
- *Dense triggers* (a blend, stripes, a perturbation). What was recovered is subtracted, and the
  model asked again; an image of the class stays of the class.

So at most two more queries per image, and none for an image of any other class.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from restore_jax.backdoors import Trigger, stamp
from restore_jax.backdoors.changes import moved, with_residual
from restore_jax.diagnosis import Scan
from restore_jax.errors import Inconclusive, InputError
from restore_jax.oracles.checking import check_outputs
from restore_jax.oracles.opening import Opening, open_model
from restore_jax.oracles.types import NOBODY, Books, Images, Model, Oracle, labels
from restore_jax.recovery import Recovery
from restore_jax.run import Run

Array = jax.Array
SIDE = 3
"""Of a window against a rectangle, of which there are as many as it takes to cover what was
recovered. A planted 3x3 patch stands out most in 99.6 % of images; every window more that is
painted over costs a point of accuracy."""
CLOSE = 0.8
"""A window more is painted over where it stands out this much, as a share of the first."""
NUM_PIXELS = 16
"""Windows of one pixel, against scattered pixels."""
FEW = 0.03
"""Of an additive trigger whose energy lies in less than this share of frequencies they are taken
out of an image: it works at any phase."""
DENSE = 0.25
"""A trigger that covers more than this share of an image is dense."""
NUM_PROBES = 100
NO_LIMIT = 1 << 62


class Local(NamedTuple):
    """A trigger that windows are looked through for.

    Attributes:
      target: the class it leads to.
      side: of a window, in pixels.
      windows: how many.
      probe: f32[H, W, C], onto which windows are transplanted.
    """

    target: int
    side: int
    windows: int
    probe: Array


class Dense(NamedTuple):
    """A trigger that is subtracted.

    Attributes:
      trigger: what was recovered; its ``target`` is the class it leads to.
    """

    trigger: Trigger

    @property
    def target(self) -> int:
        """The class it leads to."""
        return int(self.trigger.target)


Recovered = Recovery | Trigger | Scan | Sequence[Recovery | Trigger]
Purifier = Callable[[Array, Array], tuple[Array, Array]]
"""``(images f32[b, H, W, C] in [0, 1], outputs) -> (outputs, flags bool[b])``; the outputs are
the model's on the images, and then those that stand."""


def purifier(
    model: Model,
    recoveries: Recovered,
    *,
    access: str | None = None,
    probes: str | np.ndarray = "dead_leaves",
    seed: int = 0,
    **opening: Unpack[Opening],
) -> Purifier:
    """Makes the function that keeps a model's answers free of the triggers recovered from it.

    Args:
      model: what `open_model` takes, or an `Oracle`.
      recoveries: a scan, or what was recovered, one or several; of recoveries those that were
        found.
      access: what the model is asked for; None: logits, or what an open model is asked for.
      probes: where the images come from onto which windows are transplanted.
      seed: of those.
      **opening: how the model is opened; see `open_model`.

    Returns:
      A pure function for `jax.jit`, if the model is a JAX function. It asks the model about every
      image twice more, whatever the answers; `Defended` spares the queries that are of no use.

    Raises:
      InputError: nothing was found in the recoveries, or two kinds of trigger lead to one class.
      Inconclusive: the trigger leads no probe, so that nothing can be told from transplants.
    """
    oracle = open_model(model, access, **opening)
    run = Run(oracle, budget=NO_LIMIT, probes=probes, seed=seed).examine()
    return _purifier(run.model, defences(run, recoveries))


def defences(run: Run, recoveries: Recovered) -> list[Local | Dense]:
    """What to look for, for each class that a trigger was recovered for; see `purifier`.

    The run pays for what is asked meanwhile: at most `defence_cost`.
    """
    if isinstance(recoveries, Scan):
        some: list[Recovery | Trigger] = [*recoveries.recoveries]
    else:
        some = [recoveries] if isinstance(recoveries, Recovery | Trigger) else list(recoveries)
    triggers = [
        one if isinstance(one, Trigger) else one.trigger
        for one in some
        if isinstance(one, Trigger) or one.found
    ]
    if not triggers:
        raise InputError("no trigger was found in these recoveries: there is nothing to purify.")
    classes = [int(trigger.target) for trigger in triggers]
    if len(set(classes)) < len(classes):
        raise InputError("two recoveries are about the same class: give one of each.")
    images = run.source.draw(0, NUM_PROBES)
    answers = run.labels(images)
    neutral = images[~np.isin(answers, classes)]
    found: list[Local | Dense] = []
    for trigger in triggers:
        mask = np.asarray(trigger.support)
        if trigger.additive or mask.mean() > DENSE:
            found.append(Dense(trigger))
            continue
        rows, cols = np.nonzero(mask)
        solid = len(rows) == (np.ptp(rows) + 1) * (np.ptp(cols) + 1)
        windows = max(1, round(len(rows) / SIDE**2))
        side, number = (SIDE, windows) if solid else (1, NUM_PIXELS)
        found.append(Local(int(trigger.target), side, number, _probe(run, neutral, trigger)))
    return found


def defence_cost(triggers: int) -> int:
    """The most images that `defences` asks about, of so many triggers."""
    return NUM_PROBES * (1 + 2 * triggers)


def _probe(run: Run, neutral: Array, trigger: Trigger) -> Array:
    """Of the probes that the trigger leads, the one closest to its class without it.

    A transplant convicts only together with what painting over says, so that it may be easily led.
    """
    if neutral.shape[0]:
        led = run.margins(stamp(trigger, neutral), trigger.target) >= 0
        before = run.margins(neutral, trigger.target)
        if led.any():
            return neutral[int(np.argmax(np.where(led, before, -np.inf)))]
    raise Inconclusive(
        f"the trigger for class {int(trigger.target)} leads no probe of another class: give "
        "other `probes`, or recover it again."
    )


def _purifier(oracle: Oracle, found: Sequence[Local | Dense], books: Books = NOBODY) -> Purifier:
    def purify(images: Array, outputs: Array) -> tuple[Array, Array]:
        predicted = labels(oracle.access, outputs)
        flags = jnp.zeros(images.shape[0], bool)
        without, transplanted = images, images
        for one in found:
            mine = (predicted == one.target)[:, None, None, None]
            if isinstance(one, Dense):
                taken = subtract(one.trigger, images)
                without = jnp.where(mine, taken, without)
            else:
                more = 1 if one.side > 1 else 0
                covers, filled = stand_out(images, one.side, one.windows, more)
                without = jnp.where(mine, filled, without)
                moved = jnp.where(covers, images, one.probe)
                transplanted = jnp.where(mine, moved, transplanted)
        answers = oracle.answer(oracle.weights, without, books)
        cleaned = labels(oracle.access, answers)
        leads = predicted
        if any(isinstance(one, Local) for one in found):
            leads = labels(oracle.access, oracle.answer(oracle.weights, transplanted, books))
        for one in found:
            # An image that stays of the class without its windows needs no other answer.
            suspicious = (predicted == one.target) & (cleaned != one.target)
            if isinstance(one, Local):
                suspicious = suspicious & (leads == one.target)
            flags = flags | suspicious
        shape = (-1,) + (1,) * (outputs.ndim - 1)
        return jnp.where(flags.reshape(shape), answers, outputs), flags

    return purify


def subtract(trigger: Trigger, images: Array) -> Array:
    """Images f32[b, H, W, C] with a dense trigger taken back, in [0, 1].

    An image blended in is blended out. Of an additive trigger that is a wave, or a few, those
    frequencies and their neighbours are taken out, since it leads as well at another phase, and
    one nearby may have been planted; any other is subtracted. A warp is done backwards, a filter
    inverted, rounding smoothed over.
    """
    if trigger.changes_all:
        return _undone(trigger, images)
    if not trigger.additive:
        left = jnp.maximum(1.0 - trigger.mask, 1e-3)
        return jnp.clip((images - trigger.mask * trigger.pattern) / left, 0.0, 1.0)
    change = np.asarray(trigger.mask * trigger.pattern).mean(-1)
    power = np.square(np.abs(np.fft.fft2(change)))
    power[0, 0] = 0.0  # the brightness stays
    carried = power >= 0.05 * max(power.max(), 1e-30)
    if carried.mean() > FEW:
        return jnp.clip(images - trigger.mask * trigger.pattern, 0.0, 1.0)
    # What was planted may be the next frequency, or the next slant.
    shifts = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    carried = np.any([np.roll(carried, shift, (0, 1)) for shift in shifts], 0)
    carried[0, 0] = False
    kept = jnp.asarray(~carried, jnp.float32)[..., None]
    through = jnp.fft.ifft2(jnp.fft.fft2(images, axes=(1, 2)) * kept, axes=(1, 2))
    return jnp.clip(jnp.real(through), 0.0, 1.0)


def _undone(trigger: Trigger, images: Array) -> Array:
    """Images with what changes them as a whole taken back, as far as that can be."""
    if trigger.residual is not None:
        images = jnp.clip(2.0 * images - with_residual(images, trigger.residual), 0.0, 1.0)
    if np.asarray(trigger.mask).any():
        plain = Trigger(trigger.mask, trigger.pattern, trigger.target, trigger.additive)
        images = subtract(plain, images)
    if trigger.rounding is not None:
        images = _smoothed(images)
    if trigger.colouring is not None:
        colouring = trigger.colouring
        back = jnp.linalg.pinv(colouring.matrix, rtol=0.05)
        images = jnp.clip((images - colouring.shift) @ back, 0.0, 1.0) ** (1.0 / colouring.gamma)
    if trigger.flow is not None:
        images = moved(images, -trigger.flow)
    return images


def _smoothed(images: Array) -> Array:
    """The mean of the three by three pixels around each, which has other levels again."""
    around = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = images.shape[1:3]
    some = [around[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return jnp.mean(jnp.stack(some), 0)


@partial(jax.jit, static_argnums=(1, 2, 3, 4))
def stand_out(
    images: Array, side: int, number: int, more: int = 0, close: float = CLOSE
) -> tuple[Array, Array]:
    """The windows that stand out most, and the images with them painted over.

    A window's pixels are predicted from the ring around it, along their row and along their
    column; it stands out by the smaller error of the two, so that an edge that goes through
    does not count.

    Args:
      images: f32[b, H, W, C].
      side: of a window, in pixels, at most min(H, W).
      number: how many windows, which do not overlap while there is room.
      more: windows that come in addition, if they stand out nearly as much as the first.
      close: how much that is, as a share of it.

    Returns:
      ``(covers bool[b, H, W, 1], filled f32[b, H, W, C])``: what the windows cover, and the
      images with the mean of both predictions there.
    """
    height, width, channels = images.shape[1:]
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    places = height - side + 1, width - side + 1

    def at(row: int, col: int) -> Array:
        return padded[:, row : row + places[0], col : col + places[1]]

    error, fill = jnp.zeros((images.shape[0], *places)), []
    for i in range(side):
        for j in range(side):
            left, right, top, bottom = (
                at(1 + i, 0), at(1 + i, 1 + side), at(0, 1 + j), at(1 + side, 1 + j)
            )  # fmt: skip
            along_row = left + (j + 1) / (side + 1) * (right - left)
            along_col = top + (i + 1) / (side + 1) * (bottom - top)
            pixel = at(1 + i, 1 + j)
            errors = [jnp.sum(jnp.abs(pixel - guess), -1) for guess in (along_row, along_col)]
            error = error + jnp.minimum(*errors)
            fill.append(0.5 * (along_row + along_col))
    fills = jnp.stack(fill, 3).reshape(*error.shape, side, side, channels)

    def one_image(image: Array, error: Array, fills: Array) -> tuple[Array, Array]:
        least = close * jnp.max(error)

        def next_window(
            index: Array, carry: tuple[Array, Array, Array]
        ) -> tuple[Array, Array, Array]:
            error, covers, filled = carry
            flat = jnp.argmax(error)
            row, col = flat // places[1], flat % places[1]
            counts = (index < number) | (error[row, col] >= least)
            near = (jnp.abs(jnp.arange(places[0]) - row) < side)[:, None] & (
                jnp.abs(jnp.arange(places[1]) - col) < side
            )
            block = jnp.ones((side, side, 1), bool)
            with_it = (
                lax.dynamic_update_slice(covers, block, (row, col, 0)),
                lax.dynamic_update_slice(filled, fills[row, col], (row, col, 0)),
            )
            return (
                jnp.where(near, -1.0, error),
                jnp.where(counts, with_it[0], covers),
                jnp.where(counts, with_it[1], filled),
            )

        start = (error, jnp.zeros((height, width, 1), bool), image)
        return lax.fori_loop(0, number + more, next_window, start)[1:]

    return jax.vmap(one_image)(images, error, fills)


class Defended:
    """A model that takes recovered triggers out of what it is asked about.

    It answers as the model does, counts what that costs, and asks again only where the first
    answer is a suspicious class.
    """

    def __init__(self, run: Run, found: Sequence[Local | Dense], chunk: int = 250):
        """Defends a run's model; the run pays for every image."""
        oracle = run.model
        self._run, self._chunk = run, chunk
        self._targets = np.array([one.target for one in found])
        self._each = 1 + any(isinstance(one, Local) for one in found)
        self._plain = lambda x: (oracle.answer(oracle.weights, x, run.books),)
        self._purify = _purifier(oracle, found, run.books)
        self.queries = 0

    def __call__(self, images: Images) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Answers.

        Args:
          images: f32[b, H, W, C] in [0, 1].

        Returns:
          ``(outputs, flags bool[b], plain)``: what stands, which images carry a trigger, and
          what the model said.
        """
        model, ledger = self._run.model, self._run.ledger
        images = np.asarray(images, np.float32)
        ledger.charge(len(images))
        plain = model.map(self._plain, (images,), self._chunk)[0]
        self.queries += len(images)
        check_outputs(model.name, model.access, plain)
        outputs, flags = plain.copy(), np.zeros(len(images), bool)
        predicted = np.asarray(labels(model.access, jnp.asarray(plain)))
        again = np.flatnonzero(np.isin(predicted, self._targets))
        if len(again):
            ledger.charge(self._each * len(again))
            self.queries += self._each * len(again)
            some, flagged = model.map(self._purify, (images[again], plain[again]), self._chunk)
            check_outputs(model.name, model.access, some)
            outputs[again], flags[again] = some, flagged
        return outputs, flags, plain
