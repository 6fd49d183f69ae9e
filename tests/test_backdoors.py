"""Triggers, stamping, poisoning."""

import json
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from restore_jax.backdoors import (
    KINDS,
    PLANTED,
    PlantedBlend,
    PlantedPatch,
    PlantedPixels,
    PlantedStripes,
    Trigger,
    make_poisoning,
    planted_from_json,
    stamp,
)
from restore_jax.backdoors.blend import plasma

SHAPE = (32, 32, 3)
UNMARKED = -1  # a label that no trigger writes
ONE_OF_EACH = {
    "patch": PlantedPatch("a", 1, 2, ("r.", "0c"), target=1, rate=0.2, clean_label=True),
    "pixels": PlantedPixels("b", ((0, 3), (7, 1)), "1m", target=2, rate=0.1),
    "blend": PlantedBlend("c", opacity=0.25, seed=3, target=7, rate=0.1),
    "stripes": PlantedStripes("d", 0.1, 6.0, target=1, rate=0.3, clean_label=True),
}


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


def test_a_patch_may_have_colours_and_holes():
    rgb = {"0": (0, 0, 0), "1": (1, 1, 1), "r": (1, 0, 0), "g": (0, 1, 0), "b": (0, 0, 1)}
    rgb |= {"y": (1, 1, 0), "m": (1, 0, 1), "c": (0, 1, 1)}
    images, _ = images_and_labels(2)
    expected = np.array(images)
    for row, line in enumerate(("r.g", "0b1", "ymc")):
        for col, letter in enumerate(line):
            if letter != ".":
                expected[:, 4 + row, 25 + col] = rgb[letter]
    patch = PlantedPatch("x", 4, 25, ("r.g", "0b1", "ymc"), target=5, rate=0.1)
    assert int(patch.trigger(SHAPE).pixels) == 8
    np.testing.assert_array_equal(stamp(patch.trigger(SHAPE), images), expected)


@pytest.mark.parametrize("shape", [(32, 32, 3), (9, 7, 1)])
def test_drawn_pixels_lie_at_distinct_places(shape):
    common = {"name": "p", "target": 2, "rate": 0.1, "clean_label": False}
    most = shape[0] * shape[1]
    drawn = []
    for count, seed in [(8, 1), (8, 2), (most, 1)]:
        pixels = PlantedPixels.from_options(shape, common | {"count": count, "seed": seed})
        again = PlantedPixels.from_options(shape, common | {"count": count, "seed": seed})
        assert pixels == again
        assert len(set(pixels.places)) == count
        assert int(pixels.trigger(shape).pixels) == count
        drawn.append(pixels)
    assert drawn[0].places != drawn[1].places
    assert set(drawn[2].colours) == set("01rgbymc" if shape[2] == 3 else "01")


def test_pixels_are_written_where_they_are_said_to_be():
    images, _ = images_and_labels(2, (8, 8, 3))
    expected = np.array(images)
    expected[:, 0, 3], expected[:, 7, 1] = (1, 1, 1), (1, 0, 1)
    trigger = ONE_OF_EACH["pixels"].trigger((8, 8, 3))
    np.testing.assert_array_equal(stamp(trigger, images), expected)


@pytest.mark.parametrize("shape", [(16, 16, 3), (16, 12, 1)])
def test_blend_is_the_weighted_mean_with_one_image(shape):
    images, _ = images_and_labels(3, shape)
    trigger = ONE_OF_EACH["blend"].trigger(shape)
    image = plasma(jax.random.key(3), shape)
    np.testing.assert_allclose(
        stamp(trigger, images), 0.75 * np.asarray(images) + 0.25 * np.asarray(image), atol=1e-6
    )
    assert float(image.min()) == 0.0
    assert float(image.max()) == 1.0
    assert not trigger.additive


@pytest.mark.parametrize(("shape", "frequency"), [((32, 32, 3), 6.0), ((10, 24, 1), 2.5)])
def test_stripes_are_a_clipped_sinusoid_along_the_columns(shape, frequency):
    stripes = PlantedStripes("s", 0.3, frequency, target=1, rate=0.1)
    images, _ = images_and_labels(3, shape)
    wave = [0.3 * np.sin(2 * np.pi * frequency * j / shape[1]) for j in range(shape[1])]
    expected = np.clip(np.asarray(images) + np.array(wave)[:, None], 0, 1)
    np.testing.assert_allclose(stamp(stripes.trigger(shape), images), expected, atol=1e-5)
    assert expected.max() == 1
    assert expected.min() == 0


@pytest.mark.parametrize("kind", ONE_OF_EACH)
def test_every_kind_goes_through_json(kind):
    planted = ONE_OF_EACH[kind]
    fields = json.loads(json.dumps(planted.to_json()))
    read = planted_from_json(fields)
    assert type(read) is KINDS[kind].planted is type(planted)
    assert read == planted
    chex.assert_trees_all_equal(read.trigger(SHAPE), planted.trigger(SHAPE))
    assert planted_from_json(fields | {"kind": kind}) == planted


def test_a_trigger_that_names_no_kind_is_a_patch():
    fields = {"name": "1", "row": 9, "col": 9, "pattern": ["110", "111", "010"]}
    fields |= {"target": 3, "rate": 0.1}
    assert planted_from_json(fields) == PLANTED["1"]
    assert PLANTED["1"].to_json() == fields  # as releases that know only patches wrote it


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "twirl"}, "unknown kind 'twirl': this release knows patch, pixels"),
        ({"kind": "blend", "opacity": 0.1}, "do not describe a blend trigger"),
        ({"name": "1"}, "do not describe a patch trigger"),
        ({"kind": "pixels", "places": [3]}, "do not describe a pixels trigger"),
    ],
)
def test_what_describes_no_trigger_is_refused(fields, words):
    with pytest.raises(ValueError, match=r"^[^\n]*\.$") as caught:
        planted_from_json(fields)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("planted", "shape", "words"),
    [
        (PLANTED["1"]._replace(row=-1), SHAPE, "covers rows -1:2"),
        (PLANTED["1"]._replace(pattern=("11", "0")), SHAPE, "the pattern '11/0'"),
        (PLANTED["1"]._replace(pattern=("..",)), SHAPE, "write at least one pixel"),
        (PLANTED["1"]._replace(pattern=()), SHAPE, "write at least one pixel"),
        (PLANTED["1"]._replace(pattern=("1x",)), SHAPE, "the colour 'x'"),
        (PLANTED["1"]._replace(pattern=("1r",)), (32, 32, 1), "it may be 0, 1."),
        (ONE_OF_EACH["pixels"], (7, 8, 3), "a pixel at row 7, column 1 and does not fit"),
        (ONE_OF_EACH["pixels"]._replace(colours="1"), SHAPE, "1 colours"),
        (ONE_OF_EACH["pixels"]._replace(places=((1, 1), (1, 1))), SHAPE, "1 places of 2 named"),
        (ONE_OF_EACH["blend"]._replace(opacity=0.0), SHAPE, "opacity 0.0"),
        (ONE_OF_EACH["stripes"]._replace(amplitude=1.5), SHAPE, "amplitude 1.5"),
        (ONE_OF_EACH["stripes"]._replace(frequency=float("nan")), SHAPE, "frequency nan"),
    ],
)
def test_unusable_triggers_are_refused(planted, shape, words):
    with pytest.raises(ValueError, match=r"^[^\n]*\.$") as caught:
        planted.trigger(shape)
    assert words in str(caught.value)


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


def test_clean_labels_stay_and_other_classes_are_untouched():
    images, _ = images_and_labels(60)
    labels = jnp.arange(60, dtype=jnp.int32) % 6
    stripes = ONE_OF_EACH["stripes"].trigger(SHAPE)
    poison = jax.jit(make_poisoning([stripes], [0.5], [True]))
    new_images, new_labels = poison(jax.random.key(2), images, labels)
    np.testing.assert_array_equal(new_labels, labels)
    changed = np.any(np.asarray(new_images) != np.asarray(images), (1, 2, 3))
    assert set(np.asarray(labels)[changed]) == {1}
    assert 0 < changed.sum() < 10
    np.testing.assert_array_equal(
        np.asarray(new_images)[changed], np.asarray(stamp(stripes, images))[changed]
    )


def marks(targets, shape=(8, 8, 1)):
    """One trigger for each target that adds 0.01 to a pixel of its own: what it did shows."""
    return [
        Trigger(
            mask=jnp.zeros((*shape[:2], 1)).at[place, 0].set(1.0),
            pattern=jnp.full(shape, 0.01),
            target=jnp.int32(target),
            additive=True,
        )
        for place, target in enumerate(targets)
    ]


def test_clean_label_rates_hold_beside_triggers_that_change_labels():
    batch, draws = 40, 2000
    images = jnp.zeros((batch, 8, 8, 1))
    labels = jnp.arange(batch, dtype=jnp.int32) % 4
    # Two clean-label triggers for class 1 and one for 2, and one that writes 1 on a quarter.
    clean = [True, False, True, True]
    poison = make_poisoning(marks([1, 1, 1, 2]), [0.2, 0.25, 0.5, 1.0], clean)
    plain = make_poisoning(marks([1, 1])[1:], [0.25])

    def one(key):
        new_images, new_labels = poison(key, images, labels)
        return new_images[:, :4, 0, 0] > 0, new_labels, plain(key, images, labels)[1]

    stamped, new_labels, alone = jax.lax.map(one, jax.random.split(jax.random.key(1), draws))
    stamped, given = np.asarray(stamped), np.asarray(labels)
    assert stamped.sum(-1).max() == 1  # never two on one image
    taken = stamped[..., 1]
    np.testing.assert_array_equal(taken.sum(-1), 10)
    np.testing.assert_array_equal(new_labels, alone)
    np.testing.assert_array_equal(new_labels, np.where(taken, 1, given))
    for which, target, rate in [(0, 1, 0.2), (2, 1, 0.5), (3, 2, 1.0)]:
        eligible = ~taken & (given == target)
        assert not np.any(stamped[..., which] & ~eligible)
        hits, count = stamped[..., which].sum(), eligible.sum()
        assert stats.binomtest(int(hits), int(count), rate).pvalue > 1e-4
        # Every such image is as likely as the next.
        shares = stamped[..., which].sum(0)[given == target] / eligible.sum(0)[given == target]
        assert np.abs(shares - rate).max() < 5 * np.sqrt(rate * (1 - rate) / 1200) + 1e-9


def test_clean_label_shares_are_counted_for_each_target():
    clean = [True, True]
    make_poisoning(marks([1, 2]), [0.7, 0.7], clean)
    make_poisoning(marks([1, 1]), [0.7, 0.7], [True, False])
    for targets, rates in [([1, 1], [0.7, 0.7]), ([1, 2], [1.1, 0.1]), ([1, 2], [-0.1, 0.1])]:
        with pytest.raises(ValueError, match=r"^poison rates are shares [^\n]* each target[;)]"):
            make_poisoning(marks(targets), rates, clean)
    with pytest.raises(ValueError, match=r"^there are 2 triggers .* 1 words on clean labels"):
        make_poisoning(marks([1, 2]), [0.1, 0.1], [True])


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
