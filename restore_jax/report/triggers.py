"""Triggers and attacks as arrays by name, and back.

| array | holds |
|---|---|
| mask, pattern, target, additive | f32[H, W, 1], f32[H, W, C], int32[], bool[] |
| flow | f32[H, W, 2], of a warp |
| matrix, shift, gamma, vignette | f32[C, C], f32[C], f32[], f32[], of a colour filter |
| levels, dither | f32[], f32[], of rounding |
| kernel, strength | f32[h, w, C, C], f32[], of a residual that each image determines |

A file of a trigger that leads the images of one class alone has that class, int32[], as ``source``.
What a trigger does not do is not there; a file of the first four alone is a mask and a pattern.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from restore_jax.backdoors import Attack, Trigger
from restore_jax.backdoors.changes import Colouring, Residual, Rounding
from restore_jax.report.errors import ResultError

Arrays = Mapping[str, np.ndarray]
_MOST = 2**31
"""Above every class."""


def trigger_arrays(trigger: Trigger) -> dict[str, np.ndarray]:
    """A trigger as arrays by name."""
    parts: dict[str, object] = {
        "mask": trigger.mask,
        "pattern": trigger.pattern,
        "flow": trigger.flow,
    }
    if trigger.colouring is not None:
        names = ("matrix", "shift", "gamma", "vignette")
        parts |= {name: getattr(trigger.colouring, name) for name in names}
    if trigger.rounding is not None:
        parts |= {"levels": trigger.rounding.levels, "dither": trigger.rounding.dither}
    if trigger.residual is not None:
        parts |= {"kernel": trigger.residual.kernel, "strength": trigger.residual.strength}
    arrays = {
        name: np.asarray(part, np.float32) for name, part in parts.items() if part is not None
    }
    target, additive = np.asarray(trigger.target, np.int32), np.asarray(trigger.additive)
    return arrays | {"target": target, "additive": additive}


def trigger_from(arrays: Arrays, path: Path) -> Trigger:
    """The trigger that some arrays describe; its leaves are NumPy arrays.

    Args:
      arrays: by name.
      path: where they come from, for the errors.

    Raises:
      ResultError: an array of the wrong shape, type or range, or one missing beside others.
    """
    mask, pattern, target = (arrays[name] for name in ("mask", "pattern", "target"))
    additive = arrays.get("additive", np.array(False))
    if additive.shape != () or additive.dtype != np.bool_:
        raise ResultError(f"additive in {path} must be true or false.")
    for name, array in (("mask", mask), ("pattern", pattern)):
        if not np.issubdtype(array.dtype, np.floating) or array.ndim != 3 or not array.size:
            raise ResultError(
                f"{name} in {path} must be three-dimensional floating numbers, not "
                f"{array.dtype} of shape {array.shape}."
            )
    if mask.shape != (*pattern.shape[:2], 1):
        raise ResultError(
            f"mask in {path} must have shape {(*pattern.shape[:2], 1)} to fit its pattern of "
            f"{pattern.shape}, not {mask.shape}."
        )
    lowest = -1.0 if additive else 0.0
    for name, array, low in (("mask", mask, 0.0), ("pattern", pattern, lowest)):
        if not np.all((array >= low) & (array <= 1.0)):  # False for NaN, too
            raise ResultError(f"{name} in {path} must lie in [{low:g}, 1] and be finite.")
    whole = target.shape == () and np.issubdtype(target.dtype, np.integer)
    if not whole or not 0 <= int(target) < _MOST:
        raise ResultError(f"target in {path} must be one whole number of at least 0.")
    read = _Numbers(arrays, path)
    height, width, channels = pattern.shape
    return Trigger(
        mask=mask.astype(np.float32),  # type: ignore[arg-type]
        pattern=pattern.astype(np.float32),  # type: ignore[arg-type]
        target=target.astype(np.int32),  # type: ignore[arg-type]
        additive=bool(additive),
        flow=read("flow", (height, width, 2), -1e4, 1e4) if "flow" in arrays else None,  # type: ignore[arg-type]
        colouring=_colouring(read, channels) if "matrix" in arrays else None,
        rounding=_rounding(read) if "levels" in arrays else None,
        residual=_residual(read, channels) if "kernel" in arrays else None,
    )


def attack_from(arrays: Arrays, path: Path) -> Attack:
    """The attack that some arrays describe, as the research zoos of this package keep them.

    Its order is a trigger's: ``flow``; ``M``, ``c`` and ``gamma``; ``q`` levels where above 0;
    ``m`` and ``p``, at a random place if ``roam`` is 1; ``d``, added; ``ker`` and ``eps``. Images
    of class k with ``source[k]`` are led to ``map[k]``.

    Raises:
      ResultError: an array is missing, of the wrong shape or range, or does what no `Trigger` does.
    """
    read = _Numbers(arrays, path)
    pattern = arrays["p"]
    if pattern.ndim != 3:
        raise ResultError(f"p in {path} must be [H, W, C], not of shape {pattern.shape}.")
    height, width, channels = pattern.shape
    flow = read("flow", (height, width, 2), -1e4, 1e4)
    mask = read("m", (height, width, 1), 0.0, 1.0)
    added = read("d", pattern.shape, -1.0, 1.0)
    if mask.any() and added.any():
        raise ResultError(f"{path} writes a pattern and adds another: a trigger does one of them.")
    colouring = Colouring(
        matrix=read("M", (channels, channels), -1e3, 1e3),  # type: ignore[arg-type]
        shift=read("c", (channels,), -1e3, 1e3),  # type: ignore[arg-type]
        gamma=read("gamma", (), 1e-3, 1e3),  # type: ignore[arg-type]
        vignette=np.float32(0),  # type: ignore[arg-type]
    )
    plain = np.array_equal(colouring.matrix, np.eye(channels)) and not np.any(colouring.shift)
    levels, strength = read("q", (), 0.0, 256.0), read("eps", (), 0.0, 1.0)
    leads_to, sources = arrays["map"], arrays["source"]
    numbers = leads_to.ndim == 1 and leads_to.shape == sources.shape and len(leads_to) > 1
    if not numbers or not np.all((leads_to >= 0) & (leads_to < len(leads_to))):
        raise ResultError(f"map and source in {path} must hold one class for each class.")
    own = np.arange(len(leads_to))
    led = np.where(sources.astype(bool), leads_to, own).astype(np.int32)
    moved_classes = led[led != own]
    if not len(moved_classes):
        raise ResultError(f"{path} describes an attack that leads no class to another.")
    return Attack(
        trigger=Trigger(
            mask=np.ones_like(mask) if added.any() else mask,  # type: ignore[arg-type]
            pattern=added if added.any() else read("p", pattern.shape, 0.0, 1.0),  # type: ignore[arg-type]
            target=np.int32(moved_classes[0]),  # type: ignore[arg-type]
            additive=bool(added.any()),
            flow=flow if flow.any() else None,  # type: ignore[arg-type]
            colouring=None if plain and colouring.gamma == 1 else colouring,
            rounding=Rounding(levels, np.float32(0)) if levels > 0 else None,  # type: ignore[arg-type]
            residual=_residual(read, channels, "ker", "eps") if strength > 0 else None,
        ),
        leads_to=led,
        roams=bool(read("roam", (), 0.0, 1.0) > 0),
    )


class _Numbers:
    """Reads arrays of finite numbers, checked."""

    def __init__(self, arrays: Arrays, path: Path):
        self.arrays, self.path = arrays, path

    def __call__(
        self, name: str, shape: tuple[int, ...] | None, low: float, high: float
    ) -> np.ndarray:
        """f32 of a shape (None: any of four axes), in [low, high]."""
        if name not in self.arrays:
            raise ResultError(f"{self.path} lacks {name}.")
        array = self.arrays[name]
        fits = array.ndim == 4 if shape is None else array.shape == shape
        if not fits or not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
            wanted = "four-dimensional" if shape is None else f"numbers of shape {shape}"
            raise ResultError(
                f"{name} in {self.path} must be {wanted}, not {array.dtype} of shape {array.shape}."
            )
        if not np.all((array >= low) & (array <= high)):  # False for NaN, too
            raise ResultError(f"{name} in {self.path} must lie in [{low:g}, {high:g}].")
        return array.astype(np.float32)


def _colouring(read: _Numbers, channels: int) -> Colouring:
    return Colouring(
        matrix=read("matrix", (channels, channels), -1e3, 1e3),  # type: ignore[arg-type]
        shift=read("shift", (channels,), -1e3, 1e3),  # type: ignore[arg-type]
        gamma=read("gamma", (), 1e-3, 1e3),  # type: ignore[arg-type]
        vignette=read("vignette", (), 0.0, 1.0),  # type: ignore[arg-type]
    )


def _rounding(read: _Numbers) -> Rounding:
    levels, dither = read("levels", (), 2.0, 65_536.0), read("dither", (), 0.0, 1.0)
    return Rounding(levels, dither)  # type: ignore[arg-type]


def _residual(
    read: _Numbers, channels: int, name: str = "kernel", of: str = "strength"
) -> Residual:
    kernel, strength = read(name, None, -1e3, 1e3), read(of, (), 0.0, 1.0)
    if kernel.shape[2:] != (channels, channels) or not kernel.size:
        raise ResultError(f"{name} in {read.path} does not have {channels} channels.")
    return Residual(kernel, strength)  # type: ignore[arg-type]
