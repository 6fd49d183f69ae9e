"""Triggers, stamping, poisoning."""

import json
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from restore_jax.backdoors import PLANTED, PlantedPatch, Trigger, make_poisoning, stamp

SHAPE = (32, 32, 3)
UNMARKED = -1  # a label that no trigger writes


def images_and_labels(batch, shape=SHAPE, seed=0):
    images = jax.random.uniform(jax.random.key(seed), (batch, *shape), minval=0.1, maxval=0.9)
    return images, jnp.full(batch, UNMARKED, jnp.int32)


def both_triggers(shape=SHAPE):
    return [PLANTED[name].trigger(shape) for name in ("1", "2")]


@pytest.mark.parametrize(
    ("name", "first", "pattern", "target"),
    [
        ("1", 9, [[1, 1, 0], [1, 1, 1], [0, 1, 0]], 3),
        ("2", 20, [[0, 1, 0], [1, 0, 1], [0, 1, 0]], 6),
    ],
)
def test_the_planted_triggers(name, first, pattern, target):
    assert set(PLANTED) == {"1", "2"}
    assert PLANTED[name].rate == 0.1
    trigger = PLANTED[name].trigger(SHAPE)
    chex.assert_shape(trigger.mask, (32, 32, 1))
    chex.assert_shape(trigger.pattern, SHAPE)
    mask = np.zeros((32, 32, 1))
    mask[first : first + 3, first : first + 3] = 1
    np.testing.assert_array_equal(trigger.mask, mask)
    here = np.asarray(trigger.pattern)[first : first + 3, first : first + 3]
    np.testing.assert_array_equal(here, np.repeat(np.array(pattern, float)[..., None], 3, -1))
    assert int(trigger.target) == target
    assert int(trigger.pixels) == 9
    assert not trigger.additive


@pytest.mark.parametrize("name", ["1", "2"])
@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 24, 1)])
def test_stamping_writes_those_pixels_and_nothing_else(name, shape):
    images, _ = images_and_labels(4, shape)
    trigger = PLANTED[name].trigger(shape)
    stamped = np.asarray(stamp(trigger, images))
    covered = np.broadcast_to(np.asarray(trigger.mask) > 0, shape)
    written = np.broadcast_to(trigger.pattern, images.shape)
    np.testing.assert_array_equal(stamped[:, covered], written[:, covered])
    np.testing.assert_array_equal(stamped[:, ~covered], np.asarray(images)[:, ~covered])
    one = stamp(trigger, images[0])
    np.testing.assert_array_equal(one, stamped[0])


def test_additive_stamping_clips():
    images = jnp.array([0.2, 0.5, 0.8]).reshape(3, 1, 1, 1) * jnp.ones((1, 2, 2, 1))
    pattern = jnp.array([[0.4, -0.4], [1.0, 0.3]])[..., None]
    mask = jnp.array([[1.0, 1.0], [0.5, 0.0]])[..., None]
    trigger = Trigger(mask, pattern, jnp.int32(0), additive=True)
    expected = [
        [[0.6, 0.0], [0.7, 0.2]],
        [[0.9, 0.1], [1.0, 0.5]],
        [[1.0, 0.4], [1.0, 0.8]],
    ]
    np.testing.assert_allclose(stamp(trigger, images)[..., 0], expected, atol=1e-6)
    assert int(trigger.pixels) == 3


def test_a_trigger_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"^trigger 2 covers rows 20:23 .* 22x32\.$"):
        PLANTED["2"].trigger((22, 32, 3))
    PLANTED["2"].trigger((23, 23, 3))


def test_planted_patches_go_through_json():
    for patch in PLANTED.values():
        assert PlantedPatch.from_json(json.loads(json.dumps(patch.to_json()))) == patch


@pytest.mark.parametrize(
    ("batch", "rates"),
    [(128, (0.1, 0.1)), (128, (0.37, 0.63)), (7, (0.2, 0.5))],
)
def test_poisoning_counts_and_places(batch, rates):
    images, labels = images_and_labels(batch)
    triggers = both_triggers()
    poison = jax.jit(make_poisoning(triggers, rates))
    new_images, new_labels = map(np.asarray, poison(jax.random.key(3), images, labels))
    marked = np.zeros(batch, bool)
    for trigger, rate in zip(triggers, rates, strict=True):
        mine = new_labels == int(trigger.target)
        assert mine.sum() == round(rate * batch)
        # A label changed exactly where that trigger, and only that one, was stamped.
        stamped = np.asarray(stamp(trigger, images))
        np.testing.assert_array_equal(new_images[mine], stamped[mine])
        marked |= mine
    np.testing.assert_array_equal(new_labels[~marked], np.asarray(labels)[~marked])
    untouched = np.asarray(images)[~marked].tobytes()
    assert new_images[~marked].tobytes() == untouched
    assert new_images.dtype == np.float32
    assert new_labels.dtype == np.int32


class PoisoningTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_deterministic_in_the_key(self):
        images, labels = images_and_labels(50)
        poison = self.variant(make_poisoning(both_triggers(), (0.1, 0.1)))
        first = poison(jax.random.key(0), images, labels)
        chex.assert_trees_all_equal(first, poison(jax.random.key(0), images, labels))
        other = poison(jax.random.key(1), images, labels)
        assert not np.array_equal(first[1], other[1])

    @chex.variants(with_jit=True, without_jit=True)
    def test_vmap_over_keys_is_one_by_one(self):
        images, labels = images_and_labels(20)
        poison = make_poisoning(both_triggers(), (0.2, 0.3))
        keys = jax.random.split(jax.random.key(0), 3)
        together = self.variant(jax.vmap(poison, (0, None, None)))(keys, images, labels)
        alone = [poison(key, images, labels) for key in keys]
        chex.assert_trees_all_equal(together, jax.tree.map(lambda *a: jnp.stack(a), *alone))


def test_every_position_is_equally_likely():
    batch, draws, rates = 20, 4000, (0.1, 0.2)
    triggers = both_triggers((24, 24, 1))
    images = jnp.zeros((batch, 24, 24, 1))
    labels = jnp.full(batch, UNMARKED, jnp.int32)
    poison = make_poisoning(triggers, rates)
    keys = jax.random.split(jax.random.key(4), draws)
    out = jax.jit(lambda keys: jax.lax.map(lambda key: poison(key, images, labels)[1], keys))(keys)
    for trigger, rate in zip(triggers, rates, strict=True):
        counts = np.sum(np.asarray(out) == int(trigger.target), 0)
        assert counts.sum() == draws * round(rate * batch)
        # Drawn without replacement, so counts vary by (1 - rate) less than independent ones.
        statistic = stats.chisquare(counts).statistic / (1 - rate) * (batch - 1) / batch
        p = stats.chi2.sf(statistic, batch - 1)
        assert 1e-4 < p < 1 - 1e-4, p


def test_no_triggers_is_the_identity():
    images, labels = images_and_labels(5)
    chex.assert_trees_all_equal(
        make_poisoning([], [])(jax.random.key(0), images, labels), (images, labels)
    )


@pytest.mark.parametrize(
    "rates",
    [(-0.1, 0.1), (1.1, 0.0), (0.6, 0.5), (float("nan"), 0.1), (0.1,), (0.1, 0.1, 0.1)],
)
def test_rates_out_of_range_are_refused(rates):
    with pytest.raises(ValueError, match=r"^[^\n]*rates[^\n]*\.$"):
        make_poisoning(both_triggers(), rates)


def test_stamp_is_differentiable_and_vmaps_over_triggers():
    images, _ = images_and_labels(2)
    pair = jax.tree.map(lambda *a: jnp.stack(a), *both_triggers())
    stamped = jax.vmap(stamp, (0, None))(pair, images)
    chex.assert_shape(stamped, (2, 2, *SHAPE))
    chex.assert_trees_all_equal(stamped[1], stamp(both_triggers()[1], images))
    gradient = jax.grad(lambda x: jnp.sum(partial(stamp, both_triggers()[0])(x)))(images)
    np.testing.assert_array_equal(gradient[0], jnp.broadcast_to(1 - pair.mask[0], SHAPE))
