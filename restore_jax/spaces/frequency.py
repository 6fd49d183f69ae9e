"""A few coefficients of the cosine transform, added to the image.

Prior: one to max_count coefficients, each number as likely as another; for each, independently,
the row's and the column's frequency (0 to H - 1 and 0 to W - 1), the sign, and where it goes (on
RGB images all channels alike, red, green, blue, or the blue or red difference of YCbCr; else all
channels alike or one of them) are uniform, and the logarithm of its amplitude is uniform over that
of min_amplitude .. max_amplitude. Coefficient (u, v) adds
``amplitude cos(π (2i + 1) u / 2H) cos(π (2j + 1) v / 2W)`` to row i and column j; the sum is
clipped. The triggers of Wang et al. (An Invisible Black-box Backdoor Attack through Frequency
Domain, FTrojan, ECCV 2022, arXiv 2107.01185) and of Li et al. (An Embarrassingly Simple Backdoor
Attack on Self-supervised Learning, CTRL, ICCV 2023, arXiv 2210.07346) are of this kind.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.backdoors.changes import over
from restore_jax.backdoors.trigger import Trigger
from restore_jax.errors import InputError
from restore_jax.spaces import fields, uniforms
from restore_jax.spaces.draws import independent
from restore_jax.spaces.types import TriggerSpace, check_image_shape, check_share, is_whole
from restore_jax.splitting.kernels import metropolis
from restore_jax.splitting.types import Proposal, SearchSpace

Array = jax.Array
EACH = 5
"""Numbers of a coefficient: its row's and column's frequency, sign, channels and amplitude."""
# Of RGB: the blue and the red difference, the largest change being 1.
_DIFFERENCES = ((0.0, -0.194, 1.0), (1.0, -0.509, 0.0))


@dataclasses.dataclass(frozen=True)
class Prior:
    """The prior's parameters.

    Attributes:
      image_shape: (H, W, C).
      max_count: most coefficients.
      min_amplitude, max_amplitude: of one coefficient's largest change, in (0, 1].
    """

    image_shape: tuple[int, int, int]
    max_count: int
    min_amplitude: float
    max_amplitude: float

    @property
    def numbers(self) -> int:
        """How many numbers a particle holds: the first says how many coefficients count."""
        return 1 + EACH * self.max_count


def draw(key: Array, prior: Prior) -> Array:
    """One particle, f32[1 + 5 max_count] in [0, 1)."""
    return uniforms.draw(key, prior.numbers)


def trigger(particle: Array, target: Array, prior: Prior) -> Trigger:
    """The trigger that a particle stands for: added, and the sum clipped."""
    return Trigger(
        mask=jnp.ones((*prior.image_shape[:2], 1), jnp.float32),
        pattern=jnp.clip(_waves(particle, prior), -1.0, 1.0),
        target=jnp.asarray(target, jnp.int32),
        additive=True,
    )


def stamp(particle: Array, images: Array, prior: Prior) -> Array:
    """Puts one particle on images f32[m, H, W, C] in [0, 1]."""
    added = jnp.clip(_waves(particle, prior), -1.0, 1.0)
    return jnp.clip(images + over(images, added), 0.0, 1.0)


def refresh(key: Array, particle: Array, rate: Array, prior: Prior) -> Array:
    """See `uniforms.refresh`."""
    del prior
    return uniforms.refresh(key, particle, rate)


def proposals(prior: Prior) -> dict[str, Proposal]:
    """The moves, by name: see `uniforms.proposals`."""
    return uniforms.proposals(prior.numbers)


def frequency(
    image_shape: tuple[int, int, int],
    *,
    max_count: int = 4,
    min_amplitude: float = 0.02,
    max_amplitude: float = 0.2,
) -> TriggerSpace:
    """The space of added cosine coefficients.

    Args:
      image_shape: (H, W, C) of the images, in pixels.
      max_count: most coefficients, 1 to 16.
      min_amplitude, max_amplitude: of one coefficient's largest change, in (0, 1], the first at
        most the second.

    Raises:
      InputError: if an option is outside its range.

    Example:
      >>> frequency((32, 32, 3), max_count=2).search.sample(jax.random.key(0), 5).shape
      (5, 11)
    """
    shape = check_image_shape(image_shape)
    if not is_whole(max_count) or not 1 <= max_count <= 16:
        raise InputError(f"max_count is {max_count!r}; it must be a whole number in 1 .. 16.")
    low = check_share("min_amplitude", min_amplitude, one_included=True)
    high = check_share("max_amplitude", max_amplitude, one_included=True)
    if low > high:
        raise InputError(f"min_amplitude is {low} and max_amplitude {high}; it must not be larger.")
    prior = Prior(shape, int(max_count), low, high)
    moves = proposals(prior)
    return TriggerSpace(
        name="frequency",
        search=SearchSpace(
            sample=independent(lambda key: draw(key, prior)),
            kernel=metropolis(list(moves.values()), [uniforms.WEIGHTS[name] for name in moves]),
        ),
        trigger=lambda particle, target: trigger(particle, target, prior),
        stamp=lambda particle, images: stamp(particle, images, prior),
        refresh=lambda key, particle, rate: refresh(key, particle, rate, prior),
        proposals=moves,
        description={
            "space": "frequency",
            "image_shape": list(shape),
            "max_count": prior.max_count,
            "min_amplitude": prior.min_amplitude,
            "max_amplitude": prior.max_amplitude,
        },
    )


def _waves(particle: Array, prior: Prior) -> Array:
    """f32[H, W, C], the sum of the coefficients that count."""
    height, width, channels = prior.image_shape
    number = uniforms.whole(particle[0], 1, prior.max_count)
    each = particle[1:].reshape(prior.max_count, EACH)
    ways = jnp.asarray(_ways(channels))
    strength = fields.amount(each[:, 4], prior.min_amplitude, prior.max_amplitude)
    strength = jnp.where(each[:, 2] < 0.5, -strength, strength)
    strength = jnp.where(jnp.arange(prior.max_count) < number, strength, 0.0)
    along_rows = _cosine(height, uniforms.whole(each[:, 0], 0, height - 1))
    along_cols = _cosine(width, uniforms.whole(each[:, 1], 0, width - 1))
    channel = ways[uniforms.whole(each[:, 3], 0, len(ways) - 1)]
    return jnp.einsum("k,ki,kj,kc->ijc", strength, along_rows, along_cols, channel)


def _cosine(size: int, frequencies: Array) -> Array:
    """f32[k, size]: the cosines of some frequencies int32[k] along a side."""
    along = (2 * jnp.arange(size) + 1)[None] * frequencies[:, None]
    return jnp.cos(math.pi / (2 * size) * along.astype(jnp.float32))


def _ways(channels: int) -> np.ndarray:
    """f32[k, C]: how a coefficient may be spread over the channels."""
    ways = [np.ones((1, channels))]
    if channels > 1:
        ways.append(np.eye(channels))
    if channels == 3:
        ways.append(np.asarray(_DIFFERENCES))
    return np.concatenate(ways).astype(np.float32)
