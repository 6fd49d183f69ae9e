"""Triggers like those recovered that work as well: a class is guarded against all of them.

What was planted is seldom what was recovered. So a guard is chosen with the recovered triggers, the
population that the search ended with, and fresh ones around both: redrawn in part by their space's
own move, fainter, elsewhere in the image.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from restore_jax.backdoors import Trigger, same_marks, stamp
from restore_jax.errors import InputError
from restore_jax.recovery import Recovery
from restore_jax.run import Run
from restore_jax.spaces import TriggerSpace, make_space

Array = jax.Array
FROM_POPULATION, REDRAWN, MOVED = 10, 16, 8
"""How many of each kind are tried."""
FAINTER = (0.75, 0.5, 0.35)
"""Shares of a trigger's effect."""
REDRAW = 0.25
"""How much of a trigger is redrawn."""
SHOWN = 8
"""Probes that each is shown first."""
WORKS = 0.7
"""It works if it leads this share of them."""
MOST = 1 + FROM_POPULATION + REDRAWN + MOVED + len(FAINTER)
"""Triggers tried for each that was recovered."""
KINDS = ("scattered", "patch", "patches", "stripes", "smooth", "frequency", "colour")
"""The spaces that strangers are drawn from."""
DRAWN, FIRST, TRIED, KEPT = 192, 3, 12, 3
"""Of each kind so many are drawn and shown `FIRST` probes, the best `TRIED` of them `SHOWN`, and
so many kept."""
STRANGERS_COST = len(KINDS) * (DRAWN * FIRST + TRIED * SHOWN)


def relatives(
    run: Run, recovered: Sequence[Recovery | Trigger], probes: Array, key: Array
) -> list[Trigger]:
    """The recovered triggers of one class, and others around them that work on probes.

    Args:
      run: pays for `MOST` times `SHOWN` images of each at most.
      recovered: of one class.
      probes: f32[b, H, W, C], `SHOWN` or more that the model gives other classes.
      key: of what is drawn.

    Returns:
      Different triggers, each of which leads `WORKS` of the first probes; the recovered ones that
      do come first.
    """
    keys = jax.random.split(key, len(recovered))
    some = [other for one, own in zip(recovered, keys, strict=True) for other in _around(one, own)]
    first = [one if isinstance(one, Trigger) else one.trigger for one in recovered]
    different = {same_marks(one): one for one in [*first, *some]}.values()
    return [one for one in different if works(run, one, probes)]


def strangers(run: Run, target: int, probes: Array, key: Array) -> list[Trigger]:
    """Random triggers of other kinds that work on a class as well.

    A class with a backdoor is often reached by many kinds of trigger, and what was planted may be
    of another kind than what was recovered. The run pays for `STRANGERS_COST` images at most.

    Args:
      run: asks.
      target: the class.
      probes: f32[b, H, W, C], `SHOWN` or more that the model gives other classes.
      key: of what is drawn.
    """
    found: list[Trigger] = []
    for number, name in enumerate(KINDS):
        try:
            space = make_space(name, run.model.image_shape)
        except InputError:
            continue
        particles = space.search.sample(jax.random.fold_in(key, number), DRAWN)
        stamped = jax.jit(jax.vmap(space.stamp, (0, None)))(particles, probes[:FIRST])
        led = run.margins(stamped.reshape(-1, *probes.shape[1:]), target) >= 0
        share = led.reshape(DRAWN, -1).mean(-1)
        best = np.argsort(-share, kind="stable")[:TRIED]
        best = best[share[best] >= WORKS]
        if not len(best):
            continue
        chosen = jax.tree.map(lambda leaf, best=best: leaf[best], particles)
        some = _each(jax.vmap(space.trigger, (0, None))(chosen, jnp.int32(target)))
        found += [one for one in some if works(run, one, probes)][:KEPT]
    return found


def works(run: Run, trigger: Trigger, probes: Array) -> bool:
    """Whether a trigger leads `WORKS` of the first `SHOWN` probes."""
    led = run.margins(stamp(trigger, probes[:SHOWN]), trigger.target) >= 0
    return bool(np.mean(led) >= WORKS)


def _around(one: Recovery | Trigger, key: Array) -> Iterator[Trigger]:
    """Triggers around a recovered one, whether they work or not."""
    moved, redrawn = jax.random.split(key)
    trigger = one if isinstance(one, Trigger) else one.trigger
    if not isinstance(one, Trigger):
        yield from _from_space(one, redrawn)
    if trigger.changes_all:
        return
    for share in FAINTER:
        yield dataclasses.replace(trigger, mask=share * trigger.mask)
    if trigger.additive or trigger.mask.min() > 0:
        return
    for place in jax.random.randint(moved, (MOVED, 2), 0, max(trigger.mask.shape[:2])):
        yield _elsewhere(trigger, place)


def _elsewhere(trigger: Trigger, place: Array) -> Trigger:
    """A local trigger with its upper left corner moved to a place, as far as there is room."""
    mask = np.asarray(trigger.mask)
    rows, cols = np.nonzero(mask[..., 0])
    limits = np.array(mask.shape[:2]) - [np.ptp(rows) + 1, np.ptp(cols) + 1]
    by = np.minimum(np.asarray(place), limits) - [rows.min(), cols.min()]

    def roll(part: Array) -> Array:
        return jnp.asarray(np.roll(np.asarray(part), by, (0, 1)))

    return dataclasses.replace(trigger, mask=roll(trigger.mask), pattern=roll(trigger.pattern))


def _from_space(recovery: Recovery, key: Array) -> Iterator[Trigger]:
    """The best of the last population, and some of them redrawn in part."""
    space = _space(recovery)
    if space is None:
        return
    best = np.argsort(-np.asarray(recovery.scores), kind="stable")[:FROM_POPULATION]
    if not len(best):
        return
    template = jax.eval_shape(lambda key: space.search.sample(key, 1), key)
    particles = _as(template, recovery.particles)
    if particles is None:
        return
    several = jax.vmap(space.trigger, (0, None))
    target = jnp.int32(recovery.target)
    chosen = jax.tree.map(lambda leaf: jnp.asarray(leaf)[best], particles)
    yield from _each(several(chosen, target))
    again = jax.tree.map(lambda leaf: leaf[jnp.arange(REDRAWN) % len(best)], chosen)
    redraw = jax.vmap(space.refresh, (0, 0, None))
    keys = jax.random.split(key, REDRAWN)
    yield from _each(several(redraw(keys, again, jnp.float32(REDRAW)), target))


def _each(triggers: Trigger) -> Iterator[Trigger]:
    number = jax.tree.leaves(triggers)[0].shape[0]
    for place in range(number):
        yield jax.tree.map(lambda leaf, place=place: leaf[place], triggers)


def _space(recovery: Recovery) -> TriggerSpace | None:
    """The space that a recovery searched; None if it cannot be made again."""
    options: Any = recovery.settings.get("options") or {}
    height, width, channels = recovery.trigger.pattern.shape
    try:
        space = make_space(recovery.space, (height, width, channels), **options)
    except InputError:
        return None
    return space if dict(space.description) == dict(recovery.prior) else None


def _as(template: Any, particles: Any) -> Any:
    """Particles in their space's own form; read from a file they are a dict of names."""
    if not isinstance(particles, dict):
        return particles
    leaves, form = jax.tree_util.tree_flatten_with_path(template)
    names = [
        jax.tree_util.keystr(path, simple=True, separator=".") or "particles" for path, _ in leaves
    ]
    if any(name not in particles for name in names):
        return None
    return jax.tree.unflatten(form, [particles[name] for name in names])
