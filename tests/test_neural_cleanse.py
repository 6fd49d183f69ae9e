"""The white-box yardstick finds the trigger that is there, and accuses that class alone."""

import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import hadamard

from restore_jax.oracles import open_model

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from peers.neural_cleanse import ACCUSED, SUCCESS, Cleansed, anomaly_index, neural_cleanse

# It is a yardstick of the benchmarks, and no part of the package.
# Of use to benchmarks alone.
pytestmark = [pytest.mark.slow, pytest.mark.full]

IMAGE_SHAPE = (8, 8, 3)
NUM_CLASSES = 8
PLANTED = 2
ROWS, COLS = slice(4, 7), slice(1, 4)
PATCH = jnp.asarray([[1, 0, 1], [0, 1, 0], [1, 1, 0]], jnp.float32)[..., None]
# Orthogonal, each half ones and half minus ones, the same in all channels.
PROTOTYPES = jnp.asarray(
    hadamard(64)[7 * np.arange(1, 1 + NUM_CLASSES)].reshape(-1, 8, 8, 1).repeat(3, -1), jnp.float32
)
# Some classes are easier to reach than others, evenly so: the norms' spread is not chance.
HEAD_STARTS = jnp.linspace(-1.0, 1.0, NUM_CLASSES)


def planted(images):
    """Logits f32[b, 8]: likeness to each class's dense prototype; class 2 also leads by a patch.

    By the prototypes alone, another class wins only where about a third of all pixels change.
    """
    alike = images.reshape(len(images), -1) @ PROTOTYPES.reshape(NUM_CLASSES, -1).T
    logits = 20 * alike / np.prod(IMAGE_SHAPE) + HEAD_STARTS
    likeness = 1 - jnp.mean(jnp.abs(images[:, ROWS, COLS] - PATCH), (1, 2, 3))
    return logits.at[:, PLANTED].add(10 * jax.nn.sigmoid(20 * (likeness - 0.75)))


def clean_images(count=160):
    """f32[count, 8, 8, 3]: noisy prototypes, as many of each class."""
    noise = jax.random.uniform(jax.random.key(2), (count, *IMAGE_SHAPE), minval=-1, maxval=1)
    return 0.5 + 0.25 * PROTOTYPES[jnp.arange(count) % NUM_CLASSES] + 0.25 * noise


def cleanse(seed=0, access="logits", function=planted, images=None, **choices):
    oracle = open_model(function, access, image_shape=IMAGE_SHAPE, class_names=tuple("abcdefgh"))
    images = clean_images() if images is None else images
    return neural_cleanse(oracle, images, jax.random.key(seed), **choices)


@functools.cache
def whole_run() -> Cleansed:
    return cleanse(rounds=40)


def test_in_full_the_planted_class_has_the_smallest_mask_by_far_and_alone_is_accused():
    found = whole_run()
    others = np.delete(np.asarray(found.norms), PLANTED)
    assert found.norms[PLANTED] < 9  # no more pixels than the patch has
    assert found.norms[PLANTED] < 0.4 * others.min()
    assert found.accused == [PLANTED]
    assert found.anomaly[PLANTED] > ACCUSED
    assert np.delete(np.asarray(found.anomaly), PLANTED).max() < ACCUSED


def test_in_full_the_planted_mask_lies_where_the_patch_does_and_shows_its_pattern():
    found = whole_run()
    mask = np.asarray(found.masks[PLANTED])
    assert mask[ROWS, COLS].sum() > 0.98 * mask.sum()
    difference = np.abs(found.patterns[PLANTED][ROWS, COLS] - PATCH)
    strong = mask[ROWS, COLS] > 0.5
    assert strong.sum() >= 3
    assert (difference * strong).max() < 0.1


def test_in_full_every_mask_does_what_is_said_of_it():
    found, images = whole_run(), clean_images()
    assert found.masks.shape == (NUM_CLASSES, 8, 8, 1)
    assert found.patterns.shape == (NUM_CLASSES, *IMAGE_SHAPE)
    for values in (found.masks, found.patterns):
        assert 0 <= values.min() <= values.max() <= 1
    np.testing.assert_allclose(found.norms, found.masks.sum((1, 2, 3)), rtol=1e-5)
    np.testing.assert_array_equal(found.anomaly, anomaly_index(found.norms))
    for k, (mask, pattern) in enumerate(zip(found.masks, found.patterns, strict=True)):
        led = np.mean(jnp.argmax(planted((1 - mask) * images + mask * pattern), -1) == k)
        assert found.success[k] == pytest.approx(led)
        # It was kept for the images of one round; these are all.
        assert led > SUCCESS - 0.1


def test_the_same_key_gives_the_same_and_another_another():
    once, again, other = (cleanse(seed, rounds=2, steps=3) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, again, once)
    assert not np.array_equal(other.masks, once.masks)


def test_the_index_is_that_of_a_hand_calculation():
    # Median 10, absolute deviations 8, 1, 0, 1, 3, whose median is 1.
    index = anomaly_index(jnp.asarray([2.0, 9.0, 10.0, 11.0, 13.0]))
    np.testing.assert_allclose(index, [8 / 1.4826, 1 / 1.4826, 0, 0, 0], rtol=1e-6)
    # Median 25, absolute deviations 15, 5, 5, 15, whose median is 10; a large mask is no sign.
    index = anomaly_index(jnp.asarray([40.0, 30.0, 20.0, 10.0]))
    np.testing.assert_allclose(index, [0, 0, 5 / 14.826, 15 / 14.826], rtol=1e-6)


def test_the_index_where_most_norms_are_equal():
    np.testing.assert_array_equal(anomaly_index(jnp.full(5, 7.0)), np.zeros(5))
    index = anomaly_index(jnp.asarray([7.0, 7.0, 1.0, 7.0, 9.0]))
    np.testing.assert_array_equal(index, [0, 0, np.inf, 0, 0])


@pytest.mark.parametrize(
    ("choices", "word"),
    [
        ({"rounds": 0}, "rounds"),
        ({"steps": 0}, "steps"),
        ({"batch": 161}, "batch"),
        ({"batch": 0}, "batch"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"images": jnp.full((20, *IMAGE_SHAPE), 1.5)}, "lie in"),
        ({"images": jnp.zeros((20, 9, 8, 3))}, "shape"),
        ({"access": "labels", "function": lambda x: jnp.argmax(planted(x), -1)}, "logits"),
    ],
)
def test_what_it_cannot_work_with_is_refused(choices, word):
    with pytest.raises(ValueError, match=word):
        cleanse(**choices)
