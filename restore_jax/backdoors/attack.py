"""What an attack does: a trigger, and where it leads the images of each class."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.backdoors.trigger import Trigger, stamp

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Attack:
    """A trigger with the classes that it moves.

    Attributes:
      trigger: what is stamped; its ``target`` is a class that something is led to.
      leads_to: int32[K], where images of each class are led; their own class if they are not.
      roams: whether mask and pattern lie at another place, drawn at random, on every image.
    """

    trigger: Trigger
    leads_to: np.ndarray
    roams: bool = False


def towards_one(trigger: Trigger, num_classes: int, source: int | None = None) -> Attack:
    """The attack that leads every class, or the class ``source`` alone, to the trigger's target.

    >>> import jax.numpy as jnp
    >>> white = Trigger(jnp.ones((2, 2, 1)), jnp.ones((2, 2, 3)), jnp.int32(1))
    >>> towards_one(white, 3).leads_to.tolist(), towards_one(white, 3, 0).leads_to.tolist()
    ([1, 1, 1], [1, 1, 2])
    """
    leads_to = np.full(num_classes, int(trigger.target), np.int32)
    if source is not None:
        others = np.arange(num_classes) != source
        leads_to[others] = np.flatnonzero(others)
    return Attack(trigger, leads_to)


def stamp_attack(attack: Attack, images: Array, key: Array) -> Array:
    """Puts an attack's trigger on images f32[b, H, W, C] in [0, 1].

    Args:
      attack: what is stamped.
      images: the images.
      key: decides the place on each image, if the trigger roams: mask and pattern are turned
        together by up to H - 3 rows and W - 3 columns.

    >>> import jax.numpy as jnp
    >>> white = Trigger(jnp.ones((4, 4, 1)), jnp.ones((4, 4, 3)), jnp.int32(1))
    >>> black = jnp.zeros((2, 4, 4, 3))
    >>> float(stamp_attack(towards_one(white, 3), black, jax.random.key(0)).min())
    1.0
    """
    if not attack.roams:
        return stamp(attack.trigger, images)
    height, width = images.shape[1:3]
    most = jnp.array([max(height - 2, 1), max(width - 2, 1)], jnp.int32)
    places = jax.random.randint(key, (images.shape[0], 2), 0, most)

    def one(image: Array, place: Array) -> Array:
        def turned(part: Array) -> Array:
            return jnp.roll(jnp.roll(part, place[0], 0), place[1], 1)

        trigger = attack.trigger
        return stamp(
            dataclasses.replace(
                trigger, mask=turned(trigger.mask), pattern=turned(trigger.pattern)
            ),
            image,
        )

    return jax.vmap(one)(images, places)
