"""A few single pixels at free places: how many, where, and their colours.

Prior: the number of pixels n has a weight of ``count_decay ** (n - min_pixels)`` (1, the
default, is uniform over min_pixels .. max_pixels); their places are independent and uniform
over the image, and may coincide; each colour is uniform over the colours. Pixels are
written in their order: at one place the last is seen.

Both the single-pixel and the pattern backdoor of Gu, Dolan-Gavitt and Garg (BadNets, 2017,
arXiv 1708.06733) are particles of this space.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.backdoors.trigger import Trigger
from restore_jax.errors import InputError
from restore_jax.spaces import colours as palette
from restore_jax.spaces.colours import Colours, make_colours
from restore_jax.spaces.draws import bit_rows, chance, choose, drawn, independent, integers
from restore_jax.spaces.torus import SHIFTS
from restore_jax.spaces.types import TriggerSpace, check_image_shape, check_share, is_whole
from restore_jax.splitting.kernels import metropolis
from restore_jax.splitting.types import Proposal, SearchSpace

Array = jax.Array
Move = Callable[[Array, "Scattered", Array], tuple["Scattered", Array]]
WEIGHTS = {
    "move": 2.0,
    "step": 2.0,
    "recolour": 2.0,
    "redraw": 2.0,
    "grow_or_shrink": 2.0,
    "shift": 1.0,
    "fresh": 0.5,
}
"""How often the kernel tries each move, relative to the others."""


class Scattered(NamedTuple):
    """One particle.

    Attributes:
      count: int32[], how many pixels are seen, in min_pixels .. max_pixels.
      places: int32[max_pixels], flat indices of pixels, in 0 .. H W - 1.
      codes: uint8[max_pixels] (uint16 from 256 colours on), colour codes; only the first
        ``count`` pixels are seen, the rest follow the prior unseen.
    """

    count: Array  # type: ignore[assignment]  # hides tuple.count, which nobody asks of a particle
    places: Array
    codes: Array


@dataclasses.dataclass(frozen=True)
class Prior:
    """The prior's parameters.

    Attributes:
      image_height: H.
      image_width: W.
      min_pixels: fewest pixels.
      max_pixels: most pixels.
      count_decay: weight of one pixel more, in (0, 1].
      colours: the palette.
    """

    image_height: int
    image_width: int
    min_pixels: int
    max_pixels: int
    count_decay: float
    colours: Colours

    @property
    def log_weights(self) -> np.ndarray:
        """f32[max_pixels - min_pixels + 1], log weights of the counts, not normalised."""
        more = np.arange(self.max_pixels - self.min_pixels + 1)
        return np.asarray(more * np.log(self.count_decay), np.float32)


def draw(key: Array, prior: Prior) -> Scattered:
    """One particle from the prior."""
    return _draw(_bits(key, prior), prior)


def trigger(particle: Scattered, target: Array, prior: Prior) -> Trigger:
    """The trigger that a particle stands for: written, not added."""
    covered, pattern = _canvas(particle, prior)
    return Trigger(
        mask=covered.astype(jnp.float32),
        pattern=jnp.where(covered, pattern, 0.0),
        target=jnp.asarray(target, jnp.int32),
    )


def stamp(particle: Scattered, images: Array, prior: Prior) -> Array:
    """Puts one particle on images f32[m, H, W, C] in [0, 1]."""
    covered, pattern = _canvas(particle, prior)
    return jnp.where(covered, pattern, images)


def refresh(key: Array, particle: Scattered, rate: Array, prior: Prior) -> Scattered:
    """Redraws each pixel with probability ``rate``, and their number as well."""
    bits = _bits(key, prior)
    fresh = _draw(bits, prior)
    which = chance(bits[3], particle.places.shape, rate)
    recounted = chance(bits[4], (), rate)
    return Scattered(
        jnp.where(recounted, fresh.count, particle.count),
        jnp.where(which, fresh.places, particle.places),
        jnp.where(which, fresh.codes, particle.codes),
    )


def proposals(prior: Prior) -> dict[str, Proposal]:
    """The moves, by name.

    - ``move``: one visible pixel goes to any place.
    - ``step``: one visible pixel goes by 1, 2, 4 or 8 pixels up, down, left or right.
    - ``recolour``: one visible pixel takes another colour.
    - ``redraw``: one visible pixel is redrawn, and each other with probability ``strength``.
    - ``grow_or_shrink``: one pixel more or one fewer; it comes, drawn from the prior, at any
      rank of the order, and goes from any.
    - ``shift``: all pixels go by 1, 2, 4 or 8 pixels up, down, left or right.
    - ``fresh``: a new draw from the prior.

    ``step`` and ``shift`` wrap around at the borders. A move that no particle of this prior
    can make is left out.
    """
    ranks = jnp.arange(prior.max_pixels, dtype=jnp.int32)
    log_decay = math.log(prior.count_decay)

    def one_visible(row: Array, particle: Scattered) -> Array:
        return ranks == integers(row, (), 0, particle.count)

    def move(bits: Array, particle: Scattered, strength: Array) -> tuple[Scattered, Array]:
        del strength
        place = integers(bits[1], (), 0, prior.image_height * prior.image_width)
        places = jnp.where(one_visible(bits[0], particle), place, particle.places)
        return particle._replace(places=places), jnp.float32(0)

    def step(bits: Array, particle: Scattered, strength: Array) -> tuple[Scattered, Array]:
        del strength
        stepped = _shifted(bits[1], particle.places, prior)
        places = jnp.where(one_visible(bits[0], particle), stepped, particle.places)
        return particle._replace(places=places), jnp.float32(0)

    def recolour(bits: Array, particle: Scattered, strength: Array) -> tuple[Scattered, Array]:
        del strength
        other = palette.another(bits[2], particle.codes, prior.colours)
        codes = jnp.where(one_visible(bits[0], particle), other, particle.codes)
        return particle._replace(codes=codes), jnp.float32(0)

    def redraw(bits: Array, particle: Scattered, strength: Array) -> tuple[Scattered, Array]:
        others = chance(bits[3], ranks.shape, strength)
        which = one_visible(bits[0], particle) | (others & (ranks < particle.count))
        places, codes = _pixels(bits, prior)
        proposal = particle._replace(
            places=jnp.where(which, places, particle.places),
            codes=jnp.where(which, codes, particle.codes),
        )
        return proposal, jnp.float32(0)

    def grow_or_shrink(
        bits: Array, particle: Scattered, strength: Array
    ) -> tuple[Scattered, Array]:
        del strength
        grow = chance(bits[0], (), 0.5)
        limit = jnp.where(grow, prior.max_pixels, prior.min_pixels)
        # The last rank that is seen with the pixel and unseen without it. What the order hides
        # depends on it, so a pixel must be able to come back where it went: each of `edge + 1`
        # ranks, both ways. The pixel that becomes unseen is redrawn, as the one that it
        # replaces was, so that their densities cancel.
        edge = jnp.where(grow, particle.count, particle.count - 1)
        rank = integers(bits[3], (), 0, edge + 1)
        later = (ranks > rank) & (ranks <= edge)
        earlier = (ranks >= rank) & (ranks < edge)
        source = ranks + jnp.where(grow, -later.astype(jnp.int32), earlier.astype(jnp.int32))
        new = ranks == jnp.where(grow, rank, edge)
        places, codes = _pixels(bits, prior)
        proposal = Scattered(
            particle.count + jnp.where(grow, 1, -1),
            jnp.where(new, places, particle.places[source]),
            jnp.where(new, codes, particle.codes[source]),
        )
        fits = particle.count != limit
        proposal = jax.tree.map(lambda new, old: jnp.where(fits, new, old), proposal, particle)
        log_ratio = jnp.where(grow, log_decay, -log_decay).astype(jnp.float32)
        return proposal, jnp.where(fits, log_ratio, -jnp.inf)

    def shift(bits: Array, particle: Scattered, strength: Array) -> tuple[Scattered, Array]:
        del strength
        places = _shifted(bits[0], particle.places, prior)
        return particle._replace(places=places), jnp.float32(0)

    def fresh(bits: Array, particle: Scattered, strength: Array) -> tuple[Scattered, Array]:
        del particle, strength
        return _draw(bits, prior), jnp.float32(0)

    moves: dict[str, Move] = {
        "move": move,
        "step": step,
        "recolour": recolour,
        "redraw": redraw,
    }
    if prior.max_pixels > prior.min_pixels:
        moves["grow_or_shrink"] = grow_or_shrink
    if prior.max_pixels > 1:
        moves["shift"] = shift
    moves["fresh"] = fresh
    return drawn(lambda key: _bits(key, prior), moves)


def scattered(
    image_shape: tuple[int, int, int],
    *,
    max_pixels: int = 12,
    min_pixels: int = 1,
    count_decay: float = 1.0,
    channels: str = "rgb",
    levels: int = 2,
) -> TriggerSpace:
    """The space of a few single pixels.

    Args:
      image_shape: (H, W, C) of the images, in pixels.
      max_pixels: most pixels.
      min_pixels: fewest pixels; at least 1.
      count_decay: weight of n + 1 pixels over that of n, in (0, 1]; below 1 few pixels are
        favoured.
      channels: "rgb", each channel has a level of its own, or "grey", one for all.
      levels: levels per channel, equally spaced in [0, 1]; at least 2.

    Raises:
      InputError: if an option is outside its range.
    """
    height, width, image_channels = check_image_shape(image_shape)
    if not (is_whole(min_pixels) and is_whole(max_pixels)) or not 1 <= min_pixels <= max_pixels:
        raise InputError(
            f"min_pixels is {min_pixels!r} and max_pixels {max_pixels!r}; they must be whole "
            "numbers with 1 <= min_pixels <= max_pixels."
        )
    decay = check_share("count_decay", count_decay, one_included=True)
    colours = make_colours(channels, levels, image_channels)
    prior = Prior(height, width, int(min_pixels), int(max_pixels), decay, colours)
    moves = proposals(prior)
    return TriggerSpace(
        name="scattered",
        search=SearchSpace(
            sample=independent(lambda key: draw(key, prior)),
            kernel=metropolis(list(moves.values()), [WEIGHTS[name] for name in moves]),
        ),
        trigger=lambda particle, target: trigger(particle, target, prior),
        stamp=lambda particle, images: stamp(particle, images, prior),
        refresh=lambda key, particle, rate: refresh(key, particle, rate, prior),
        proposals=moves,
        description={
            "space": "scattered",
            "image_shape": [height, width, image_channels],
            "min_pixels": prior.min_pixels,
            "max_pixels": prior.max_pixels,
            "count_decay": prior.count_decay,
            "channels": colours.kind,
            "levels": colours.levels,
        },
    )


def _bits(key: Array, prior: Prior) -> Array:
    """uint32[5, max_pixels], what a particle or a move is made of."""
    return bit_rows(key, 5, prior.max_pixels)


def _draw(bits: Array, prior: Prior) -> Scattered:
    """One particle from the prior, of the first three rows."""
    more = choose(bits[0], (), jnp.asarray(prior.log_weights))
    return Scattered(prior.min_pixels + more, *_pixels(bits, prior))


def _pixels(bits: Array, prior: Prior) -> tuple[Array, Array]:
    """Places int32[max_pixels] and colour codes [max_pixels], of the second and third row."""
    shape = (prior.max_pixels,)
    places = integers(bits[1], shape, 0, prior.image_height * prior.image_width)
    return places, palette.draw(bits[2], shape, prior.colours)


def _shifted(row: Array, places: Array, prior: Prior) -> Array:
    """The places, all moved by the same 1, 2, 4 or 8 pixels in one of 4 ways, wrapping."""
    ways = ((-1, 0), (1, 0), (0, -1), (0, 1))
    steps = jnp.array([(r * by, c * by) for by in SHIFTS for r, c in ways], jnp.int32)
    step = steps[integers(row, (), 0, len(steps))]
    rows = (places // prior.image_width + step[0]) % prior.image_height
    cols = (places % prior.image_width + step[1]) % prior.image_width
    return rows * prior.image_width + cols


def _canvas(particle: Scattered, prior: Prior) -> tuple[Array, Array]:
    """bool[H, W, 1], which pixels are covered, and f32[H, W, C], their colours."""
    ranks = jnp.arange(1, prior.max_pixels + 1, dtype=jnp.int32)
    seen = jnp.where(ranks <= particle.count, ranks, 0)
    shape = (prior.image_height, prior.image_width)
    # Of several writes to one place a scatter may keep any: the largest rank says which.
    last = jnp.zeros(shape[0] * shape[1], jnp.int32).at[particle.places].max(seen).reshape(shape)
    pattern = palette.values(particle.codes, prior.colours)[jnp.maximum(last, 1) - 1]
    return (last > 0)[..., None], pattern
