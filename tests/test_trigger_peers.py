"""The benchmark's trigger searches make the event, count what they send, and repeat themselves."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models_by_hand import IMAGE_SHAPE, TARGET, backdoored, clean

from restore_jax.backdoors import stamp
from restore_jax.oracles import open_model
from restore_jax.racing import needed
from restore_jax.spaces import make_space

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from peers import evolution_strategies, random_search, simulated_annealing

# Of use to benchmarks alone.
pytestmark = [pytest.mark.slow, pytest.mark.full]
SEARCHES = [
    pytest.param(simulated_annealing, id="annealing"),
    pytest.param(evolution_strategies, id="evolution"),
    pytest.param(random_search, id="random"),
]
BUDGET = 20_000
PROBES = jax.random.uniform(jax.random.key(5), (8, *IMAGE_SHAPE), minval=0.5)


def run(module, function=backdoored, budget=BUDGET, seed=0, access="logits"):
    oracle = open_model(function, access, image_shape=IMAGE_SHAPE, class_names=tuple("abcd"))
    space = make_space("patch", IMAGE_SHAPE, max_size=3, channels="grey")
    return module.search(jax.random.key(seed), oracle, space, TARGET, PROBES, budget)


class Watch:
    """A model that counts the images it is shown; those all black are padding."""

    def __init__(self, function):
        self.function, self.images = function, 0

    def __call__(self, images):
        shown = jnp.sum(jnp.any(images > 0, (1, 2, 3)), dtype=jnp.int32)
        jax.debug.callback(self.add, shown)
        return self.function(images)

    def add(self, shown):
        self.images += int(shown)


@pytest.mark.parametrize("module", SEARCHES)
def test_the_event_is_reached_counted_and_repeatable(module):
    watch = Watch(backdoored)
    outcome = run(module, watch)
    jax.effects_barrier()
    assert outcome.reached
    assert outcome.queries == watch.images
    assert 0 < outcome.queries <= BUDGET
    led = int(jnp.sum(jnp.argmax(backdoored(stamp(outcome.trigger, PROBES)), -1) == TARGET))
    assert led >= needed(0.95, len(PROBES))
    assert outcome.best == led / len(PROBES)

    once, again, other = (run(module, seed=seed) for seed in (0, 0, 1))
    assert (again.reached, again.queries, again.best) == (True, once.queries, once.best)
    jax.tree.map(np.testing.assert_array_equal, again.trigger, once.trigger)
    assert not np.array_equal(other.trigger.pattern, once.trigger.pattern)


@pytest.mark.parametrize("module", SEARCHES)
def test_a_class_without_a_trigger_takes_the_budget_and_no_more(module, monkeypatch):
    monkeypatch.setattr(simulated_annealing, "ITERATIONS", 100)  # several chains
    budget, watch = 2_777, Watch(clean)
    outcome = run(module, watch, budget)
    jax.effects_barrier()
    assert not outcome.reached
    assert outcome.queries == watch.images <= budget
    # What is left would not have paid for the next candidate, or the next look.
    look = evolution_strategies.STEPS_PER_LOOK * 2 * evolution_strategies.SAMPLES
    next_one = look + len(PROBES) if module is evolution_strategies else len(PROBES)
    assert outcome.queries > budget - next_one
    assert outcome.best == 0


@pytest.mark.parametrize("module", SEARCHES)
def test_a_budget_too_small_for_anything_sends_nothing(module):
    outcome = run(module, budget=len(PROBES) - 1)
    assert (outcome.reached, outcome.queries, outcome.best) == (False, 0, 0)
    assert outcome.trigger.pixels == 0


@pytest.mark.parametrize("module", SEARCHES)
def test_less_than_logits_is_refused(module):
    with pytest.raises(ValueError, match="logits"):
        run(module, lambda images: jnp.argmax(backdoored(images), -1), access="labels")


def test_annealing_climbs_where_no_first_draw_is_a_trigger():
    """The objective guides it: it needs fewer candidates than drawing them at random does."""

    def rare(images):
        """Class 2 where the upper left 3x3 corner is all but black, and nearly where it is dark."""
        corner = jnp.mean(images[:, :3, :3], (1, 2, 3))
        return jnp.stack([*jnp.zeros((2, len(images))), 1 - 20 * corner, -corner], -1)

    guided, blind = (run(module, rare) for module in (simulated_annealing, random_search))
    assert guided.reached
    candidates = guided.queries / len(PROBES)
    # Racing shows a hopeless candidate four probes.
    assert not blind.reached or candidates < blind.queries / 4
