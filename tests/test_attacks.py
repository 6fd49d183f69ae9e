"""Attacks on some classes, on whole images, at other places: what is planted is what is said."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from restore_jax import open_model, verify
from restore_jax.backdoors import (
    KINDS,
    Attack,
    PlantedPatch,
    Spread,
    Trigger,
    describe,
    make_poisoning,
    planted_attack,
    planted_from_json,
    poisoning_of,
    stamp,
    stamp_attack,
    towards_one,
)
from restore_jax.backdoors.changes import Colouring, Residual, Rounding
from restore_jax.cli.exits import UsageError
from restore_jax.cli.planting import planted_from_specs
from restore_jax.errors import InputError
from restore_jax.purification import subtract
from restore_jax.report import ResultError, load_attack, load_trigger, trigger_figure
from restore_jax.report.triggers import trigger_arrays

SHAPE, NUM_CLASSES = (12, 12, 3), 5
BATCH = 4_000
WHOLE = ("warp", "colour", "smooth", "frequency", "quantise", "residual")


def planted(spec):
    return planted_from_specs([spec], SHAPE, NUM_CLASSES)[0]


def poisoned(*specs, seed=0):
    """Images, labels, and what a batch of them becomes."""
    draw = np.random.default_rng(seed)
    images = jnp.asarray(draw.random((BATCH, *SHAPE), np.float32) * 0.8 + 0.1)
    labels = jnp.asarray(draw.integers(0, NUM_CLASSES, BATCH), jnp.int32)
    plan = planted_from_specs(list(specs), SHAPE, NUM_CLASSES)
    poison = jax.jit(poisoning_of(plan, SHAPE, NUM_CLASSES))
    after, given = poison(jax.random.key(1), images, labels)
    changed = np.asarray(jnp.abs(after - images).max((1, 2, 3)) > 1e-6)
    return np.asarray(images), np.asarray(labels), np.asarray(after), np.asarray(given), changed


def test_some_sources_alone_are_led_and_covers_keep_their_labels():
    images, labels, after, given, changed = poisoned(
        "patch:pattern=10/01,target=3,rate=0.4,sources=1+4,cover=0.25"
    )
    led = np.isin(labels, [1, 4])
    moved = given != labels
    assert (given[moved] == 3).all()
    assert led[moved].all()
    assert changed[moved].all()
    assert abs(moved[led].mean() - 0.4) < 0.04
    assert abs(changed[~led].mean() - 0.25) < 0.03
    assert not (changed & led & ~moved).any()
    patch = planted("patch:pattern=10/01,target=3").trigger(SHAPE)
    np.testing.assert_allclose(after[changed], stamp(patch, images[changed]), atol=1e-6)
    np.testing.assert_array_equal(after[~changed], images[~changed])


def test_every_class_may_be_led_to_the_next():
    _, labels, _, given, changed = poisoned("patch:pattern=10/01,rate=0.3,to=next")
    moved = given != labels
    np.testing.assert_array_equal(given[moved], (labels[moved] + 1) % NUM_CLASSES)
    np.testing.assert_array_equal(moved, changed)
    for k in range(NUM_CLASSES):
        assert abs(moved[labels == k].mean() - 0.3) < 0.06


def test_a_trigger_that_leads_all_may_have_covers_of_any_class():
    _, labels, _, given, changed = poisoned("patch:pattern=10/01,rate=0.1,target=2,cover=0.2")
    kept = changed & (given == labels)
    assert abs((given != labels).mean() - 0.1 * 0.8) < 0.01
    # The tenth that is taken already is not free.
    for k in (0, 1, 3, 4):
        assert abs(kept[labels == k].mean() - 0.9 * 0.2) < 0.05


@pytest.mark.slow
def test_noise_warps_every_image_in_another_way_and_keeps_labels():
    images, labels, after, given, changed = poisoned("warp:rate=0.2,target=1,noise=0.3")
    warped = planted("warp:target=1").trigger(SHAPE)
    exact = np.abs(after - np.asarray(stamp(warped, images))).max((1, 2, 3)) < 1e-5
    assert exact[given != labels].all()
    noisy = changed & ~exact
    assert (given[noisy] == labels[noisy]).all()
    assert abs(noisy.mean() - 0.8 * 0.3) < 0.03
    assert abs(exact.mean() - 0.2) < 0.005


def test_a_roaming_patch_lies_anywhere():
    images, _, after, _, changed = poisoned("patch:pattern=11/11,row=0,col=0,rate=0.5,roam=yes")
    places = set()
    for before, now in zip(images[changed], after[changed], strict=True):
        touched = np.argwhere(np.abs(now - before).max(-1) > 0)
        (top, left), (bottom, right) = touched.min(0), touched.max(0)
        assert (now[touched[:, 0], touched[:, 1]] == 1).all()
        assert bottom - top == right - left == 1
        places.add((int(top), int(left)))
    assert len(places) == 100  # rows and columns 0 to H - 3


def test_attacks_beside_each_other_take_other_images():
    _, labels, _, given, _ = poisoned(
        "patch:name=a,pattern=1,rate=0.3,target=0",
        "patch:name=b,pattern=0,rate=0.5,target=2,sources=1",
        "patch:name=c,pattern=0,rate=0.4,target=4,clean_label=yes",
    )
    assert abs((given == 0)[labels != 0].mean() - 0.3) < 0.02
    assert abs(((given == 2) & (labels == 1)).sum() / (labels == 1).sum() - 0.7 * 0.5) < 0.05


def test_the_old_transforms_are_what_they_were():
    """What leads all to one draws what it always drew, whatever is known beside it."""
    patch = PlantedPatch("1", 2, 2, ("10", "01"), target=3, rate=0.1)
    trigger = patch.trigger(SHAPE)
    images = jax.random.uniform(jax.random.key(2), (60, *SHAPE))
    labels = jnp.arange(60, dtype=jnp.int32) % NUM_CLASSES
    plain = make_poisoning([trigger], [0.1])(jax.random.key(3), images, labels)
    attack = make_poisoning([towards_one(trigger, NUM_CLASSES)], [0.1])
    named = poisoning_of([patch], SHAPE, NUM_CLASSES)
    for other in (attack, named):
        for a, b in zip(plain, other(jax.random.key(3), images, labels), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", WHOLE)
def test_changes_of_whole_images_survive_json_and_files(kind, tmp_path):
    places = ",places=1-2/7-0" if kind == "frequency" else ""
    one = planted(f"{kind}:target=2,sources=0+1,cover=0.1{places}")
    assert planted_from_json(json.loads(json.dumps(one.to_json()))) == one
    assert set(KINDS[kind].options) <= one.to_json().keys()
    trigger = one.trigger(SHAPE)
    images = jax.random.uniform(jax.random.key(4), (2, *SHAPE))
    stamped = stamp(trigger, images)
    assert float(jnp.abs(stamped - images).max()) > 0.02
    assert 0 <= float(stamped.min()) <= float(stamped.max()) <= 1
    np.savez(tmp_path / "trigger.npz", **trigger_arrays(trigger))
    again = load_trigger(tmp_path)
    np.testing.assert_array_equal(stamp(again, images), stamped)
    assert describe(again) == describe(trigger)
    assert int(again.pixels) == SHAPE[0] * SHAPE[1]


def test_what_is_usual_is_not_written_and_older_files_read():
    fields = PlantedPatch("1", 2, 2, ("10", "01"), target=3, rate=0.1).to_json()
    assert set(fields) == {"name", "row", "col", "pattern", "target", "rate"}
    spread = Spread(sources=(1, 4), cover=0.2, roam=True)
    more = PlantedPatch("1", 2, 2, ("10", "01"), 3, 0.1, opacity=0.5, spread=spread)
    assert planted_from_json(json.loads(json.dumps(more.to_json()))) == more
    assert float(more.trigger(SHAPE).mask.max()) == 0.5
    assert planted_attack(more, SHAPE, NUM_CLASSES).roams


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("patch:sources=one", "sources"),
        ("patch:sources=7", "classes, 0 to 4"),
        ("patch:to=nowhere", "target or next"),
        ("patch:cover=1.5", "cover 1.5"),
        ("patch:noise=0.2", "no warp"),
        ("patch:sources=0,target=0", "no class elsewhere"),
        ("patch:opacity=0", "opacity"),
        ("warp:distance=0", "distance"),
        ("warp:grid=99", "grid"),
        ("colour:tone=mauve", "mauve"),
        ("colour:amount=2", "amount"),
        ("frequency:places=40-1", "places"),
        ("frequency:places=a", "places"),
        ("quantise:levels=1", "levels"),
        ("residual:strength=0", "strength"),
        ("warp:rate=0.6,noise=0.9,cover=0.5", "sum to at most 1"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(spec, words):
    with pytest.raises((InputError, UsageError), match=rf"^[^\n]*{words}[^\n]*\.$"):
        poisoning_of([planted(spec)], SHAPE, NUM_CLASSES)


def attack_file(path, **changes):
    """An attack as the zoos describe them, which does nothing yet but is led from 1 to 3."""
    height, width, channels = SHAPE
    neutral = {
        "flow": np.zeros((height, width, 2), np.float32),
        "M": np.eye(channels, dtype=np.float32),
        "c": np.zeros(channels, np.float32),
        "gamma": np.float32(1),
        "q": np.float32(0),
        "m": np.zeros((height, width, 1), np.float32),
        "p": np.zeros(SHAPE, np.float32),
        "d": np.zeros(SHAPE, np.float32),
        "ker": np.zeros((5, 5, channels, channels), np.float32),
        "eps": np.float32(0),
        "roam": np.float32(0),
        "source": np.array([0, 1, 0, 0, 0], np.float32),
        "map": np.array([0, 3, 2, 3, 4], np.int32),
    }
    np.savez(path, **(neutral | changes))
    return load_attack(path, NUM_CLASSES)


def test_an_attack_file_does_its_parts_in_order(tmp_path):
    draw = np.random.default_rng(5)
    images = jnp.asarray(draw.random((4, *SHAPE), np.float32))
    parts = {
        "flow": draw.normal(0, 0.5, (12, 12, 2)).astype(np.float32),
        "M": (np.eye(3) * 0.9).astype(np.float32),
        "c": np.array([0.0, 0.05, 0.0], np.float32),
        "gamma": np.float32(1.2),
        "q": np.float32(7),
        "m": (draw.random((12, 12, 1)) < 0.2).astype(np.float32),
        "p": draw.random(SHAPE).astype(np.float32),
        "ker": draw.normal(0, 1, (5, 5, 3, 3)).astype(np.float32),
        "eps": np.float32(0.05),
    }
    attack = attack_file(tmp_path / "attack.npz", **parts)
    assert attack.leads_to.tolist() == [0, 3, 2, 3, 4]
    assert int(attack.trigger.target) == 3
    trigger, x = attack.trigger, images
    none = {"mask": jnp.zeros((12, 12, 1)), "pattern": jnp.zeros(SHAPE), "target": jnp.int32(3)}
    for alone in (
        Trigger(**none, flow=jnp.asarray(parts["flow"])),
        Trigger(**none, colouring=Colouring(parts["M"], parts["c"], 1.2, 0.0)),
        Trigger(**none, rounding=Rounding(7.0, 0.0)),
        Trigger(parts["m"], parts["p"], jnp.int32(3)),
        Trigger(**none, residual=Residual(parts["ker"], 0.05)),
    ):
        x = stamp(alone, x)
    np.testing.assert_allclose(stamp(trigger, images), x, atol=1e-5)


def test_an_attack_file_may_add_and_may_roam(tmp_path):
    added = attack_file(tmp_path / "a.npz", d=np.full(SHAPE, -0.1, np.float32)).trigger
    assert added.additive
    grey = jnp.full((1, *SHAPE), 0.5)
    np.testing.assert_allclose(stamp(added, grey), 0.4, atol=1e-6)
    mask = np.zeros((12, 12, 1), np.float32)
    mask[0, 0] = 1
    roaming = attack_file(tmp_path / "b.npz", m=mask, roam=np.float32(1))
    many = stamp_attack(roaming, jnp.ones((50, *SHAPE)), jax.random.key(6))
    assert (np.asarray(many) == 0).sum((1, 2, 3)).tolist() == [3] * 50
    assert len(np.unique(np.argmin(np.asarray(many)[..., 0].reshape(50, -1), 1))) > 20


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source": np.zeros(5, np.float32)}, "leads no class"),
        ({"map": np.array([0, 9, 2, 3, 4])}, "map and source"),
        ({"flow": np.zeros((3, 3, 2), np.float32)}, "flow"),
        ({"gamma": np.float32("nan")}, "gamma"),
        ({"m": np.ones((12, 12, 1), np.float32), "d": np.ones(SHAPE, np.float32)}, "one of them"),
        ({"ker": np.zeros(3, np.float32), "eps": np.float32(0.1)}, "ker"),
        ({"ker": np.zeros((5, 5, 3, 1), np.float32), "eps": np.float32(0.1)}, "ker .* 3 channels"),
    ],
)
def test_a_wrong_attack_file_is_refused_in_a_sentence(tmp_path, changes, words):
    with pytest.raises(ResultError, match=words):
        attack_file(tmp_path / "attack.npz", **changes)


@pytest.mark.parametrize("classes", [4, 6])
def test_an_attack_on_other_classes_is_refused_in_a_sentence(tmp_path, classes):
    attack = attack_file(tmp_path / "attack.npz", m=np.ones((12, 12, 1), np.float32))
    many = open_model(lambda x: jnp.tile(x.mean((1, 2)), 2)[:, :classes], image_shape=SHAPE)
    with pytest.raises(InputError, match=f"where 5 classes are led, but .* has {classes}"):
        verify(many, attack)


def test_a_trigger_file_leads_every_class_to_its_target(tmp_path):
    trigger = planted("warp:target=4").trigger(SHAPE)
    np.savez(tmp_path / "t.npz", **trigger_arrays(trigger))
    attack = load_attack(tmp_path / "t.npz", NUM_CLASSES)
    assert isinstance(attack, Attack)
    assert attack.leads_to.tolist() == [4] * NUM_CLASSES
    broken = trigger_arrays(trigger) | {"flow": np.full((12, 12, 2), np.inf, np.float32)}
    np.savez(tmp_path / "t.npz", **broken)
    with pytest.raises(ResultError, match="flow"):
        load_trigger(tmp_path / "t.npz")


@pytest.mark.parametrize(
    "spec", ["warp:distance=0.4", "colour:tone=cold", "residual:strength=0.05"]
)
def test_what_changes_whole_images_is_taken_back_as_far_as_can_be(spec):
    trigger = planted(f"{spec},target=1").trigger(SHAPE)
    rows, cols = np.mgrid[0:12, 0:12] / 11
    smooth = 0.3 + 0.4 * np.stack([rows, cols, rows * cols], -1)[None]
    images = jnp.asarray(smooth, jnp.float32)
    stamped = stamp(trigger, images)
    before = float(jnp.abs(stamped - images).mean())
    assert float(jnp.abs(subtract(trigger, stamped) - images).mean()) < 0.5 * before


def test_coarse_levels_are_smoothed_over():
    trigger = planted("quantise:levels=3,target=1").trigger(SHAPE)
    images = jax.random.uniform(jax.random.key(7), (2, *SHAPE))
    stamped = stamp(trigger, images)
    assert len(np.unique(stamped)) == 3
    assert len(np.unique(subtract(trigger, stamped))) > 10


@pytest.mark.parametrize("kind", ["warp", "colour", "quantise", "residual"])
def test_what_changes_whole_images_is_drawn_on_a_chart(kind):
    left, right = trigger_figure(planted(f"{kind}:target=2").trigger(SHAPE), "c").axes
    assert right.get_title() == "the chart with the trigger"
    plain, changed = (axes.images[0].get_array() for axes in (left, right))
    assert plain.shape == changed.shape == SHAPE
    assert np.abs(plain - changed).max() > 0.02
