"""A recovery as files: what is written, what is read back, what is refused."""

import json
import os

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import restore_jax
from restore_jax.backdoors import PLANTED, Trigger, stamp
from restore_jax.oracles import open_model
from restore_jax.recovery import Level, Recovery, compare
from restore_jax.report import (
    ResultError,
    load_recovery,
    load_trigger,
    overview_figure,
    recovery_content,
    trigger_figure,
    write_files,
    write_recovery,
)
from restore_jax.report.figures import png
from restore_jax.report.written import _shown
from restore_jax.run import Cost, Provenance
from restore_jax.spaces.patch import Patch

FILES = {
    "recovery.json",
    "trigger.npz",
    "planted.npz",
    "particles.npz",
    "probes.npz",
    "support.npz",
    "support.png",
    "trigger.png",
    "overview.png",
    "report.html",
}


def brightness(images):
    """Three classes by mean brightness."""
    return jnp.stack([images.mean((1, 2, 3)) * k for k in (-1.0, 0.0, 1.0)], -1)


def a_trigger(kind, shape):
    """A trigger as the spaces make them, without their compiled draws."""
    rng, mask = np.random.default_rng(1), np.zeros((*shape[:2], 1), np.float32)
    if kind == "gaussian":
        change = rng.uniform(-1, 1, shape).astype(np.float32)
        return Trigger(np.ones_like(mask), change, np.int32(2), additive=True)
    if kind == "patch":
        mask[3:6, 8:12] = 1
    else:
        mask.flat[rng.choice(mask.size, 5, replace=False)] = 1
    return Trigger(mask, mask * rng.integers(0, 2, shape).astype(np.float32), np.int32(2))


def a_recovery(space="patch", shape=(16, 16, 3), **changes):
    """A recovery with four particles and two levels, as a short search would leave it."""
    trigger = a_trigger(space, shape)
    row, code = np.arange(4, dtype=np.int32), np.zeros((4, 5, 5), np.uint8)
    particles = Patch(row, row, row, row, code) if space == "patch" else np.ones((4, *shape))
    truth = PLANTED["1"]._replace(target=2).trigger(shape) if space == "patch" else None
    levels = (
        Level(-2.0, 0.5, -0.3, 0.4, -0.5, 2, 20),
        Level(0.0, 0.5, -0.6, None, 1.0, 1, 40),
    )
    values = {
        "trigger": trigger,
        "found": True,
        "status": "reached",
        "particles": particles,
        "scores": np.array([1.0, 2.0, -1.0, -np.inf], np.float32),
        "planted_trigger": truth,
        "probes": np.random.default_rng(0).random((5, *shape), np.float32),
        "inclusion": np.random.default_rng(1).random(shape[:2], np.float32),
        "levels": levels,
        "target": 2,
        "target_name": "a class with a very long name",
        "space": space,
        "cost": Cost(60, 100, {"screening": 20, "search": 40}, {"total": 1.5, "compile": 0.5}),
        "provenance": Provenance("shipped", "logits", "dead_leaves", 0),
        "goal": 0.0,
        "log10_prob": -0.6,
        "interval": (-0.9, -0.3),
        "confirmation_success_rate": 1.0,
        "truth": None if truth is None else compare(trigger, truth, None, jnp.zeros((1, *shape))),
    }
    return Recovery(**(values | changes))


def an_oracle(shape=(16, 16, 3)):
    return open_model(brightness, image_shape=shape, class_names=("dark", "grey", "bright"))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "new" / "folder"
    recovery = a_recovery()
    write_recovery(recovery, an_oracle(), folder)
    return folder, recovery


def test_what_is_written_reads_back(written):
    folder, recovery = written
    assert {path.name for path in folder.iterdir()} == FILES
    again = restore_jax.load_recovery(folder)
    assert recovery_content(again) == json.loads((folder / "recovery.json").read_text())
    assert recovery_content(again) == json.loads(json.dumps(recovery_content(recovery)))
    for name in ("cost", "provenance", "levels", "truth", "interval", "spaces_tried", "others"):
        assert getattr(again, name) == getattr(recovery, name)
    assert (again.found, again.status) == (recovery.found, recovery.status)
    assert set(again.particles) == {"row", "col", "height", "width", "codes"}
    np.testing.assert_array_equal(again.particles["codes"], recovery.particles.codes)
    np.testing.assert_array_equal(again.scores, recovery.scores)
    np.testing.assert_array_equal(again.probes, recovery.probes)
    np.testing.assert_array_equal(again.planted_trigger.mask, recovery.planted_trigger.mask)
    np.testing.assert_array_equal(again.inclusion, recovery.inclusion)
    np.testing.assert_array_equal(load_recovery(folder / "recovery.json").scores, again.scores)


def test_a_trigger_read_back_stamps_the_same(written):
    folder, recovery = written
    images = jnp.asarray(recovery.probes)
    for path in (folder, folder / "trigger.npz"):
        trigger = load_trigger(path)
        assert int(trigger.target) == 2
        np.testing.assert_array_equal(stamp(trigger, images), stamp(recovery.trigger, images))


def test_an_additive_trigger_stays_additive(tmp_path):
    recovery = a_recovery("gaussian")
    write_recovery(recovery, None, tmp_path)
    trigger, images = load_trigger(tmp_path), jnp.asarray(recovery.probes)
    np.testing.assert_array_equal(load_trigger(tmp_path / "recovery.json").pattern, trigger.pattern)
    assert trigger.additive
    np.testing.assert_array_equal(stamp(trigger, images), stamp(recovery.trigger, images))
    again = load_recovery(tmp_path)
    assert again.planted_trigger is None
    assert list(again.particles) == ["particles"]  # a lone array


def test_probes_serve_another_search(written):
    folder, recovery = written
    source = restore_jax.open_probes(folder / "probes.npz", 0, (16, 16, 3))
    assert source.available == len(recovery.probes)


def test_pictures_are_pictures(written):
    folder, _ = written
    for name in ("trigger.png", "support.png", "overview.png"):
        with Image.open(folder / name) as image:
            assert min(image.size) > 400
            assert len(image.convert("RGB").getcolors(1 << 24)) > 10


@pytest.mark.parametrize(
    "changes",
    [
        {"levels": ()},
        {"found": False, "status": "interrupted", "planted_trigger": None},
        {
            "levels": (Level(queries=10),),
            "log10_prob": None,
            "interval": (None, -2.0),
            "goal": None,
        },
        {"probes": np.zeros((1, 16, 16, 3), np.float32)},
    ],
)
def test_overview_of_unusual_ends(changes):
    recovery = a_recovery(**changes)
    assert png(overview_figure(recovery, _shown(recovery, None))).startswith(b"\x89PNG")


@pytest.mark.parametrize(("space", "shape"), [("sparse", (16, 12, 1)), ("gaussian", (8, 8, 3))])
def test_trigger_figure_of_other_spaces(space, shape):
    assert png(trigger_figure(a_trigger(space, shape), "x")).startswith(b"\x89PNG")


def test_trigger_figure_of_an_empty_trigger():
    empty = Trigger(np.zeros((8, 8, 1)), np.zeros((8, 8, 3)), np.int32(0))
    assert png(trigger_figure(empty, "x")).startswith(b"\x89PNG")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_files(tmp_path, {"a.txt": b"old"})

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_files(tmp_path, {"a.txt": b"new"})
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_bytes() == b"old"


MASK, PATTERN, TARGET = np.ones((4, 4, 1)), np.zeros((4, 4, 3)), np.int32(1)
BAD_TRIGGERS = {
    "no target": ({"mask": MASK, "pattern": PATTERN}, "lacks target"),
    "mask of another size": ({"mask": np.ones((4, 5, 1))}, "mask in .* must have shape"),
    "flat pattern": ({"pattern": np.zeros((4, 4))}, "pattern in .* three-dimensional"),
    "whole numbers": ({"pattern": np.zeros((4, 4, 3), int)}, "floating numbers"),
    "NaN": ({"pattern": np.full((4, 4, 3), np.nan)}, "must lie in"),
    "negative without additive": ({"pattern": PATTERN - 0.5}, r"pattern in .* \[0, 1\]"),
    "beyond additive": ({"pattern": PATTERN - 2, "additive": np.array(True)}, r"\[-1, 1\]"),
    "mask above 1": ({"mask": MASK * 2}, "mask in .* must lie"),
    "two targets": ({"target": np.array([1, 2])}, "target in .* one whole number"),
    "negative target": ({"target": np.int32(-1)}, "target in .* at least 0"),
    "target 1.5": ({"target": np.float32(1.5)}, "target in .* whole number"),
    "additive as text": ({"additive": np.array("yes")}, "an array of <U3"),
    "a pickle": ({"mask": np.array([{}], dtype=object)}, "damaged or is not"),
}


@pytest.mark.parametrize("name", BAD_TRIGGERS)
def test_unusable_triggers_are_refused(name, tmp_path):
    arrays, message = BAD_TRIGGERS[name]
    if name != "no target":
        arrays = {"mask": MASK, "pattern": PATTERN, "target": TARGET} | arrays
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(ResultError, match=message):
        load_trigger(tmp_path / "t.npz")


def test_a_trigger_may_leave_additive_out(tmp_path):
    np.savez(tmp_path / "t.npz", mask=MASK, pattern=PATTERN, target=TARGET)
    assert not load_trigger(tmp_path / "t.npz").additive


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 and no more"])
def test_what_is_no_npz_is_refused(content, tmp_path):
    (tmp_path / "t.npz").write_bytes(content)
    with pytest.raises(ResultError, match="damaged or is not"):
        load_trigger(tmp_path / "t.npz")
    with pytest.raises(ResultError, match="no file"):
        load_trigger(tmp_path / "none.npz")


def _copy(folder, to):
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


@pytest.mark.parametrize("name", sorted(name for name in FILES if name.endswith((".npz", ".json"))))
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_missing_and_damaged_files_are_named(name, damage, written, tmp_path):
    path = _copy(written[0], tmp_path / "copy") / name
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ResultError, match=name):
        load_recovery(path.parent)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 99}, "schema version 99"),
        ({"found": "yes"}, "found in"),
        ({"levels": None}, "levels in"),
        ({"target": 1}, "mixes two recoveries"),
    ],
)
def test_inconsistent_recoveries_are_refused(changes, message, written, tmp_path):
    path = _copy(written[0], tmp_path / "copy") / "recovery.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ResultError, match=message):
        load_recovery(path.parent)


def test_no_folder_no_recovery(tmp_path):
    with pytest.raises(ResultError, match="no recovery folder"):
        load_recovery(tmp_path / "none")
    (tmp_path / "recovery.json").write_text("[1]")
    with pytest.raises(ResultError, match="holds no result"):
        load_recovery(tmp_path)
