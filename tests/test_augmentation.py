"""Mirroring and shifting a batch."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from restore_jax.data.augmentation import augment, flip_schedule


def random_images(n=40, shape=(9, 12, 2)):
    return jax.random.uniform(jax.random.key(0), (n, *shape))


def no_flip(images):
    return jnp.zeros(images.shape[0], bool)


def test_flips_alternate_by_epoch():
    key = jax.random.key(3)
    flips = np.stack([flip_schedule(key, 1000, jnp.int32(epoch)) for epoch in range(5)])
    chex.assert_shape(flips, (5, 1000))
    for epoch in range(4):
        np.testing.assert_array_equal(flips[epoch], ~flips[epoch + 1])
    assert 400 < flips[0].sum() < 600
    other = np.asarray(flip_schedule(jax.random.key(4), 1000, jnp.int32(0)))
    assert 400 < (other != flips[0]).sum() < 600


class AugmentTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_without_shifts_only_the_chosen_are_mirrored(self):
        images = random_images()
        flip = jax.random.bernoulli(jax.random.key(1), shape=(images.shape[0],))
        out = self.variant(lambda key, x, flip: augment(key, x, flip, 0))(
            jax.random.key(2), images, flip
        )
        expected = np.where(np.asarray(flip)[:, None, None, None], images[:, :, ::-1], images)
        np.testing.assert_array_equal(out, expected)


def test_no_flip_and_no_shift_is_the_identity():
    images = random_images()
    np.testing.assert_array_equal(augment(jax.random.key(0), images, no_flip(images), 0), images)


@pytest.mark.parametrize("translate", [1, 3])
def test_each_image_is_a_crop_of_itself_reflected_outwards(translate):
    images = np.asarray(random_images(400))
    height, width = images.shape[1:3]
    flip = np.arange(400) % 2 == 0
    out = np.asarray(augment(jax.random.key(5), jnp.asarray(images), jnp.asarray(flip), translate))
    seen = np.zeros((2 * translate + 1,) * 2, int)
    for image, mirrored, result in zip(images, flip, out, strict=True):
        source = image[:, ::-1] if mirrored else image
        around = (translate, translate)
        padded = np.pad(source, (around, around, (0, 0)), mode="reflect")
        matches = [
            (row, col)
            for row in range(2 * translate + 1)
            for col in range(2 * translate + 1)
            if np.array_equal(padded[row : row + height, col : col + width], result)
        ]
        assert len(matches) == 1
        seen[matches[0]] += 1
    # Rows and columns shift independently, each by -translate .. translate.
    assert (seen > 0).all()
    assert seen.max() < 4 * 400 / seen.size


def test_shifts_follow_the_key():
    images = random_images()
    first, again, other = (
        augment(jax.random.key(seed), images, no_flip(images), 2) for seed in (0, 0, 1)
    )
    chex.assert_trees_all_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.dtype == jnp.float32
