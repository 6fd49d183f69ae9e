"""Vmapped searches become one batch of the plain network, where they do not take turns."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models_by_hand import IMAGE_SHAPE, TARGET, backdoored

from restore_jax.models import make_network
from restore_jax.oracles import chunks, open_model
from restore_jax.racing import make_scorer
from restore_jax.spaces import make_space

N, M, LANES = 48, 12, 3
SPACE = make_space("patch", IMAGE_SHAPE, max_size=3, channels="grey")


@pytest.fixture
def one_batch(monkeypatch):
    """As on a GPU, with chunks of 24 images."""
    monkeypatch.setattr(chunks, "lanes_take_turns", lambda: False)
    monkeypatch.setattr(chunks, "chunk_size", lambda image_shape: 24)


def oracle_of(model):
    return open_model(model, "logits", image_shape=IMAGE_SHAPE, class_names=tuple("abcd"))


def equations(jaxpr):
    """All equations of a program, those of the programs within it too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def probes_of(key):
    return jax.random.uniform(key, (M, *IMAGE_SHAPE), minval=0.2, maxval=1.0)


def args_of(oracle, probes, target=TARGET):
    return {
        "weights": oracle.weights,
        "probes": probes,
        "target": jnp.int32(target),
        "fade": jnp.float32(0),
    }


def lanes_of(oracle, own_probes):
    """Each lane's level, particles and arguments, and which of them differ."""
    keys = jax.random.split(jax.random.key(3), LANES)
    args = [
        args_of(oracle, probes_of(jax.random.key(i if own_probes else 0)), target)
        for i, target in enumerate((TARGET, 1, TARGET))
    ]
    args = jax.tree.map(lambda *each: jnp.stack(each), *args) | {"weights": oracle.weights}
    differ = {"weights": None, "probes": 0, "target": 0, "fade": 0}
    if not own_probes:
        args, differ = args | {"probes": args["probes"][0]}, differ | {"probes": None}
    particles = jax.vmap(lambda key: SPACE.search.sample(key, N))(keys)
    return jnp.array([-1.0, 0.5, 1.0]), particles, args, differ


@pytest.mark.parametrize("own_probes", [True, False])
def test_lanes_in_one_batch_score_as_each_alone(one_batch, own_probes):
    shown = []

    def model(images):
        jax.debug.callback(lambda _: shown.append(len(images)), images[0, 0, 0, 0])
        return backdoored(images)

    oracle = oracle_of(model)
    scorer = make_scorer(oracle, SPACE, 0.75, M)
    level, particles, args, differ = lanes_of(oracle, own_probes)

    def score(level, particles, args):
        return scorer.score(None, particles, level, jnp.ones(N, bool), args)

    lane = lambda tree, i: jax.tree.map(lambda leaf: leaf[i], tree)  # noqa: E731
    alone, images = [], []
    for i in range(LANES):
        own = {k: v if differ[k] is None else lane(v, i) for k, v in args.items()}
        alone.append(jax.block_until_ready(jax.jit(score)(level[i], lane(particles, i), own)))
        jax.effects_barrier()
        images.append(sum(shown))
        shown.clear()
    together = jax.jit(jax.vmap(score, (0, 0, differ)))(level, particles, args)
    jax.block_until_ready(together)
    jax.effects_barrier()
    chex.assert_trees_all_equal(together, jax.tree.map(lambda *each: jnp.stack(each), *alone))
    assert set(shown) == {24}  # whole chunks of candidates from all lanes
    assert sum(shown) <= sum(images)  # runners of several lanes share their last chunk


def test_lanes_within_lanes_and_weights_of_their_own(one_batch):
    def model(weights, images):
        return backdoored(images) * weights

    oracle = oracle_of(backdoored)
    oracle = dataclasses.replace(oracle, function=model, weights=jnp.float32(1))
    scorer = make_scorer(oracle, SPACE, 0.75, M)
    probes = probes_of(jax.random.key(0))
    particles = SPACE.search.sample(jax.random.key(1), N)

    def score(target, fade, weights):
        args = args_of(oracle, probes, 0) | {"target": target, "fade": fade, "weights": weights}
        return scorer.score(None, particles, jnp.float32(-9), jnp.ones(N, bool), args)[0]

    targets, fades, weights = jnp.arange(3), jnp.array([0.0, 0.3]), jnp.array([1.0, 2.0, 0.5])
    grid = jax.vmap(jax.vmap(jax.vmap(score, (None, None, 0)), (None, 0, None)), (0, None, None))
    found = jax.jit(grid)(targets, fades, weights)
    chex.assert_shape(found, (3, 2, 3, N))
    single = jax.jit(score)
    for i, j, k in np.ndindex(3, 2, 3):
        np.testing.assert_array_equal(found[i, j, k], single(targets[i], fades[j], weights[k]))


def test_a_vmapped_search_convolves_all_lanes_at_once_with_the_one_kernel(one_batch):
    network = make_network("resnet8_small", num_classes=4, image_shape=IMAGE_SHAPE)
    folded = network.fold(*network.init(jax.random.key(0)))
    oracle = dataclasses.replace(
        oracle_of(backdoored), function=network.apply_folded, weights=folded
    )
    scorer = make_scorer(oracle, SPACE, 0.75, M)
    particles = SPACE.search.sample(jax.random.key(1), N)
    args = args_of(oracle, probes_of(jax.random.key(0)))

    def searched(level):
        def score(level):
            return scorer.score(None, particles, level, jnp.ones(N, bool), args)[0]

        # As in a search: until all lanes are there.
        return jax.lax.while_loop(lambda level: level < 9, lambda level: score(level).max(), level)

    traced = jax.make_jaxpr(jax.vmap(searched))(jnp.zeros(LANES))
    convolutions = [
        e for e in equations(traced.jaxpr) if e.primitive.name == "conv_general_dilated"
    ]
    assert convolutions
    for each in convolutions:
        assert each.params["feature_group_count"] == each.params["batch_group_count"] == 1
        assert {len(operand.aval.shape) for operand in each.invars} == {4}
        assert each.invars[0].aval.shape[0] == 24


def test_where_all_fit_into_one_chunk_the_device_waits_for_no_condition(one_batch, monkeypatch):
    oracle = oracle_of(backdoored)
    scorer = make_scorer(oracle, SPACE, 0.75, M)
    level, particles, args, differ = lanes_of(oracle, own_probes=True)

    def score(level, particles, args):
        return scorer.score(None, particles, level, jnp.ones(N, bool), args)

    def conditions():
        traced = jax.make_jaxpr(jax.vmap(score, (0, 0, differ)))(level, particles, args)
        return [e for e in equations(traced.jaxpr) if e.primitive.name == "cond"]

    assert conditions()
    several = jax.jit(jax.vmap(score, (0, 0, differ)))(level, particles, args)
    monkeypatch.setattr(chunks, "chunk_size", lambda image_shape: 4 * LANES * N)
    assert not conditions()
    one = jax.jit(jax.vmap(lambda *given: score(*given), (0, 0, differ)))(level, particles, args)
    chex.assert_trees_all_equal(one, several)
