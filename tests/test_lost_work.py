"""What was found, paid for or lay there is not lost: to Ctrl-C, a full disk, or --overwrite."""

import contextlib
import errno
import json
import os
import resource
import signal

import numpy as np
import odd_models_by_hand as odd
import pytest
from commands_by_hand import call
from models_by_hand import IMAGE_SHAPE, TARGET, backdoored
from test_report import a_recovery

from restore_jax import folders, recover
from restore_jax.cli import exits, inputs, models, purify
from restore_jax.errors import Inconclusive
from restore_jax.oracles import (
    Books,
    HostAnswers,
    Journal,
    Ledger,
    ModelError,
    ModelOptions,
    open_model,
)
from restore_jax.oracles.journal import NAME, JournalError
from restore_jax.recovery import Settings, procedure
from restore_jax.recovery.found import Found
from restore_jax.report import recovery_content, write_files
from restore_jax.report.triggers import trigger_arrays
from restore_jax.run import Run, Saved
from restore_jax.run.saving import SavingError

pytestmark = pytest.mark.usefixtures("hardly_optimised")

SETTINGS = Settings(num_probes=4, num_particles=32, num_moves=2)
OLD = {"thesis.txt": b"years", "recovery.json": b"{}", "class-1/old.npz": b"?"}


def contents(folder):
    """Everything in a folder, by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Folders.


def test_new_files_take_the_old_ones_place_when_they_are_whole(tmp_path):
    out = tmp_path / "out"
    folders.put_files(out, OLD)
    assert contents(out) == OLD
    new = {"recovery.json": b"new", "class-2/a.npz": b"2", "class-1": b"a file now"}
    folders.put_files(out, new, replace=True, keep=["thesis.txt"])
    assert contents(out) == new | {"thesis.txt": b"years"}


@pytest.mark.parametrize("fails_at", range(4))
def test_a_disk_that_is_full_leaves_what_was_there(fails_at, tmp_path, monkeypatch):
    out, writes = tmp_path / "out", iter(range(100))
    folders.put_files(out, OLD)
    opened = type(out).open

    def full(self, mode="r", *more, **how):
        if "w" in mode and next(writes) == fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(self, mode, *more, **how)

    monkeypatch.setattr(type(out), "open", full)
    with pytest.raises(OSError, match="No space left"):
        folders.put_files(out, dict.fromkeys("abcd", b"new"), replace=True)
    monkeypatch.undo()
    assert contents(out) == OLD


@pytest.mark.parametrize("ends_at", range(4))
def test_a_process_that_is_killed_leaves_no_mixture_of_two_results(ends_at, tmp_path, monkeypatch):
    out, places = tmp_path / "out", iter(range(100))
    names = ("class-1/recovery.json", "class-1/trigger.npz", "report.html", "scan.json")
    folders.put_files(out, dict.fromkeys(names, b"old"))
    replace = os.replace

    def killed(source, place):
        if next(places) == ends_at:
            raise KeyboardInterrupt
        replace(source, place)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        folders.put_files(out, dict.fromkeys(names, b"new"), replace=True)
    for place in (out, out / "class-1"):
        found = {path.read_bytes() for path in place.iterdir() if path.is_file()}
        assert len(found) == 1 or not list(place.glob("*.json"))
    assert not (out / "scan.json").exists()


def test_what_is_read_stays_though_all_else_goes(tmp_path):
    out = tmp_path / "out"
    folders.put_files(out, OLD | {"in/model.onnx": b"m", "in/other": b"o"})
    (tmp_path / "link").symlink_to(out / "thesis.txt")
    spare = [out / "in" / "model.onnx", tmp_path / "link"]
    folders.put_files(out, {"recovery.json": b"new"}, replace=True, spare=spare)
    assert contents(out) == {
        "recovery.json": b"new", "in/model.onnx": b"m", "thesis.txt": b"years"
    }  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [
        ("recover", "--target", "0", "--model", "onnx:out/thesis.txt"),
        ("recover", "--target", "0", "--model", "torch:out/thesis.txt"),
        ("recover", "--target", "0", "--model", "keras:out/../out/thesis.txt"),
        ("recover", "--target", "0", "--model", "keras:linked.keras"),
        ("recover", "--target", "0", "--model", "python:out.module:predict"),
        ("scan", "--probes", "out/thesis.txt"),
        ("purify", "--recovery", "out", "--images", "cifar10"),
        ("purify", "--recovery", "elsewhere", "out/class-1", "--images", "cifar10"),
        ("purify", "--recovery", "out/class-1", "linked.keras", "--images", "cifar10"),
        ("purify", "--recovery", "elsewhere", "--images", "out/thesis.txt"),
        ("verify", "--trigger-file", "out/class-1/old.npz"),
    ],
)
def test_overwrite_removes_nothing_that_is_read(words, home):
    folders.put_files(home / "out", OLD | {"module.py": b""})
    (home / "linked.keras").symlink_to("out/thesis.txt")
    code, _, err = call(*words, "--out", "out", "--overwrite")
    assert code == 2
    assert "--overwrite would remove" in err.splitlines()[-1]
    assert contents(home / "out") == OLD | {"module.py": b""}


@pytest.mark.parametrize("name", ["nan", "quits"])
def test_a_run_that_ends_early_leaves_the_folder_that_it_would_replace(name, home):
    folders.put_files(home / "out", OLD)
    code, _, err = call("recover", "--model", f"python:odd_models_by_hand:{name}", "--classes", "3",
                      "--target", "0", "--out", "out", "--overwrite")  # fmt: skip
    assert code == 2
    assert "--resume" not in err  # it would come to the same
    kept = contents(home / "out")
    kept.pop(NAME, None)  # what was paid for
    assert kept == OLD


def test_an_old_journal_stays_until_the_new_run_pays(tmp_path):
    path = tmp_path / NAME
    path.write_bytes(b"paid for\n")
    journal = Journal(path, {"seed": 1}, False)
    assert path.read_bytes() == b"paid for\n"
    journal.sending(3)
    journal.close()
    assert b"paid for" not in path.read_bytes()


def test_a_result_that_cannot_be_written_is_written_elsewhere(home, monkeypatch, tmp_path):
    put = folders.put_files

    def full(folder, files, **how):
        if folder == home / "out":
            raise OSError(errno.ENOSPC, "No space left on device")
        put(folder, files, **how)

    monkeypatch.setattr(inputs, "put_files", full)
    monkeypatch.setattr(inputs.tempfile, "mkdtemp", lambda prefix: str(tmp_path / prefix))
    args = exits_args(out="out", overwrite=False)
    with pytest.raises(exits.UsageError, match=r"No space left on device\), so it is in .*restore"):
        inputs.write(args, home / "out", {"recovery.json": b"{}", "a.png": b"?"})
    assert contents(tmp_path / "restore-jax-") == {"recovery.json": b"{}", "a.png": b"?"}


def exits_args(**said):
    import argparse

    return argparse.Namespace(**said)


# Signals.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_result_is_written_though_a_signal_comes(number):
    with exits.undisturbed() as came:
        os.kill(os.getpid(), number)
        written = True
    assert written
    assert came == [number]


def test_a_second_signal_ends_writing_too():
    with exits.undisturbed() as came:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert len(came) == 2


def test_sigterm_ends_a_command_as_ctrl_c_does():
    with pytest.raises(KeyboardInterrupt), exits.ended_by_signals():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.fixture(scope="module")
def searched():
    """A run, and what it has found after its search."""
    oracle = open_model(backdoored, image_shape=IMAGE_SHAPE, class_names=tuple("abcd"))
    how = {"trigger": None, "success": 0.95, "stop": "estimate", "test_data": None,
           "on_progress": None, "first": None}  # fmt: skip
    aim, _ = procedure._aim(oracle, TARGET, "patch", SETTINGS, how)
    run = Run(oracle, budget=20_000, seed=4)
    found = Found(aim, run.feed(aim.excluded))
    for stage in procedure.PROTOCOLS["default"][:2]:
        found = stage(run, found)
    assert found.status == "reached"
    return run, found


@pytest.mark.parametrize("number", range(2, 7))
def test_ctrl_c_in_any_stage_leaves_what_there_is(number, searched):
    run, found = searched
    stages = procedure.PROTOCOLS["default"]
    assert len(stages) == 7
    pressed = []

    def interrupted(run, found):
        if not pressed:
            pressed.append(True)
            raise KeyboardInterrupt
        return stages[number](run, found)

    for stage in (*stages[2:number], interrupted, *stages[number + 1 :]):
        found = procedure._gone_through(stage, run, found)
    recovery = procedure.conclude(run, found)
    assert recovery.status == "interrupted"
    assert recovery.trigger_pixels > 0
    assert recovery.levels == searched[1].levels
    assert json.dumps(recovery_content(recovery), allow_nan=False)
    assert "interrupted" in recovery.summary()


def test_ctrl_c_before_there_is_anything_is_ctrl_c(searched):
    run, found = searched

    def interrupted(run, found):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        procedure._gone_through(interrupted, run, Found(found.aim, found.feed))


# Going on with a search in this process.


def searching(folder, resume, interrupt_at=None):
    def on_progress(step):
        if step.levels == interrupt_at:
            raise KeyboardInterrupt

    oracle = open_model(backdoored, image_shape=IMAGE_SHAPE, class_names=tuple("abcd"))
    return recover(
        oracle, TARGET, settings=SETTINGS, budget=6_000, seed=4, on_progress=on_progress,
        journal=None if folder is None else Saved(folder, {"seed": 4}, resume),
    )  # fmt: skip


@pytest.mark.slow
def test_a_search_in_this_process_goes_on_from_the_level_that_it_was_ended_at(tmp_path):
    whole = searching(None, False)
    assert len(whole.levels) > 2
    partial = searching(tmp_path, False, interrupt_at=2)
    assert partial.status == "interrupted"
    assert len(partial.levels) == 2
    assert len(list(tmp_path.iterdir())) == 1
    again = searching(tmp_path, True)
    assert again.levels == whole.levels
    assert again.cost.queries_by_stage == whole.cost.queries_by_stage
    assert again.scores.tobytes() == whole.scores.tobytes()
    for mine, yours in zip(again.particles, whole.particles, strict=True):
        assert mine.tobytes() == yours.tobytes()
    assert np.asarray(again.trigger.mask).tobytes() == np.asarray(whole.trigger.mask).tobytes()
    assert again.log10_prob == whole.log10_prob
    with pytest.raises(SavingError, match="begun with another seed"):
        Saved(tmp_path, {"seed": 5}, True)
    Saved(tmp_path, {"seed": 4}, True).remove()
    assert not list(tmp_path.iterdir())


def test_a_search_that_was_over_soon_is_kept_when_what_follows_is_ended(tmp_path):
    kept = Saved(tmp_path, {"seed": 4}, False)
    kept.get("search", START)
    kept.put("search", START, {"level": 1})
    kept.put("search", START, {"level": 2})
    assert not list(tmp_path.iterdir())  # it was begun a moment ago
    kept.write_all(mark=True)
    assert len(list(tmp_path.iterdir())) == 1
    assert Saved(tmp_path, {"seed": 4}, True).get("search", START).said == {"level": 2}


def test_a_run_that_was_ended_before_its_search_can_be_resumed_with_the_same_arguments(tmp_path):
    Saved(tmp_path, {"seed": 4}, False).write_all(mark=True)
    again = Saved(tmp_path, {"seed": 4}, True)
    assert again.paths()
    assert again.get("search", START) is None
    with pytest.raises(SavingError, match="begun with another seed"):
        Saved(tmp_path, {"seed": 5}, True)


START = {"particles": np.arange(8, dtype=np.float32), "scores": np.array([1.0, -np.inf, 3.0])}


@pytest.mark.parametrize("name", ["particles", "scores"])
def test_another_model_of_the_same_name_is_no_model_to_go_on_with(name, tmp_path):
    kept = Saved(tmp_path, {"seed": 4}, False)
    kept.get("search", START)
    kept.put("search", START, {}, now=True)
    rounded = START | {name: START[name] * 1.001}
    assert Saved(tmp_path, {"seed": 4}, True).get("search", rounded) is not None
    other = START | {name: START[name] * 1.5}
    with pytest.raises(SavingError, match="another model or with other probes"):
        Saved(tmp_path, {"seed": 4}, True).get("search", other)


# What is left of a run.


def kept(folder, resume=False, free=False, **said):
    """What is kept of a run with ``folder``, of a model that costs anything to ask again or not."""
    given = {
        "command": "recover", "out": str(folder), "resume": resume, "dollars": None,
        "model": "python:mine:f", "price": None,
    }  # fmt: skip
    oracle = open_model("python:odd_models_by_hand:plain")
    if free:
        oracle = open_model(backdoored, image_shape=IMAGE_SHAPE)
    return models.kept(exits_args(**given | said), oracle, "recover-0-0")


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize(
    "error", [Inconclusive("one class."), ModelError("no shape."), KeyboardInterrupt()]
)
def test_a_run_that_came_to_nothing_leaves_nothing(error, free, tmp_path):
    def fails():
        with kept(tmp_path / "out", free=free) as found:
            if not free and not isinstance(error, KeyboardInterrupt):
                found.journal.sending(3)
                found.journal.vain = isinstance(error, ModelError)
            raise error

    with pytest.raises(type(error)):
        fails()
    if free or not isinstance(error, KeyboardInterrupt):
        assert not list(tmp_path.iterdir())
    else:  # opening it took an image
        assert list(contents(tmp_path)) == [f"out/{NAME}"]


def test_the_first_look_says_whether_answers_are_of_any_use(tmp_path):
    for name, vain in (("nan", True), ("dropping", True), ("hungry", False), ("plain", False)):
        journal = Journal(tmp_path / f"{name}.jsonl", {}, False)
        options = ModelOptions(classes=3)
        oracle = open_model(f"python:odd_models_by_hand:{name}", options=options)
        with contextlib.suppress(ModelError):
            Run(oracle, budget=100, journal=journal).examine()
        assert journal.vain == vain, name
        journal.close()


@pytest.mark.parametrize("free", [True, False])
def test_what_is_paid_for_or_searched_is_kept_until_the_result_is_whole(free, tmp_path):
    out = tmp_path / "out"
    with kept(out, free=free) as found:
        if not free:
            found.journal.sending(3)
        folders.put_files(out, {"recovery.json": b"partial"})  # and it is not done
    names = found.names()
    assert sorted(path.name for path in out.iterdir()) == sorted(["recovery.json", *names])
    assert len(names) == 1 if not free else names == ["saved-begun.npz"]
    with kept(out, free=free, resume=True) as found:
        found.done()
    assert [path.name for path in out.iterdir()] == ["recovery.json"]
    with pytest.raises(exits.UsageError, match=r"has ended, with its result in recovery\.json"):
        kept(out, free=free, resume=True).__enter__()


def test_what_another_kind_of_run_left_goes_with_the_result_that_it_was_of(tmp_path):
    out = tmp_path / "out"
    folders.put_files(out, {NAME: b"of another run", "recovery.json": b"old"})
    args = exits_args(out=str(out), overwrite=True, model="shipped")
    with kept(out, free=True) as found:
        inputs.write(args, out, {"recovery.json": b"new"}, found.names())
        found.done()
    assert contents(out) == {"recovery.json": b"new"}


def test_a_file_that_holds_another_model_is_not_resumed_with(tmp_path):
    path, out = tmp_path / "model.onnx", tmp_path / "out"
    path.write_bytes(b"first")
    spec = f"onnx:{path}"
    with kept(out, model=spec) as found:
        found.journal.sending(3)
    path.write_bytes(b"second")
    with pytest.raises(JournalError, match="begun with another model file"):
        kept(out, model=spec, resume=True).__enter__()
    path.write_bytes(b"first")
    with kept(out, model=spec, resume=True) as found:
        found.done()
    assert not list(out.iterdir())


# The journal on a full disk.


def test_a_full_disk_ends_a_run_before_it_pays_and_keeps_what_was_paid_for(tmp_path):
    path, asked = tmp_path / NAME, []

    def ask(images, sending):
        asked.append(len(images))
        return images.reshape(len(images), -1)[:, :3]

    def answers(resume, numbers):
        journal = Journal(path, {"seed": 0}, resume)
        model = HostAnswers("model", ask, "logits", 3, lambda x: x, batch=None, most=None)
        books = Books(Ledger(1_000), journal)
        try:
            for number in numbers:
                model(np.full((number, 2, 2, 1), number / 9, np.float32), books)
        finally:
            journal.close()

    answers(False, (1, 2))
    whole = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 100, hard))
    try:
        with pytest.raises(JournalError, match=r"cannot be written \(.+\), so nothing more"):
            answers(True, (1, 2, 3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert asked == [1, 2]
    assert path.read_bytes() == whole
    answers(True, (1, 2, 3))
    assert asked == [1, 2, 3]


# Purifying.


def test_purify_writes_what_it_knew_when_it_was_interrupted(home, monkeypatch):
    recovery = a_recovery(shape=odd.SHAPE)
    arrays = {
        "trigger": trigger_arrays(recovery.trigger),
        "planted": trigger_arrays(recovery.planted_trigger),
        "particles": {"scores": recovery.scores, "row": recovery.scores},
        "probes": {"images": recovery.probes},
        "support": {"inclusion": recovery.inclusion},
    }
    (home / "r").mkdir()
    for name, some in arrays.items():
        np.savez(home / "r" / f"{name}.npz", **some)
    write_files("r", {"recovery.json": json.dumps(recovery_content(recovery)).encode()})
    np.savez("images.npz", images=np.full((9, *odd.SHAPE), 0.5, np.float32))
    monkeypatch.setattr(purify, "CHUNK", 4)

    class Interrupted:
        queries = 4

        def __init__(self, run, found):
            self.number = 0

        def __call__(self, images):
            self.number += 1
            if self.number == 2:
                raise KeyboardInterrupt
            outputs = odd.colours(images)
            return outputs, np.zeros(len(images), bool), outputs

    import restore_jax.purification

    monkeypatch.setattr(restore_jax.purification, "Defended", Interrupted)
    monkeypatch.setattr(restore_jax.purification, "defences", lambda *_: [])
    code, out, err = call("purify", "--model", "python:odd_models_by_hand:plain", "--recovery", "r",
                          "--images", "images.npz", "--out", "out", "--json")  # fmt: skip
    assert code == 130, err
    said = json.loads(out)
    assert (said["interrupted"], said["num_images"], said["of_images"]) == (True, 4, 9)
    assert len((home / "out" / "predictions.csv").read_text().splitlines()) == 5
    assert "Interrupted after 4 of 9 images." in (home / "out" / "report.html").read_text()
    assert (home / "out" / NAME).exists()
