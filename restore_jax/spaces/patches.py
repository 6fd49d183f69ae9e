"""One to several rectangles of pixels, each more or less opaque, some of them in corners.

Prior: the number of rectangles is uniform over 1 .. max_count; each is, independently, a draw of
the space `patch`, with an opacity uniform over [min_opacity, 1], and with probability ``corners``
it lies in one of the four corners of the image, each as likely, 0 or 1 pixels from the borders.
Later ones lie over earlier ones. Triggers of Turner, Tsipras and Madry (Label-Consistent Backdoor
Attacks, 2019, arXiv 1912.02771) are four patches in the corners, those of Qi et al. (Revisiting the
Assumption of Latent Separability for Backdoor Defenses, Adap-Patch, ICLR 2023) several translucent
ones.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from restore_jax.backdoors.changes import over
from restore_jax.backdoors.trigger import Trigger
from restore_jax.errors import InputError
from restore_jax.spaces import patch as one_patch
from restore_jax.spaces import uniforms
from restore_jax.spaces.draws import independent
from restore_jax.spaces.patch import Patch
from restore_jax.spaces.types import TriggerSpace, check_image_shape, check_share, is_whole
from restore_jax.splitting.kernels import metropolis
from restore_jax.splitting.types import Proposal, SearchSpace

Array = jax.Array
OWN_WEIGHTS = {"fade": 1.5, "count": 1.0, "corner": 1.0}
"""How often the kernel tries each move beside those of `patch`, relative to them."""
INSET = 2
"""From how many distances to the borders a patch in a corner may have, 0 the least."""


class Patches(NamedTuple):
    """One particle.

    Attributes:
      number: f32[] in [0, 1), says how many patches are seen.
      opacity: f32[max_count] in [0, 1), says how opaque each is.
      corner: f32[max_count] in [0, 1), says whether each lies in a corner, and in which.
      each: `Patch` with leading axis max_count.
    """

    number: Array
    opacity: Array
    corner: Array
    each: Patch


@dataclasses.dataclass(frozen=True)
class Prior:
    """The prior's parameters.

    Attributes:
      image_shape: (H, W, C).
      max_count: most patches.
      min_opacity: in (0, 1].
      corners: the share of patches in corners, in [0, 1).
      single: the space of one patch.
    """

    image_shape: tuple[int, int, int]
    max_count: int
    min_opacity: float
    corners: float
    single: TriggerSpace


def draw(key: Array, prior: Prior) -> Patches:
    """One particle from the prior."""
    key_numbers, key_each = jax.random.split(key)
    numbers = jax.random.uniform(key_numbers, (2 * prior.max_count + 1,), jnp.float32)
    each = prior.single.search.sample(key_each, prior.max_count)
    return Patches(
        numbers[0], numbers[1 : prior.max_count + 1], numbers[prior.max_count + 1 :], each
    )


def trigger(particle: Patches, target: Array, prior: Prior) -> Trigger:
    """The trigger that a particle stands for: written, more or less opaque, not added."""
    shown, pattern = _canvas(particle, prior)
    return Trigger(mask=shown, pattern=pattern, target=jnp.asarray(target, jnp.int32))


def stamp(particle: Patches, images: Array, prior: Prior) -> Array:
    """Puts one particle on images f32[m, H, W, C] in [0, 1]."""
    shown, pattern = _canvas(particle, prior)
    return images * over(images, 1.0 - shown) + over(images, shown * pattern)


def refresh(key: Array, particle: Patches, rate: Array, prior: Prior) -> Patches:
    """Redraws each number with probability ``rate``; the patches as `patch` does."""
    keys = jax.random.split(key, 3)
    fresh, most = draw(keys[0], prior), prior.max_count
    redrawn = jax.random.bernoulli(keys[1], rate, (2 * most + 1,))
    each = jax.vmap(lambda k, one: prior.single.refresh(k, one, rate))(
        jax.random.split(keys[2], most), particle.each
    )
    return Patches(
        jnp.where(redrawn[0], fresh.number, particle.number),
        jnp.where(redrawn[1 : most + 1], fresh.opacity, particle.opacity),
        jnp.where(redrawn[most + 1 :], fresh.corner, particle.corner),
        each,
    )


def proposals(prior: Prior) -> dict[str, Proposal]:
    """The moves, by name: those of `patch`, for one of the patches that are seen, and

    - ``fade``: the opacity of one of them moves by up to half of ``strength``, and is reflected.
    - ``count``: another number of patches, drawn from the prior.
    - ``corner``: whether and where one of them lies in a corner is drawn from the prior.
    """

    def one_of_them(move: Proposal) -> Proposal:
        def moved(key: Array, particle: Patches, strength: Array) -> tuple[Patches, Array]:
            key_which, key_move = jax.random.split(key)
            which = _one(key_which, particle, prior)
            old = jax.tree.map(lambda leaf: leaf[which], particle.each)
            new, log_ratio = move(key_move, old, strength)
            each = jax.tree.map(lambda all_, one: all_.at[which].set(one), particle.each, new)
            return particle._replace(each=each), log_ratio

        return moved

    def fade(key: Array, particle: Patches, strength: Array) -> tuple[Patches, Array]:
        key_which, key_by = jax.random.split(key)
        which = _one(key_which, particle, prior)
        by = strength * (jax.random.uniform(key_by, (), jnp.float32) - 0.5)
        opacity = particle.opacity.at[which].set(uniforms.reflected(particle.opacity[which] + by))
        return particle._replace(opacity=opacity), jnp.float32(0)

    def count(key: Array, particle: Patches, strength: Array) -> tuple[Patches, Array]:
        del strength
        return particle._replace(number=jax.random.uniform(key, (), jnp.float32)), jnp.float32(0)

    def corner(key: Array, particle: Patches, strength: Array) -> tuple[Patches, Array]:
        del strength
        key_which, key_draw = jax.random.split(key)
        which = _one(key_which, particle, prior)
        drawn = jax.random.uniform(key_draw, (), jnp.float32)
        return particle._replace(corner=particle.corner.at[which].set(drawn)), jnp.float32(0)

    own: dict[str, Proposal] = {"fade": fade, "count": count, "corner": corner}
    if prior.max_count == 1:
        del own["count"]
    if prior.min_opacity == 1:
        del own["fade"]
    if prior.corners == 0:
        del own["corner"]
    theirs = {name: one_of_them(move) for name, move in prior.single.proposals.items()}
    return theirs | own


def patches(
    image_shape: tuple[int, int, int],
    *,
    max_count: int = 4,
    min_opacity: float = 0.2,
    corners: float = 0.25,
    max_size: int | None = None,
    min_size: int = 1,
    channels: str = "rgb",
    levels: int = 2,
) -> TriggerSpace:
    """The space of several translucent patches.

    Args:
      image_shape: (H, W, C) of the images, in pixels.
      max_count: most patches, 1 to 16.
      min_opacity: of a patch, in (0, 1].
      corners: the share of patches that lie in a corner, in [0, 1).
      max_size, min_size, channels, levels: of each, see `patch`.

    Raises:
      InputError: if an option is outside its range.

    Example:
      >>> space = patches((32, 32, 3), max_count=2)
      >>> space.search.sample(jax.random.key(0), 5).opacity.shape
      (5, 2)
    """
    shape = check_image_shape(image_shape)
    if not is_whole(max_count) or not 1 <= max_count <= 16:
        raise InputError(f"max_count is {max_count!r}; it must be a whole number in 1 .. 16.")
    opacity = check_share("min_opacity", min_opacity, one_included=True)
    share = 0.0 if corners == 0 else check_share("corners", corners, one_included=False)
    single = one_patch.patch(
        shape, max_size=max_size, min_size=min_size, channels=channels, levels=levels
    )
    prior = Prior(shape, int(max_count), opacity, share, single)
    moves = proposals(prior)
    weights = one_patch.WEIGHTS | OWN_WEIGHTS
    return TriggerSpace(
        name="patches",
        search=SearchSpace(
            sample=independent(lambda key: draw(key, prior)),
            kernel=metropolis(list(moves.values()), [weights[name] for name in moves]),
        ),
        trigger=lambda particle, target: trigger(particle, target, prior),
        stamp=lambda particle, images: stamp(particle, images, prior),
        refresh=lambda key, particle, rate: refresh(key, particle, rate, prior),
        proposals=moves,
        description=single.description
        | {
            "space": "patches",
            "max_count": prior.max_count,
            "min_opacity": prior.min_opacity,
            "corners": prior.corners,
        },
    )


def _seen(particle: Patches, prior: Prior) -> Array:
    """int32[], how many patches are seen: the first ones."""
    return uniforms.whole(particle.number, 1, prior.max_count)


def _one(key: Array, particle: Patches, prior: Prior) -> Array:
    """int32[], one of the patches that are seen, each with the same probability."""
    return jax.random.randint(key, (), 0, _seen(particle, prior))


def _canvas(particle: Patches, prior: Prior) -> tuple[Array, Array]:
    """f32[H, W, 1] in [0, 1], how much is covered, and f32[H, W, C], the colours there."""
    through = jnp.ones((*prior.image_shape[:2], 1), jnp.float32)
    colours = jnp.zeros(prior.image_shape, jnp.float32)
    seen = _seen(particle, prior)
    for k in range(prior.max_count):
        one = jax.tree.map(lambda leaf, k=k: leaf[k], particle.each)
        single = prior.single.trigger(_in_corner(one, particle.corner[k], prior), jnp.int32(0))
        opacity = prior.min_opacity + (1.0 - prior.min_opacity) * particle.opacity[k]
        covered = jnp.where(k < seen, opacity, 0.0) * single.mask
        colours = colours * (1.0 - covered) + covered * single.pattern
        through = through * (1.0 - covered)
    shown = 1.0 - through
    return shown, jnp.clip(colours / jnp.maximum(shown, 1e-6), 0.0, 1.0)


def _in_corner(one: Patch, corner: Array, prior: Prior) -> Patch:
    """The patch in the corner that a number says, or where it was."""
    if prior.corners == 0:
        return one
    height, width = prior.image_shape[:2]
    which = jnp.floor(4.0 * corner / prior.corners).astype(jnp.int32)
    low_row = jnp.minimum(one.row % INSET, height - one.height)
    low_col = jnp.minimum(one.col % INSET, width - one.width)
    row = jnp.where(which % 2 == 0, low_row, height - one.height - low_row)
    col = jnp.where(which // 2 == 0, low_col, width - one.width - low_col)
    inside = corner < prior.corners
    return one._replace(row=jnp.where(inside, row, one.row), col=jnp.where(inside, col, one.col))
