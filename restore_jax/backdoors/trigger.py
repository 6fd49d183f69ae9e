"""What a trigger is, and how it is put on images."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.backdoors.changes import (
    Colouring,
    Residual,
    Rounding,
    moved,
    over,
    recoloured,
    rounded,
    with_residual,
)

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trigger:
    """A change to an image that a backdoored model obeys.

    Most are a mask and a pattern. Others change the whole image; what a trigger does not do is
    None, or a mask of zeros. What it does is done in this order: flow, colouring, rounding, mask
    and pattern, residual.

    Attributes:
      mask: f32[H, W, 1] in [0, 1]: how much of the pattern each pixel takes.
      pattern: f32[H, W, C]: the colours written, in [0, 1]; for an additive trigger
        the perturbation added, in [-1, 1].
      target: int32[], the class it leads to.
      additive: static; False: ``(1 - mask) * image + mask * pattern``, True:
        ``clip(image + mask * pattern, 0, 1)``.
      flow: f32[H, W, 2] or None: from how many rows below and columns to the right each pixel is
        taken (a warp: Nguyen and Tran, WaNet, ICLR 2021).
      colouring: another set of colours (a filter), or None.
      rounding: fewer levels (Wang, Zhai and Ma, BppAttack, CVPR 2022), or None.
      residual: something added that each image determines, or None.
    """

    mask: Array
    pattern: Array
    target: Array
    additive: bool = dataclasses.field(default=False, metadata={"static": True})
    flow: Array | None = None
    colouring: Colouring | None = None
    rounding: Rounding | None = None
    residual: Residual | None = None

    @property
    def changes_all(self) -> bool:
        """Whether it does something that is not in mask and pattern, to the whole image."""
        parts = (self.flow, self.colouring, self.rounding, self.residual)
        return any(part is not None for part in parts)

    @property
    def support(self) -> Array:
        """bool[H, W], the pixels that the trigger touches."""
        touched = self.mask[..., 0] > 0
        return jnp.ones_like(touched) if self.changes_all else touched

    @property
    def pixels(self) -> Array:
        """int32[], how many pixels the trigger touches."""
        return jnp.sum(self.support).astype(jnp.int32)


def whole_image(
    image_shape: tuple[int, int, int],
    target: Array,
    *,
    flow: Array | None = None,
    colouring: Colouring | None = None,
    rounding: Rounding | None = None,
    residual: Residual | None = None,
) -> Trigger:
    """A trigger that writes nothing, but changes whole images of (H, W, C).

    >>> import jax.numpy as jnp
    >>> down = whole_image((4, 4, 3), jnp.int32(1), flow=jnp.ones((4, 4, 2)))
    >>> int(down.pixels)
    16
    """
    return Trigger(
        mask=jnp.zeros((*image_shape[:2], 1), jnp.float32),
        pattern=jnp.zeros(image_shape, jnp.float32),
        target=jnp.asarray(target, jnp.int32),
        flow=flow,
        colouring=colouring,
        rounding=rounding,
        residual=residual,
    )


def stamp(trigger: Trigger, images: Array) -> Array:
    """Puts the trigger on images f32[..., H, W, C] in [0, 1]; same shape, same range.

    >>> import jax.numpy as jnp
    >>> mask = jnp.zeros((2, 2, 1)).at[0, 1].set(1.0)
    >>> white = Trigger(mask, jnp.ones((2, 2, 3)), jnp.int32(0))
    >>> stamp(white, jnp.zeros((1, 2, 2, 3)))[0, ..., 0].tolist()
    [[0.0, 1.0], [0.0, 0.0]]
    """
    if trigger.flow is not None:
        images = moved(images, trigger.flow)
    if trigger.colouring is not None:
        images = recoloured(images, trigger.colouring)
    if trigger.rounding is not None:
        images = rounded(images, trigger.rounding)
    written = over(images, trigger.mask * trigger.pattern)
    if trigger.additive:
        images = jnp.clip(images + written, 0.0, 1.0)
    else:
        images = images * over(images, 1.0 - trigger.mask) + written
    if trigger.residual is not None:
        images = with_residual(images, trigger.residual)
    return images


def same_marks(trigger: Trigger) -> bytes:
    """Equal for two triggers of one kind that do the same; what a mask hides does not count.

    >>> import jax.numpy as jnp
    >>> mask = jnp.zeros((2, 2, 1)).at[0, 1].set(1.0)
    >>> white = Trigger(mask, jnp.ones((2, 2, 3)), jnp.int32(0))
    >>> hidden = Trigger(mask, jnp.ones((2, 2, 3)).at[1].set(0.5), jnp.int32(0))
    >>> same_marks(white) == same_marks(hidden)
    True
    """
    seen = dataclasses.replace(trigger, pattern=trigger.mask * trigger.pattern)
    return b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(seen))


def describe(trigger: Trigger) -> str:
    """What the trigger does to an image, in words.

    >>> import jax.numpy as jnp
    >>> mask = jnp.zeros((8, 8, 1)).at[2:4, 5].set(1.0)
    >>> describe(Trigger(mask, jnp.ones((8, 8, 3)), jnp.int32(0)))
    '2 pixels in rows 2:4, columns 5:6 (end excluded)'
    """
    parts = []
    if trigger.flow is not None:
        far = np.hypot(*np.moveaxis(np.asarray(trigger.flow), -1, 0))
        parts.append(f"a warp by {far.mean():.2f} pixels on average, {far.max():.2f} at most")
    if trigger.colouring is not None:
        parts.append(_colours(trigger.colouring))
    if trigger.rounding is not None:
        dithered = ", dithered" if float(trigger.rounding.dither) > 0 else ""
        parts.append(f"{float(trigger.rounding.levels):.0f} levels per channel{dithered}")
    mask = np.asarray(trigger.mask)[..., 0]
    if (mask > 0).any() or not trigger.changes_all:
        number = int((mask > 0).sum())
        plural = "" if number == 1 else "s"
        parts.append(f"{number:,} pixel{plural} {_place(mask)}{_opacity(trigger, mask)}")
    if trigger.residual is not None:
        parts.append(f"up to {float(trigger.residual.strength):.2g} that each image determines")
    return "; ".join(parts)


def _colours(colouring: Colouring) -> str:
    matrix, shift = np.asarray(colouring.matrix), np.asarray(colouring.shift)
    grey = np.full(matrix.shape[0], 0.5, np.float32) ** float(colouring.gamma)
    after = np.clip(grey @ matrix + shift, 0, 1)
    shown = ", ".join(f"{number:.2f}" for number in after)
    darker = float(colouring.vignette)
    corners = f", corners {darker:.0%} darker" if darker >= 0.005 else ""
    return f"other colours: mid-grey becomes ({shown}){corners}"


def _opacity(trigger: Trigger, mask: np.ndarray) -> str:
    if trigger.additive:
        most = float(np.abs(np.asarray(trigger.mask * trigger.pattern)).max())
        return f", up to {most:.2g} added"
    written = mask[mask > 0]
    return f", {written.mean():.0%} opaque" if written.size and written.min() < 1 else ""


def _place(mask: np.ndarray) -> str:
    """Rows and columns that a mask [H, W] covers."""
    rows, cols = np.flatnonzero((mask > 0).any(1)), np.flatnonzero((mask > 0).any(0))
    if not len(rows):
        return "nowhere"
    return f"in rows {rows[0]}:{rows[-1] + 1}, columns {cols[0]}:{cols[-1] + 1} (end excluded)"
