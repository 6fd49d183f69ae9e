"""The score says exactly what the event is, and racing changes nothing but the price."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models_by_hand import IMAGE_SHAPE, NUM_CLASSES, TARGET, backdoored

from restore_jax.compilation import chunk_size
from restore_jax.oracles import labels, margins, open_model
from restore_jax.racing import make_scorer, needed, threshold, whole_legs
from restore_jax.spaces import make_space

N, M, SUCCESS = 128, 12, 0.75
NAMES = tuple("abcd")


def as_access(access):
    def model(images):
        logits = backdoored(images)
        if access == "logits":
            return logits
        return jax.nn.softmax(logits) if access == "probabilities" else jnp.argmax(logits, -1)

    return open_model(model, access, image_shape=IMAGE_SHAPE, class_names=NAMES)


@pytest.fixture(scope="module")
def setup():
    space = make_space("patch", IMAGE_SHAPE, max_size=3, channels="grey")
    # Dark probes among bright ones: a trigger leads some of them, not all or none.
    key = jax.random.key(1)
    probes = jax.random.uniform(key, (M, *IMAGE_SHAPE), minval=0.2, maxval=1.0)
    particles = space.search.sample(jax.random.key(0), N)
    return space, particles, probes


def args_of(oracle, probes):
    return {
        "weights": oracle.weights,
        "probes": probes,
        "target": jnp.int32(TARGET),
        "fade": jnp.float32(0),
    }


def stamped_labels(oracle, space, particles, probes):
    images = jax.jit(jax.vmap(space.stamp, (0, None)))(particles, probes)
    outputs = oracle.query(images.reshape(-1, *IMAGE_SHAPE))
    return np.asarray(labels(oracle.access, outputs)).reshape(N, len(probes))


def scoring(*args, **options):
    """The score as one program: called without `jax.jit` each of its steps would be one."""
    return jax.jit(make_scorer(*args, **options).score)


@pytest.mark.parametrize("access", ["logits", "probabilities", "labels"])
@pytest.mark.parametrize("success", [0.5, 0.75, 1.0])
def test_the_score_reaches_the_threshold_exactly_where_the_event_happens(setup, access, success):
    space, particles, probes = setup
    oracle = as_access(access)
    scores, cost = scoring(oracle, space, success, M)(
        None, particles, jnp.float32(-jnp.inf), jnp.ones(N, bool), args_of(oracle, probes)
    )
    hits = (stamped_labels(oracle, space, particles, probes) == TARGET).sum(-1)
    event = hits >= needed(success, M)
    assert 0 < event.sum() < N
    np.testing.assert_array_equal(np.asarray(scores) >= threshold(oracle, success, M), event)
    assert int(cost) == N * M
    if access == "labels":
        np.testing.assert_array_equal(scores, hits)


@pytest.mark.parametrize("access", ["logits", "labels"])
def test_racing_decides_as_all_probes_would_and_asks_less(setup, access):
    space, particles, probes = setup
    oracle = as_access(access)
    args = args_of(oracle, probes)
    active = jnp.arange(N) % 3 != 0
    full = scoring(oracle, space, SUCCESS, M, race=False)
    raced = scoring(oracle, space, SUCCESS, M)
    everything, _ = full(None, particles, jnp.float32(-jnp.inf), jnp.ones(N, bool), args)
    for level in np.unique(np.asarray(everything))[-6:]:
        scores, cost = raced(None, particles, jnp.float32(level), active, args)
        above = np.asarray(active & (everything > level))
        np.testing.assert_array_equal(np.asarray(active & (scores > level)), above)
        np.testing.assert_array_equal(np.asarray(scores)[above], np.asarray(everything)[above])
        assert above.sum() * M <= int(cost) <= int(active.sum()) * M
    assert int(cost) < int(active.sum()) * M  # at the highest level hardly anybody races on


def test_nobody_active_costs_nothing(setup):
    space, particles, probes = setup
    oracle = as_access("logits")
    score = scoring(oracle, space, SUCCESS, M)
    args = args_of(oracle, probes)
    _, cost = score(None, particles, jnp.float32(0), jnp.zeros(N, bool), args)
    assert int(cost) == 0


def test_fading_takes_the_trigger_back(setup):
    space, particles, probes = setup
    oracle = as_access("logits")
    score = scoring(oracle, space, SUCCESS, M)
    args = args_of(oracle, probes)

    def scores(fade):
        everybody, lowest = jnp.ones(N, bool), jnp.float32(-jnp.inf)
        return score(None, particles, lowest, everybody, args | {"fade": fade})[0]

    plain, gone = scores(jnp.float32(0)), scores(jnp.float32(1))
    untouched = margins("logits", backdoored(probes), jnp.int32(TARGET))
    expected = jnp.sort(untouched)[M - needed(SUCCESS, M)]
    np.testing.assert_allclose(gone, jnp.full(N, expected), atol=1e-5)
    half = scores(jnp.float32(0.5))
    clear = np.asarray(plain > gone + 1.0)  # a dark block, and not one of the probe's own
    assert clear.sum() > 5
    assert np.all((half < plain)[clear])


@pytest.mark.parametrize("level", [-np.inf, 5.0, 13.0, 14.0, 19.0])
def test_guides_show_how_close_a_trigger_comes_and_leave_the_event_alone(setup, level):
    space, particles, probes = setup
    oracle, g = as_access("labels"), 8
    guides = 0.35 * probes[:g]  # darker, so that little leads them
    both = jnp.concatenate([guides, probes])
    args = args_of(oracle, both)
    plain = scoring(oracle, space, SUCCESS, M)
    everybody, lowest = jnp.ones(N, bool), jnp.float32(-jnp.inf)
    hits, _ = plain(None, particles, lowest, everybody, args_of(oracle, probes))
    led = (stamped_labels(oracle, space, particles, guides) == TARGET).sum(-1)
    event = np.asarray(hits) >= needed(SUCCESS, M)
    expected = np.where(event, g + M, np.minimum(led + np.asarray(hits), g + M - 1))
    goal = threshold(oracle, SUCCESS, M, g)
    score = scoring(oracle, space, SUCCESS, M, num_guides=g)
    scores, cost = score(None, particles, jnp.float32(level), everybody, args)
    above = expected > level
    np.testing.assert_array_equal(np.asarray(scores)[above], expected[above])
    assert np.all(np.asarray(scores)[~above] <= level)
    assert int(cost) <= N * (g + M)
    np.testing.assert_array_equal(np.asarray(scores) >= goal, event & above)
    assert 0 < event.sum() < N
    assert np.any(led[np.asarray(hits) == 0] > 0), "guides should show what probes do not"


def test_the_score_is_the_same_under_jit(setup):
    space, particles, probes = setup
    oracle = as_access("logits")
    scorer = make_scorer(oracle, space, SUCCESS, M)

    def call(particles, args):
        return scorer.score(None, particles, jnp.float32(-1), jnp.ones(N, bool), args)

    eager = call(particles, args_of(oracle, probes))
    jitted = jax.jit(call)(particles, args_of(oracle, probes))
    chex.assert_trees_all_close(eager, jitted, atol=1e-5)
    chex.assert_shape(eager[0], (N,))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere they go side by side")
def test_searches_that_are_vmapped_are_shown_what_each_would_be_alone(setup):
    space, _, probes = setup
    n, levels, shown = 1024, jnp.array([-1.0, 0.5, 2.0, 1e9]), []

    def model(images):
        jax.debug.callback(lambda _: shown.append(len(images)), images[0, 0, 0, 0])
        return backdoored(images)

    oracle = open_model(model, "logits", image_shape=IMAGE_SHAPE, class_names=NAMES)
    scorer, args = make_scorer(oracle, space, SUCCESS, M), args_of(oracle, probes)
    particles = space.search.sample(jax.random.key(5), n)

    def score(level):
        return scorer.score(None, particles, level, jnp.ones(n, bool), args)

    alone, images = [], []
    for level in levels:
        alone.append(jax.block_until_ready(jax.jit(score)(level)))
        jax.effects_barrier()
        images.append(sum(shown))
        shown.clear()
    together = jax.block_until_ready(jax.jit(jax.vmap(score))(levels))
    jax.effects_barrier()
    chex.assert_trees_all_equal(together, jax.tree.map(lambda *each: jnp.stack(each), *alone))
    assert images[0] > images[-1] > 0  # so that there is something to skip
    assert sum(shown) == sum(images)


def test_stamped_images_are_never_all_there_at_once(setup):
    space, _, probes = setup
    oracle, n = as_access("logits"), 32 * max(128, chunk_size(IMAGE_SHAPE) // M)
    scorer, args = make_scorer(oracle, space, SUCCESS, M, race=False), args_of(oracle, probes)
    particles = space.search.sample(jax.random.key(5), n)

    def score(particles, args):
        return scorer.score(None, particles, jnp.float32(0), jnp.ones(n, bool), args)

    found = jax.jit(score).lower(particles, args).compile().memory_analysis()
    assert found.temp_size_in_bytes < n * M * probes[0].nbytes / 8


@pytest.mark.parametrize(
    ("success", "m", "c"),
    [(0.95, 20, 19), (1.0, 20, 20), (0.951, 20, 20), (0.01, 20, 1), (0.7, 10, 7)],
)
def test_needed_rounds_up_but_not_because_of_rounding_errors(success, m, c):
    assert needed(success, m) == c


@pytest.mark.parametrize("access", ["logits", "probabilities", "labels"])
def test_margins_are_at_least_zero_exactly_where_the_target_is_predicted(access):
    logits = jnp.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [2.0, 0.0, 0.0], [0.0, 0.0, 200.0]])
    outputs = {
        "logits": logits,
        "probabilities": jax.nn.softmax(logits),
        "labels": jnp.argmax(logits, -1).astype(jnp.int32),
    }[access]
    for target in range(3):
        margin = margins(access, outputs, jnp.int32(target))
        predicted = np.asarray(jnp.argmax(logits, -1)) == target
        np.testing.assert_array_equal(np.asarray(margin) >= 0, predicted)
        assert np.all(np.isfinite(margin))


def test_class_count():
    assert as_access("logits").num_classes == NUM_CLASSES


@pytest.mark.parametrize(
    ("guides", "m", "kept"),
    [(16, 20, 16), (16, 9, 12), (16, 7, 14), (5, 8, 4), (16, 17, 0), (0, 20, 0)],
)
def test_guides_fill_whole_legs_of_the_race(setup, guides, m, kept):
    space, _, _ = setup
    assert whole_legs(guides, m) == kept
    make_scorer(as_access("labels"), space, SUCCESS, m, num_guides=kept)  # takes them
