"""Independent pixels: most are left alone, some take a colour.

Prior: each pixel is on with probability ``density``, its colour then uniform over the
colours; all pixels are independent. With grey pixels, two levels and a density of 0.1
this is the IID space of Le Roux, Kallas and Furon (SaTML 2024), and `refresh` at a rate
of 0.5 its move.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from restore_jax.backdoors.trigger import Trigger
from restore_jax.spaces import colours as palette
from restore_jax.spaces import torus
from restore_jax.spaces.colours import Colours, make_colours
from restore_jax.spaces.draws import bit_rows, chance, drawn, independent, integers, pick
from restore_jax.spaces.types import TriggerSpace, check_image_shape, check_share
from restore_jax.splitting.kernels import metropolis
from restore_jax.splitting.types import Proposal, SearchSpace

Array = jax.Array
WEIGHTS = {
    "redraw": 2.0,
    "block": 3.0,
    "flip": 2.0,
    "recolour": 1.0,
    "swap": 1.0,
    "shift": 1.0,
}
"""How often the kernel tries each move, relative to the others."""


@dataclasses.dataclass(frozen=True)
class Prior:
    """The prior's parameters.

    Attributes:
      image_height: H.
      image_width: W.
      density: probability that a pixel is on, in (0, 1).
      colours: the palette.
    """

    image_height: int
    image_width: int
    density: float
    colours: Colours


def draw(key: Array, prior: Prior) -> Array:
    """One particle, uint8[H, W] (uint16 from 255 colours on): 0 off, 1 + colour code on."""
    return _draw(_bits(key, prior), prior)


def trigger(particle: Array, target: Array, prior: Prior) -> Trigger:
    """The trigger that a particle stands for: written, not added."""
    on = (particle > 0)[..., None]
    return Trigger(
        mask=on.astype(jnp.float32),
        pattern=jnp.where(on, _values(particle, prior), 0.0),
        target=jnp.asarray(target, jnp.int32),
    )


def stamp(particle: Array, images: Array, prior: Prior) -> Array:
    """Puts one particle on images f32[m, H, W, C] in [0, 1]."""
    return jnp.where((particle > 0)[..., None], _values(particle, prior), images)


def refresh(key: Array, particle: Array, rate: Array, prior: Prior) -> Array:
    """Redraws each pixel with probability ``rate`` from the prior."""
    return _refresh(_bits(key, prior), particle, rate, prior)


def proposals(prior: Prior) -> dict[str, Proposal]:
    """The moves, by name.

    - ``redraw``: each pixel is redrawn with probability ``strength``.
    - ``block``: the pixels of a window are redrawn, its sides being the share
      ``strength`` of the image's.
    - ``flip``: one pixel that is off is turned on, or one that is on is turned off.
    - ``recolour``: one pixel that is on takes another colour.
    - ``swap``: one pixel that is on changes places with one of its eight neighbours.
    - ``shift``: the whole pattern moves by 1, 2, 4 or 8 pixels.

    ``swap``, ``shift`` and the window of ``block`` wrap around at the borders, under which
    the prior does not change.
    """
    height, width = prior.image_height, prior.image_width
    # A redraw of few pixels mostly changes nothing, which costs a score all the same: no
    # redraw is smaller than the one that changes about one pixel.
    fewest = min(0.5 / (prior.density * (1 - prior.density)), height * width)
    least_rate = fewest / (height * width)
    log_odds = math.log(prior.density) - math.log1p(-prior.density)
    ring = jnp.array([(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if r or c], jnp.int32)

    def redraw(bits: Array, particle: Array, strength: Array) -> tuple[Array, Array]:
        rate = jnp.maximum(strength, least_rate)
        return _refresh(bits, particle, rate, prior), jnp.float32(0)

    def block(bits: Array, particle: Array, strength: Array) -> tuple[Array, Array]:
        share = jnp.maximum(strength, math.sqrt(least_rate))
        inside = torus.window(
            bits[2],
            (height, width),
            jnp.ceil(share * height).astype(jnp.int32),
            jnp.ceil(share * width).astype(jnp.int32),
        )
        return jnp.where(inside, _draw(bits, prior), particle), jnp.float32(0)

    def flip(bits: Array, particle: Array, strength: Array) -> tuple[Array, Array]:
        del strength
        turn_on = chance(bits[2], (), 0.5)
        flat = particle.reshape(-1)
        index, count = pick(bits[0], (flat > 0) != turn_on)
        code = jnp.where(turn_on, 1 + palette.draw(bits[1], (), prior.colours), 0)
        code = jnp.where(count > 0, code.astype(flat.dtype), flat[index])
        # On: one of `count` pixels and of K colours, whose prior weighs odds / K; back: one
        # of the pixels then on. Off: the same, the other way round. K cancels.
        back = flat.size - count + 1
        log_ratio = (
            jnp.where(turn_on, log_odds, -log_odds)
            + jnp.log(count.astype(jnp.float32))
            - jnp.log(back.astype(jnp.float32))
        )
        return flat.at[index].set(code).reshape(particle.shape), log_ratio

    def recolour(bits: Array, particle: Array, strength: Array) -> tuple[Array, Array]:
        del strength
        flat = particle.reshape(-1)
        index, count = pick(bits[0], flat > 0)
        code = 1 + palette.another(bits[1], flat[index] - 1, prior.colours)
        code = jnp.where(count > 0, code, flat[index])
        proposal = flat.at[index].set(code).reshape(particle.shape)
        return proposal, jnp.where(count > 0, jnp.float32(0), -jnp.inf)

    def swap(bits: Array, particle: Array, strength: Array) -> tuple[Array, Array]:
        del strength
        flat = particle.reshape(-1)
        index, count = pick(bits[0], flat > 0)
        way = ring[integers(bits[1], (), 0, len(ring))]
        row, col = (index // width + way[0]) % height, (index % width + way[1]) % width
        other = row * width + col
        # The pixel moved is on, before and after, and so is one of as many: symmetric.
        swapped = flat.at[other].set(flat[index]).at[index].set(flat[other])
        proposal = jnp.where(count > 0, swapped, flat).reshape(particle.shape)
        return proposal, jnp.where(count > 0, jnp.float32(0), -jnp.inf)

    def shift(bits: Array, particle: Array, strength: Array) -> tuple[Array, Array]:
        del strength
        return torus.shift(bits[0], particle), jnp.float32(0)

    moves = {
        "redraw": redraw,
        "block": block,
        "flip": flip,
        "recolour": recolour,
        "swap": swap,
        "shift": shift,
    }
    return drawn(lambda key: _bits(key, prior), moves)


def sparse(
    image_shape: tuple[int, int, int],
    *,
    density: float = 0.1,
    channels: str = "grey",
    levels: int = 2,
) -> TriggerSpace:
    """The space of independent pixels.

    Args:
      image_shape: (H, W, C) of the images, in pixels.
      density: probability that a pixel is on, in (0, 1).
      channels: "grey", one level for all channels, or "rgb", each has a level of its own.
      levels: levels per channel, equally spaced in [0, 1]; at least 2.

    Raises:
      ValueError: if an option is outside its range.
    """
    height, width, image_channels = check_image_shape(image_shape)
    share_on = check_share("density", density, one_included=False)
    colours = make_colours(channels, levels, image_channels)
    prior = Prior(height, width, share_on, colours)
    moves = proposals(prior)
    return TriggerSpace(
        name="sparse",
        search=SearchSpace(
            sample=independent(lambda key: draw(key, prior)),
            kernel=metropolis(list(moves.values()), [WEIGHTS[name] for name in moves]),
        ),
        trigger=lambda particle, target: trigger(particle, target, prior),
        stamp=lambda particle, images: stamp(particle, images, prior),
        refresh=lambda key, particle, rate: refresh(key, particle, rate, prior),
        proposals=moves,
        description={
            "space": "sparse",
            "image_shape": [height, width, image_channels],
            "density": prior.density,
            "channels": colours.kind,
            "levels": colours.levels,
        },
    )


def _bits(key: Array, prior: Prior) -> Array:
    """uint32[3, k], what a particle or a move is made of."""
    return bit_rows(key, 3, max(prior.image_height * prior.image_width, 2))


def _draw(bits: Array, prior: Prior) -> Array:
    """One particle from the prior, of the first two rows."""
    shape = (prior.image_height, prior.image_width)
    on = chance(bits[0], shape, prior.density)
    return jnp.where(on, 1 + palette.draw(bits[1], shape, prior.colours), 0)


def _refresh(bits: Array, particle: Array, rate: Array, prior: Prior) -> Array:
    """Each pixel redrawn with probability ``rate``, which the third row decides."""
    return jnp.where(chance(bits[2], particle.shape, rate), _draw(bits, prior), particle)


def _values(particle: Array, prior: Prior) -> Array:
    """f32[H, W, C], the pixels' colours; where a pixel is off, any."""
    return palette.values(jnp.maximum(particle, 1) - 1, prior.colours)
