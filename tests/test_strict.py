"""JAX's strict settings change nothing that matters: the sampler and a recovery still work."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from models_by_hand import IMAGE_SHAPE, TARGET, backdoored

from restore_jax import importance_splitting, make_space, open_model, standard_normal, uniform_box
from restore_jax.racing import make_scorer
from restore_jax.spaces import SPACES

HERE = Path(__file__).parent
SMALL = {"num_particles": 40, "num_moves": 3, "max_levels": 6}


def widest(tree):
    """How many bytes a number takes at most."""
    return max(leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def traced_in_64_bits(score, space, args):
    """What a run gives, by its types alone: a loop whose types change is refused."""
    algorithm = importance_splitting(score, space, **SMALL)
    with jax.enable_x64(True):
        return jax.eval_shape(algorithm.run, jax.random.key(0), args)


@pytest.mark.parametrize(
    "space", [standard_normal(3), uniform_box(jnp.zeros(3), jnp.ones(3))], ids=["normal", "box"]
)
def test_the_sampler_keeps_its_types_where_64_bits_are_the_default(space):
    assert widest(traced_in_64_bits(lambda x, args: x.sum(-1), space, ())) == 4


@pytest.mark.parametrize("name", sorted(SPACES))
def test_a_search_keeps_its_types_where_64_bits_are_the_default(name):
    model = open_model(backdoored, image_shape=IMAGE_SHAPE, class_names=tuple("abcd"))
    space = make_space(name, IMAGE_SHAPE)
    args = {
        "weights": model.weights,
        "probes": jnp.zeros((4, *IMAGE_SHAPE)),
        "target": jnp.int32(TARGET),
        "fade": jnp.float32(0),
    }
    scorer = make_scorer(model, space, 0.95, 4)
    assert widest(traced_in_64_bits(scorer, space.search, args)) == 4


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["jax_enable_x64", "jax_check_tracer_leaks"])
def test_a_strict_setting_changes_nothing_that_matters(setting):
    done = subprocess.run(
        [sys.executable, str(HERE / "strict_by_hand.py"), setting],
        capture_output=True, text=True, timeout=900, cwd=HERE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "fine"
