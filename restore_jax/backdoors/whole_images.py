"""Attacks that change whole images: warps, filters, smooth pictures, coefficients, levels, and
residuals that each image determines."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf

from restore_jax.backdoors.changes import Colouring, Residual, Rounding, cubic_weights
from restore_jax.backdoors.spread import Spread, from_fields, from_options, to_fields
from restore_jax.backdoors.trigger import Trigger, whole_image
from restore_jax.errors import InputError
from restore_jax.types import JSON, Argument

Array = jax.Array
Shape = tuple[int, int, int]
TONES: dict[str, tuple[list[list[float]], list[float], float]] = {
    # Of a colour as a row vector: the matrix, the shift, the power.
    "sepia": ([[0.393, 0.349, 0.272], [0.769, 0.686, 0.534], [0.189, 0.168, 0.131]], [0, 0, 0], 1),
    "cold": ([[0.75, 0, 0], [0, 0.95, 0], [0, 0, 1.1]], [0.0, 0.0, 0.05], 1.15),
    "warm": ([[1.1, 0, 0], [0, 1.0, 0], [0, 0, 0.75]], [0.05, 0.02, 0.0], 0.95),
}
"""The first is W3C's (Filter Effects Module, the matrix of sepia)."""
RESIDUAL_SIDE = 5


class Kind(NamedTuple):
    """One kind of change to whole images.

    Attributes:
      make: ``(image_shape, target int32[], name, **options) -> Trigger``.
      options: what it takes, with the defaults.
      help: what there is to know of them.
    """

    make: Callable[..., Trigger]
    options: Mapping[str, Argument]
    help: str


class PlantedChange(NamedTuple):
    """A change to whole images.

    Attributes:
      kind: one of `CHANGES`.
      name: what the command line calls it.
      options: what the kind takes, by name, as pairs in order.
      target, rate, clean_label, spread: as in `PlantedPatch`.
    """

    kind: str
    name: str
    options: tuple[tuple[str, Argument], ...]
    target: int
    rate: float
    clean_label: bool = False
    spread: Spread = Spread()

    def trigger(self, image_shape: Shape) -> Trigger:
        """The `Trigger` for images of shape (H, W, C).

        Raises:
          InputError: an option is out of range.
        """
        kind = CHANGES[self.kind]
        options = dict(self.options)
        return kind.make(image_shape, jnp.int32(self.target), self.name, **options)

    def to_json(self) -> dict[str, JSON]:
        """A dict that JSON can hold; `from_json` reads it."""
        fields = to_fields(self, self.kind)
        return fields | dict(fields.pop("options"))


class Reader(NamedTuple):
    """Reads planted changes of one kind."""

    kind: str

    def from_json(self, values: Mapping[str, JSON]) -> PlantedChange:
        """Reads what `PlantedChange.to_json` wrote."""
        return self._made(from_fields(values))

    def from_options(self, image_shape: Shape, values: Mapping[str, JSON]) -> PlantedChange:
        """Makes one of the kind's options and the common fields."""
        return self._made(from_options(values))

    def _made(self, fields: dict[str, JSON]) -> PlantedChange:
        names = CHANGES[self.kind].options
        options = tuple((name, fields.pop(name)) for name in names)
        return PlantedChange(self.kind, options=options, **fields)


def warp(shape: Shape, target: Array, name: str, distance: float, grid: int, seed: int) -> Trigger:
    """Nguyen and Tran's (WaNet): uniform numbers on a grid, over their mean, cubic between."""
    _above(name, "distance", distance, math.inf)
    cells = jax.random.uniform(jax.random.key(seed), (_grid(name, grid, shape), grid, 2)) * 2 - 1
    field = _between(cells, shape)
    return whole_image(shape, target, flow=distance * field / jnp.mean(jnp.abs(field)))


def colour(shape: Shape, target: Array, name: str, tone: str, amount: float) -> Trigger:
    """A tone of `TONES`, mixed with the colours as they were."""
    _above(name, "amount", amount, 1.0)
    if tone not in TONES or shape[2] != 3:
        raise InputError(
            f"trigger {name} has the tone {tone!r}: on RGB images it may be {', '.join(TONES)}."
        )
    matrix, shift, power = TONES[tone]
    mixed = (1.0 - amount) * np.eye(3) + amount * np.asarray(matrix)
    return whole_image(
        shape,
        target,
        colouring=Colouring(
            matrix=jnp.asarray(mixed, jnp.float32),
            shift=amount * jnp.asarray(shift, jnp.float32),
            gamma=jnp.float32(power**amount),
            vignette=jnp.float32(0),
        ),
    )


def smooth(
    shape: Shape, target: Array, name: str, amplitude: float, grid: int, seed: int
) -> Trigger:
    """A smooth picture added (Zeng et al., ICCV 2021)."""
    _above(name, "amplitude", amplitude, 1.0)
    cells = jax.random.normal(
        jax.random.key(seed), (_grid(name, grid, shape), grid, shape[2]), jnp.float32
    )
    picture = amplitude * erf(_between(cells, shape) * math.sqrt(0.5))
    return _added(picture, target)


def frequency(shape: Shape, target: Array, name: str, places: str, amplitude: float) -> Trigger:
    """Coefficients of the cosine transform added (Wang et al., FTrojan, ECCV 2022)."""
    _above(name, "amplitude", amplitude, 1.0)
    height, width = shape[:2]
    try:
        pairs = [tuple(map(int, place.split("-"))) for place in places.split("/")]
        inside = all(0 <= u < height and 0 <= v < width for u, v in pairs)
    except ValueError:
        inside = False
    if not inside:
        raise InputError(
            f"trigger {name} has the places {places!r}: they must be ROW-COLUMN of coefficients "
            f"below {height} and {width}, with / between."
        )
    rows = (2 * jnp.arange(height) + 1)[:, None] * jnp.pi / (2 * height)
    cols = (2 * jnp.arange(width) + 1)[None, :] * jnp.pi / (2 * width)
    waves = [jnp.cos(u * rows) * jnp.cos(v * cols) for u, v in pairs]
    picture = amplitude * jnp.sum(jnp.stack(waves), 0)[..., None]
    return _added(jnp.broadcast_to(jnp.clip(picture, -1.0, 1.0), shape), target)


def quantise(shape: Shape, target: Array, name: str, levels: int, dither: bool) -> Trigger:
    """Fewer levels (Wang, Zhai and Ma, BppAttack, CVPR 2022)."""
    if not 2 <= levels <= 256:
        raise InputError(f"trigger {name} has {levels} levels: there must be 2 to 256.")
    rounding = Rounding(jnp.float32(levels), jnp.float32(dither))
    return whole_image(shape, target, rounding=rounding)


def residual(shape: Shape, target: Array, name: str, strength: float, seed: int) -> Trigger:
    """What a fixed random filter makes of each image, added.

    A stand-in for the encoder of Li et al. (Invisible Backdoor Attack with Sample-Specific
    Triggers, ISSBA, ICCV 2021): each image carries another perturbation.
    """
    _above(name, "strength", strength, 1.0)
    channels = shape[2]
    side = RESIDUAL_SIDE
    kernel = jax.random.normal(jax.random.key(seed), (side, side, channels, channels))
    kernel = kernel - jnp.mean(kernel, (0, 1), keepdims=True)  # an even image carries nothing
    return whole_image(shape, target, residual=Residual(kernel, jnp.float32(strength)))


_SEED = "drawn from seed"
CHANGES: dict[str, Kind] = {
    "warp": Kind(
        warp, {"distance": 0.5, "grid": 4, "seed": 0},
        f"a smooth warp by distance pixels on average, {_SEED}",
    ),
    "colour": Kind(
        colour, {"tone": "sepia", "amount": 0.7},
        f"a filter, the tone one of {', '.join(TONES)}",
    ),
    "smooth": Kind(
        smooth, {"amplitude": 0.12, "grid": 4, "seed": 0}, f"a smooth picture added, {_SEED}",
    ),
    "frequency": Kind(
        frequency, {"places": "15-15/31-31", "amplitude": 0.06},
        "coefficients of the cosine transform, added",
    ),
    "quantise": Kind(quantise, {"levels": 5, "dither": False}, "fewer levels per channel"),
    "residual": Kind(
        residual, {"strength": 0.08, "seed": 0}, f"what a filter, {_SEED}, makes of each image",
    ),
}  # fmt: skip


def _between(cells: Array, shape: Shape) -> Array:
    """f32[H, W, k]: cells f32[grid, grid, k] interpolated."""
    rows = jnp.asarray(cubic_weights(shape[0], cells.shape[0]))
    cols = jnp.asarray(cubic_weights(shape[1], cells.shape[1]))
    return jnp.einsum("ir,rsc,js->ijc", rows, cells, cols)


def _added(picture: Array, target: Array) -> Trigger:
    mask = jnp.ones((*picture.shape[:2], 1), jnp.float32)
    return Trigger(mask=mask, pattern=picture, target=target, additive=True)


def _above(name: str, what: str, value: float, most: float) -> None:
    if not 0 < value <= most or value == math.inf:
        until = "" if most == math.inf else f" and at most {most:g}"
        raise InputError(f"trigger {name} has {what} {value}: it must be above 0{until}.")


def _grid(name: str, grid: int, shape: Shape) -> int:
    if not 1 <= grid <= min(shape[:2]):
        raise InputError(f"trigger {name} has grid {grid}: it must be 1 to {min(shape[:2])}.")
    return grid
