"""The reference protocol: its query count, and that it moves only losers and only upwards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models_by_hand import IMAGE_SHAPE, TARGET, backdoored

from restore_jax.oracles import ModelError, open_model
from restore_jax.recovery import recover, reference
from restore_jax.report import recovery_content
from restore_jax.spaces import make_space


@pytest.fixture(scope="module")
def oracle():
    return open_model(backdoored, image_shape=IMAGE_SHAPE, class_names=tuple("abcd"))


def test_the_query_counts_are_the_reference_s():
    assert reference.NUM_LEVELS * reference.queries_per_level(128) == 2_150_400
    assert reference.NUM_LEVELS * reference.queries_per_level(48) == 806_400


@pytest.mark.parametrize("space", ["sparse", "gaussian"])
def test_one_level_moves_the_lower_half_and_accepts_only_improvements(oracle, space):
    n = 16
    trigger_space = make_space(space, IMAGE_SHAPE, **reference.OPTIONS[space])
    level = jax.jit(reference.make_level(oracle, trigger_space))
    args = {
        "weights": oracle.weights,
        "probes": jax.random.uniform(jax.random.key(1), (8, *IMAGE_SHAPE)),
        "target": jnp.int32(TARGET),
    }
    before = trigger_space.search.sample(jax.random.key(0), n)

    def mean_target_logit(particle):
        return float(
            jnp.mean(oracle.query(trigger_space.stamp(particle, args["probes"]))[:, TARGET])
        )

    old = np.array([mean_target_logit(jax.tree.map(lambda a: a[i], before)) for i in range(n)])  # noqa: B023
    population, height, acceptance = level(jax.random.key(2), before, jnp.int32(0), args)
    after = population.particles
    new = np.array([mean_target_logit(jax.tree.map(lambda a: a[i], after)) for i in range(n)])  # noqa: B023
    np.testing.assert_allclose(population.scores, new, atol=1e-4)
    winners = np.argsort(old, kind="stable")[n // 2 :]
    for leaf, other in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(np.asarray(leaf)[winners], np.asarray(other)[winners])
    assert float(height) == pytest.approx(np.sort(old)[n // 2], abs=1e-4)
    assert np.all(new >= old - 1e-4)
    assert 0 < float(acceptance) < 1
    assert new.mean() > old.mean()


def test_a_run_spends_what_its_levels_cost(oracle):
    cost = reference.queries_per_level(48)
    beside = 20 * reference.NUM_PROBES + 3 * 100
    recovery = recover(
        oracle, TARGET, protocol="reference", space="gaussian", budget=2 * cost + beside
    )
    content = recovery_content(recovery)
    assert content["queries_by_stage"]["search"] == 2 * cost
    assert len(recovery.levels) == 2
    assert content["queries"] <= content["budget"]
    assert content["protocol"] == "reference"
    assert content["log10_prob"] is None


def test_what_it_cannot_do_is_one_sentence(oracle):
    def labels(images):
        return jnp.argmax(backdoored(images), -1)

    with pytest.raises(ValueError, match="sparse, gaussian"):
        recover(oracle, TARGET, protocol="reference", space="patch")
    with pytest.raises(ModelError, match="opened for logits, so it cannot be asked for labels"):
        recover(oracle, TARGET, protocol="reference", access="labels")
    of_labels = open_model(labels, "labels", image_shape=IMAGE_SHAPE, class_names=tuple("abcd"))
    with pytest.raises(ModelError, match="reads logits; labels do not do"):
        recover(of_labels, TARGET, protocol="reference")
    outside = open_model(
        lambda images: np.asarray(backdoored(images)), image_shape=IMAGE_SHAPE,
        class_names=tuple("abcd"),
    )  # fmt: skip
    with pytest.raises(ModelError, match="what runs inside JAX cannot ask it"):
        recover(outside, TARGET, protocol="reference")
