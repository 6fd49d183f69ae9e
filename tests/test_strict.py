"""JAX's strict settings change nothing that matters: the sampler and a recovery still work."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models_by_hand import IMAGE_SHAPE, TARGET, backdoored

from restore_jax import importance_splitting, make_space, open_model, standard_normal, uniform_box
from restore_jax.data.probes import open_probes
from restore_jax.racing import make_scorer
from restore_jax.spaces import SPACES

HERE = Path(__file__).parent
SMALL = {"num_particles": 40, "num_moves": 3, "max_levels": 6}


def widest(tree):
    """How many bytes a number takes at most."""
    return max(leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def traced_strictly(score, space, args):
    """What a run gives, by its types alone, where 64 bits are the default and axes must be added
    by name: a loop whose types change is refused, and so are arrays of different ranks."""
    algorithm = importance_splitting(score, space, **SMALL)
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        return jax.eval_shape(algorithm.run, jax.random.key(0), args)


@pytest.mark.parametrize(
    "space", [standard_normal(3), uniform_box(jnp.zeros(3), jnp.ones(3))], ids=["normal", "box"]
)
def test_the_sampler_keeps_its_types_and_ranks_where_jax_is_strict(space):
    assert widest(traced_strictly(lambda x, args: x.sum(-1), space, ())) == 4


@pytest.mark.parametrize("name", sorted(SPACES))
def test_a_search_keeps_its_types_and_ranks_where_jax_is_strict(name):
    model = open_model(backdoored, image_shape=IMAGE_SHAPE, class_names=tuple("abcd"))
    space = make_space(name, IMAGE_SHAPE)
    args = {
        "weights": model.weights,
        "probes": jnp.zeros((4, *IMAGE_SHAPE)),
        "target": jnp.int32(TARGET),
        "fade": jnp.float32(0),
    }
    scorer = make_scorer(model, space, 0.95, 4)
    assert widest(traced_strictly(scorer, space.search, args)) == 4


@pytest.mark.parametrize("name", ["dead_leaves", "shapes"])
def test_synthetic_images_are_the_same_where_64_bits_are_the_default(name):
    usual = np.asarray(open_probes(name, 0, (8, 8, 3)).draw(0, 2))
    with jax.enable_x64(True):
        wide = np.asarray(open_probes(name, 0, (8, 8, 3)).draw(0, 2))
    np.testing.assert_array_equal(wide, usual, strict=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("jax_enable_x64", "on"),
        ("jax_check_tracer_leaks", "on"),
        ("jax_debug_nans", "on"),
        ("jax_numpy_rank_promotion", "raise"),
    ],
)
def test_a_strict_setting_changes_nothing_that_matters(setting, value):
    done = subprocess.run(
        [sys.executable, str(HERE / "strict_by_hand.py"), setting, value],
        capture_output=True, text=True, timeout=900, cwd=HERE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "fine"
