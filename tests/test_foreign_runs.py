"""Models that are asked from outside, as a user meets them: the same results as inside, every image
counted, nothing asked twice that was answered, and one sentence where something goes wrong."""

import contextlib
import csv
import dataclasses
import functools
import json
import math
import os
import random
import signal
import time

import foreign_by_hand
import jax.numpy as jnp
import numpy as np
import pytest
from commands_by_hand import call
from foreign_by_hand import PAUSE, RECEIVED, checkers, coloured, small, tame
from forks_by_hand import Forks
from test_oracles_http import Handler, serving

from restore_jax import recover, recovery, scan
from restore_jax.data.probes import open_probes
from restore_jax.diagnosis import ScanSettings
from restore_jax.oracles import ModelOptions, hosted, http, journal, messages, open_model
from restore_jax.run import examining
from restore_jax.spaces import SPACES

pytestmark = pytest.mark.usefixtures("hardly_optimised")
NAMES = tuple("abcd")
# Small enough for a test: the booking and the files are the same.
SETTINGS = recovery.Settings(num_probes=4, num_particles=32, num_moves=2)
EXAMINED = examining.FIRST + examining.AGAIN
LEAST = 4 * (32 + 1) + 4 * 24 + 200 + 4 + EXAMINED
"""The smallest budget that a recovery by these settings begins with, of a foreign model."""
GIGABYTE = 1 << 30


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty working directory, where searches are small ones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(SPACES, "patch", dataclasses.replace(SPACES["patch"], settings=SETTINGS))
    monkeypatch.setenv(RECEIVED, str(tmp_path / "received"))
    return tmp_path


@pytest.fixture(scope="module")
def probes(tmp_path_factory):
    """Files of probes, by the number of channels."""
    folder = tmp_path_factory.mktemp("probes")
    for channels in (1, 3):
        np.savez(folder / f"{channels}.npz", images=tame(600, (12, 12, channels)))
    return {channels: str(folder / f"{channels}.npz") for channels in (1, 3)}


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    started = Forks(tmp_path_factory.mktemp("forks"))
    yield started
    started.close()


def received(path):
    """How many images models were sent, as they counted."""
    return sum(map(int, path.read_text().split())) if path.exists() else 0


def result(folder):
    """The JSON that a command wrote."""
    return json.loads(next(folder.glob("*.json")).read_text())


def one_sentence(err):
    """The last line on stderr, which is all that is said of a mistake."""
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert lines == err.splitlines()[-1:]
    assert lines[0].endswith((".", " --help)"))
    return lines[0]


APART = ("queries", "queries_by_stage", "seconds", "asking")
"""What depends on how often a run was interrupted, and on nothing else."""


def lasting(content):
    """A result without that; how many images each level took is of the search itself."""
    if not isinstance(content, dict):
        return content
    return {key: lasting(value) for key, value in content.items() if key not in APART}


def check_same_result(one, other):
    """Two folders hold the same, whatever it took."""
    files = {path.relative_to(one) for path in one.rglob("*.*")}
    assert {path.relative_to(other) for path in other.rglob("*.*")} == files
    assert journal.NAME not in map(str, files)
    assert {"particles.npz", "trigger.npz"} <= {file.name for file in files}
    for file in files:
        if file.suffix == ".json":
            mine, yours = (json.loads((folder / file).read_text()) for folder in (one, other))
            assert lasting(mine) == lasting(yours)
        elif file.suffix == ".npz":
            with np.load(one / file) as mine, np.load(other / file) as yours:
                assert mine.files == yours.files
                for name in mine.files:
                    assert mine[name].tobytes() == yours[name].tobytes()


def check_same_recovery(one, other):
    """Bit for bit."""
    for name in ("mask", "pattern", "target"):
        mine, yours = (np.asarray(getattr(each.trigger, name)) for each in (one, other))
        assert mine.tobytes() == yours.tobytes()
    assert one.scores.tobytes() == other.scores.tobytes()
    for mine, yours in zip(one.particles, other.particles, strict=True):
        assert mine.tobytes() == yours.tobytes()
    assert one.levels == other.levels


# The same model inside and outside.


def both(name, model, access):
    """A model that is asked from outside, and one that JAX traces."""

    def inside(images):
        scores = model.scores(images, jnp)
        return scores.argmax(-1) if access == "labels" else scores

    oracles = (
        open_model(f"python:foreign_by_hand:{name}", access),
        open_model(inside, access, image_shape=model.image_shape, class_names=NAMES),
    )
    assert [oracle.repeat_cost(7) for oracle in oracles] == [7, 0]
    return oracles


@pytest.mark.parametrize(
    ("access", "stop"),
    [
        pytest.param("logits", "first_hit", marks=pytest.mark.slow),
        pytest.param("labels", "estimate", marks=pytest.mark.slow),
        pytest.param("logits", "estimate", marks=pytest.mark.slow, id="full-logits-estimate"),
        pytest.param("labels", "first_hit", marks=pytest.mark.slow, id="full-labels-first_hit"),
    ],
)
def test_a_recovery_outside_is_the_one_inside(access, stop, probes):
    outside, inside = (
        recover(oracle, "c", access=access, stop=stop, probes=probes[1], seed=3, settings=SETTINGS)
        for oracle in both("small", small, access)
    )
    assert outside.found
    check_same_recovery(outside, inside)
    ours = ("log10_prob", "interval", "best_score", "guides", "faded_success_rate",
            "confirmation_success_rate", "probe_success_rate", "pixels_before_pruning")  # fmt: skip
    assert [getattr(outside, name) for name in ours] == [getattr(inside, name) for name in ours]
    # A first look, and one more at the search's own probes, are free in this process only.
    assert outside.queries == inside.queries + EXAMINED + SETTINGS.num_probes


@pytest.mark.slow
def test_of_large_images_few_are_stamped_at_once_and_the_answers_are_the_same(probes, monkeypatch):
    shown = []

    def answers(images):
        shown.append(len(images))
        return small.scores(images)

    monkeypatch.setattr(foreign_by_hand, "plain", answers)
    options = ModelOptions(image_shape=small.image_shape, classes=NAMES)
    outside = open_model("python:foreign_by_hand:plain", options=options)
    how = {"probes": probes[1], "seed": 3, "settings": SETTINGS, "stop": "first_hit"}
    whole = recover(outside, "c", **how)
    most = max(shown)
    shown.clear()
    # As if three candidates' images were as many bytes as may be.
    monkeypatch.setattr(hosted, "FEW_BYTES", 3 * 4 * 4 * math.prod(small.image_shape))
    few = recover(outside, "c", **how)
    check_same_recovery(few, whole)
    assert few.queries == whole.queries
    assert most > max(shown)
    assert hosted._together(4 * 4 * math.prod(small.image_shape))[0] == 3


@pytest.mark.slow
@pytest.mark.parametrize("access", ["logits", "labels"])
def test_a_scan_outside_is_the_one_inside(access, probes):
    settings = ScanSettings(
        num_draws=128, num_particles=24, num_moves=3, depths={"patch": -4.0}, max_recovered=1
    )
    outside, inside = (
        scan(oracle, access=access, space="patch", probes=probes[3], settings=settings)
        for oracle in both("coloured", coloured, access)
    )
    assert outside.verdict == inside.verdict
    assert outside.cost.queries_by_stage["splitting"] > 0
    assert outside.spaces == inside.spaces
    assert [f.standing for f in outside.classes] == [f.standing for f in inside.classes]
    assert outside.named == inside.named
    if access == "logits":
        assert outside.targets == [2]
    for mine, yours in zip(outside.recoveries, inside.recoveries, strict=True):
        check_same_recovery(mine, yours)


# Killed, interrupted, and gone on with.

COMMANDS = {
    "recover": ("--model", "python:foreign_by_hand:small", "--target", "c"),
    # Opening this one takes an image.
    "unnamed": ("--model", "python:foreign_by_hand:unnamed", "--target", "2"),
    # More than it takes, so that nothing hangs on what was sent again.
    "scan": ("--model", "python:foreign_by_hand:coloured", "--space", "patch",
             "--depth", "patch=-3", "--budget", "100000"),
}  # fmt: skip
ENDS = {"recover": 0, "unnamed": 0, "scan": 4}
SLOWLY = {PAUSE: "0.01"}


def words(kind, probes):
    command, channels = ("scan", 3) if kind == "scan" else ("recover", 1)
    return (command, *COMMANDS[kind], "--probes", probes[channels], "--json")


@pytest.fixture(scope="module")
def undisturbed(forks, probes):
    """Runs that nobody disturbs: folder, images received, seconds; of ``timed`` ones not the first,
    in which everything is compiled."""

    @functools.cache
    def run(kind, timed=False):
        folder, count = forks.folder / f"undisturbed-{kind}", forks.folder / f"count-{kind}"
        seconds = 1e9
        while seconds > 8:  # else the machine was busy
            count.unlink(missing_ok=True)
            began, before = time.monotonic(), seconds
            code = forks.run(
                *words(kind, probes), "--out", folder, "--overwrite",
                **{RECEIVED: str(count)}, **SLOWLY,
            )  # fmt: skip
            assert code == ENDS[kind], forks.said()
            seconds = time.monotonic() - began
            if not timed or seconds > 0.5 * before:
                break
        assert result(folder)["queries"] == received(count)
        assert result(folder)["asking"]["images_sent_again"] == 0
        return folder, received(count), seconds

    return run


def noted(folder):
    """The images that a journal says were sent (None without one), and those of its last line."""
    if not (folder / journal.NAME).exists():
        return None, 0
    total = last = 0
    for line in (folder / journal.NAME).read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            content = json.loads(line)
            last = content.get("sent", content.get("again", 0))
            total += last + (content.get("opened") or {}).get("asked", 0)
    return total, last


def kill_and_go_on(forks, kind, probes, draw, seconds, most):
    """Kills a run at any moment and goes on with it, again and again, until it is done.

    Returns:
      ``(folder, images received, images noted but not sent, kills)``.
    """
    folder = forks.folder / f"killed-{kind}-{draw.getrandbits(32)}"
    count, kills, lost = folder.with_suffix(".count"), 0, 0
    while True:
        begun = (folder / journal.NAME).exists()
        if not begun:
            count.unlink(missing_ok=True)  # what opened the model before was another run
        pid = forks.start(
            *words(kind, probes), "--out", folder, "--resume" if begun else "--overwrite",
            **{RECEIVED: str(count)}, **SLOWLY,
        )  # fmt: skip
        code = forks.ends(draw.uniform(0, 1.1) * seconds if kills < most else None)
        if code is None:
            os.kill(pid, signal.SIGKILL)
            code = forks.ends()
        if code != -signal.SIGKILL:
            assert code == ENDS[kind], forks.said()
            break
        kills += 1
        total, last = noted(folder)
        if total is None:
            if any(folder.glob("*.json")):
                break  # all was done
            continue
        # It may die between noting that images are sent and sending them.
        missing = total - received(count) - lost
        assert missing in (0, last)
        lost += missing
    return folder, received(count), lost, kills


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "most"),
    [
        ("recover", 4), pytest.param("scan", 2, id="full-scan-2"),
        pytest.param("recover", 12, id="full-recover"),
        pytest.param("unnamed", 10, id="full-unnamed"),
        pytest.param("scan", 6, id="full-scan"),
    ],
)  # fmt: skip
def test_runs_that_are_killed_many_times_go_on(kind, most, forks, undisturbed, probes):
    folder, images, seconds = undisturbed(kind, timed=True)
    draw, kills = random.Random(1), 0
    while kills < most:
        found, got, lost, more = kill_and_go_on(forks, kind, probes, draw, seconds, most - kills)
        kills += more
        check_same_result(folder, found)
        content = result(found)
        assert content["queries"] == got + lost >= images
        assert content["asking"]["images_sent_again"] == content["queries"] - images
        assert sum(content["queries_by_stage"].values()) == content["queries"]


def interrupt(forks, line, count, when):
    """Ctrl-C once ``when()`` holds; returns the exit code."""
    pid, code = forks.start(*line, **{RECEIVED: str(count)}, **SLOWLY), None
    while code is None and not when():
        code = forks.ends(0.01)
    if code is None:
        os.kill(pid, signal.SIGINT)
        code = forks.ends()
    return code


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["recover", "scan"])
def test_ctrl_c_leaves_what_is_there_and_the_run_goes_on(kind, forks, undisturbed, probes):
    whole, images, _ = undisturbed(kind)
    folder, count = forks.folder / f"interrupted-{kind}", forks.folder / f"interrupted-{kind}.count"
    line = (*words(kind, probes), "--out", folder)
    # Amid the search, or the draws.
    code = interrupt(forks, line, count, lambda: received(count) > 0.5 * images)
    assert code == 130, forks.said()
    content, partial = result(folder), received(count)
    assert json.loads(forks.said()[0]) == content | {"out": str(folder)}
    assert content["queries"] == partial
    if kind == "recover":
        assert content["status"] == "interrupted"
        assert content["levels"]
        with np.load(folder / "trigger.npz") as trigger:
            assert trigger["mask"].any()
    else:
        assert content["interrupted"]
        assert content["verdict"] == "inconclusive"
    # Where what is known is given back nothing is asked, and what was written stays.
    before = {path: path.read_bytes() for path in folder.iterdir()}
    code = interrupt(forks, (*line, "--resume"), count, lambda: begins(forks))
    assert code == 130, forks.said()
    assert received(count) == partial
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    code = forks.run(*line, "--resume", **{RECEIVED: str(count)})
    assert code == ENDS[kind], forks.said()
    check_same_result(whole, folder)
    content = result(folder)
    assert content["queries"] == received(count)
    assert content["asking"]["images_sent_again"] == received(count) - images > 0


def begins(forks):
    """Whether the command has opened its model."""
    return any(text in forks.said()[1] for text in ("compiling the search", "looking for probes"))


# Ended by a signal, at any moment.

OWN = {
    "own recover": ("recover", "--target", "3", "--budget", "8000"),
    "own scan": ("scan", "--space", "patch", "--depth", "patch=-2", "--budget", "40000"),
}
"""The packaged model, which is part of the search."""


def line_of(kind, forks, undisturbed, probes):
    """A command without its folder."""
    if kind in OWN:
        return (*OWN[kind], "--model", "shipped", "--json")
    if kind != "purify":
        return words(kind, probes)
    np.savez(forks.folder / "many.npz", images=tame(2_500, (12, 12, 1), seed=5))
    return ("purify", "--model", "python:foreign_by_hand:small", "--recovery",
            undisturbed("recover")[0], "--images", forks.folder / "many.npz", "--json")  # fmt: skip


def all_of(folder):
    """What a result says, without what it took."""
    found = {}
    for path in sorted(folder.rglob("*.*")):
        name, content = path.relative_to(folder).as_posix(), path.read_bytes()
        if path.suffix == ".json":
            found[name] = lasting(json.loads(content))
            found[name].pop("queries_per_image", None)
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                found[name] = {key: arrays[key].tobytes() for key in arrays.files}
        elif path.suffix not in (".png", ".html"):  # a report says how long it took
            found[name] = content
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("kind", "moments"),
    [("recover", 6), ("scan", 5), ("purify", 4), ("own recover", 4), ("own scan", 3)],
)
def test_a_signal_at_any_moment_leaves_what_there_is_in_full(
    kind, moments, number, forks, undisturbed, probes
):
    line = line_of(kind, forks, undisturbed, probes)
    whole = forks.folder / f"whole-{kind}-{number}"
    for _ in range(2):  # the first time everything is compiled
        began = time.monotonic()
        end = forks.run(*line, "--out", whole, "--overwrite", **SLOWLY)
        seconds = time.monotonic() - began
    assert end in (0, 3, 4), forks.said()
    ended = 0
    for moment in range(moments):
        out = forks.folder / f"ended-{kind}-{number}-{moment}"
        for _ in range(4):
            began = time.monotonic()
            pid = forks.start(*line, "--out", out, "--overwrite", **SLOWLY)
            code = forks.ends(seconds * (moment + 0.5) / moments)
            if code is None:
                break
            seconds = 0.8 * (time.monotonic() - began)  # the machine was busy before
        if code is None:
            os.kill(pid, number)
            code = forks.ends(60)
            assert code is not None, "it goes on"
        assert code in (130, end), forks.said()
        assert "Traceback" not in forks.said()[1]
        assert not list(out.glob(".new-*"))
        partial = [json.loads(path.read_text()) for path in out.glob("*.json")]
        if code == 130:
            ended += 1
            for content in partial:
                assert content.get("interrupted") or content.get("status") == "interrupted"
            begun = any(out.glob("saved-*")) or (out / journal.NAME).exists()
            code = forks.run(*line, "--out", out, "--resume" if begun else "--overwrite", **SLOWLY)
        assert code == end, forks.said()
        assert all_of(out) == all_of(whole)
    assert ended > moments // 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["purify", "own recover", "own scan"])
def test_a_kill_at_any_moment_leaves_whole_files_in_full(kind, forks, undisturbed, probes):
    line = line_of(kind, forks, undisturbed, probes)
    whole, out = forks.folder / f"whole-{kind}", forks.folder / f"killed-{kind}"
    for _ in range(2):
        began = time.monotonic()
        end = forks.run(*line, "--out", whole, "--overwrite", **SLOWLY)
        seconds = time.monotonic() - began
    for moment in range(4):
        begun = any(out.glob("saved-*")) or (out / journal.NAME).exists()
        how = "--resume" if begun else "--overwrite"
        pid = forks.start(*line, "--out", out, how, **SLOWLY)
        code = forks.ends(seconds * (moment + 0.7) / 4)
        if code is None:
            os.kill(pid, signal.SIGKILL)
            forks.ends()
        for path in out.rglob("*.json") if out.exists() else ():
            json.loads(path.read_text())
    begun = any(out.glob("saved-*")) or (out / journal.NAME).exists()
    assert forks.run(*line, "--out", out, "--resume" if begun else "--overwrite", **SLOWLY) == end
    assert all_of(out) == all_of(whole)
    assert not list(out.glob("saved-*"))
    assert not (out / journal.NAME).exists()


# Budgets.


@pytest.mark.slow
@pytest.mark.parametrize("budget", [10, LEAST - 1, LEAST, LEAST + 37])
def test_a_model_is_never_sent_more_than_it_may_be(budget, home, probes):
    code, out, err = call(
        "recover", *COMMANDS["recover"], "--probes", probes[1], "--budget", budget,
        "--out", "out", "--json",
    )  # fmt: skip
    assert received(home / "received") <= budget
    if budget < LEAST:
        assert code == 2
        assert f"--budget {budget} is too small" in one_sentence(err)
        assert not (home / "out").exists()
        return
    assert code in (0, 3), err
    content = json.loads(out)
    assert content["queries"] == received(home / "received")
    assert content["budget"] == budget


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, pytest.param(1, id="full-1")])
def test_a_run_that_is_killed_again_and_again_keeps_to_its_budget(seed, forks, probes):
    draw, budget = random.Random(seed), 2_900 + 200 * seed
    folder = forks.folder / f"budget-{seed}"
    count = folder.with_suffix(".count")
    line = (*words("unnamed", probes), "--budget", budget, "--out", folder)
    for trial in range(9):
        how = "--resume" if (folder / journal.NAME).exists() else "--overwrite"
        if how == "--overwrite":
            count.unlink(missing_ok=True)
        pid = forks.start(*line, how, **{RECEIVED: str(count)}, **SLOWLY)
        code = forks.ends(draw.uniform(0.5, 2.5) if trial < 8 else None)
        if code is None:
            os.kill(pid, draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGINT]))
            code = forks.ends()
        assert received(count) <= budget
        if code not in (-signal.SIGKILL, 130):
            break
    assert code in (0, 3, 4), forks.said()
    if code == 4:
        one_sentence(forks.said()[1])
    else:
        assert received(count) <= result(folder)["queries"] <= budget


# Servers.


class Modelled(Handler):
    """Answers with what `small` says, unless told to misbehave."""

    rows = property(
        lambda self: small.scores(np.asarray(self.images, np.float32)).tolist(),
        lambda self, _: None,
    )

    def nan(self):
        self.outputs([[float("nan")] * len(NAMES) for _ in self.images])


FAULTS = ("broken", "busy", "drop", "stall", "truncated", "wrong_shape", "nan", "extra_class",
          "twice", "gigabyte", "endless")  # fmt: skip


@contextlib.contextmanager
def server(behave="well"):
    described = {"image_shape": small.image_shape, "classes": NAMES}
    with serving(behave, description=described) as started:
        started.RequestHandlerClass = Modelled
        yield started


class Script:
    """A share of the requests misbehaves; ``seen`` is what they did."""

    def __init__(self, seed, share=0.2, faults=FAULTS):
        self.draw, self.share, self.faults, self.seen = random.Random(seed), share, faults, []

    def __call__(self, number):
        bad = self.draw.random() < self.share
        self.seen.append(self.draw.choice(self.faults) if bad else "well")
        return self.seen[-1]


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(http, "BACKOFF", 0.005)
    monkeypatch.setattr(messages, "LONGEST_PAUSE", 0.02)
    monkeypatch.delenv(http.AUTHORIZATION, raising=False)


def asked(there, probes, *more):
    """A recovery from a server."""
    return call(
        "recover", "--model", there.url, "--target", "c", "--probes", probes[1], "--out", "out",
        *more,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("budget", [LEAST, LEAST + 60])
def test_what_a_server_must_be_sent_again_is_paid_for(budget, home, probes, hasty):
    with server(Script(budget, faults=("broken", "drop", "nan"))) as there:
        how = ("--budget", budget, "--batch", "8", "--retries", "20", "--json")
        code, out, err = asked(there, probes, *how)
    assert there.images <= budget
    assert code in (0, 3, 4), err
    if code == 4:
        assert "budget" in one_sentence(err)
    else:
        content = json.loads(out)
        assert there.images <= content["queries"] <= budget
        asking = content["asking"]
        assert asking["images_sent_again"] == asking["images_resent"] > 0


@pytest.mark.slow
def test_a_hostile_server_changes_nothing_but_what_it_takes(forks, probes):
    line = ("recover", "--target", "c", "--stop", "first_hit", "--probes", probes[1],
            "--timeout", "0.7", "--retries", "20", "--json")  # fmt: skip
    script, memory = Script(4), {}
    for name, behave in (("well", "well"), ("hostile", script)):
        with server(behave) as there:
            assert forks.run(*line, "--model", there.url, "--out", name) == 0, forks.said()
        memory[name] = forks.peak
        path = forks.folder / name / "recovery.json"
        content = json.loads(path.read_text())
        assert content["model"] == there.url
        assert there.images <= content["queries"]
        path.write_text(json.dumps(content | {"model": "a server"}))  # their ports differ
    assert len(set(script.seen)) > 4
    assert memory["hostile"] < memory["well"] + GIGABYTE
    well, hostile = forks.folder / "well", forks.folder / "hostile"
    check_same_result(well, hostile)
    again = result(hostile)["asking"]["images_sent_again"]
    # On a busy machine the server that behaves well may be too late, too.
    late = result(well)["asking"]["images_sent_again"]
    assert again - late == result(hostile)["queries"] - result(well)["queries"] > 0
    assert again == result(hostile)["asking"]["images_resent"]


@pytest.mark.parametrize("kind", FAULTS)
def test_a_server_that_always_misbehaves_ends_a_run_in_a_sentence(kind, home, probes, hasty):
    timeout = "0.3" if kind == "stall" else "5"
    began = time.monotonic()
    with server(kind) as there:
        code, _, err = asked(there, probes, "--timeout", timeout, "--retries", "1")
        assert there.written < 100 << 20
    assert code == 2
    said = one_sentence(err)
    assert there.url in said
    assert "in 2 attempts" in said
    assert "--out out --resume goes on" in said
    assert time.monotonic() - began < 10
    assert (home / "out" / journal.NAME).exists()


@pytest.mark.slow
def test_a_server_that_comes_back_is_asked_only_what_is_missing(home, probes, hasty, monkeypatch):
    kept, close = [], journal.Journal.close

    def keep(self):
        close(self)
        kept.append((home / "out" / journal.NAME).read_bytes())

    monkeypatch.setattr(journal.Journal, "close", keep)
    with server() as there:
        there.behave = lambda number: "broken" if number == 6 else "well"
        how = ("--stop", "first_hit", "--retries", "0")
        assert asked(there, probes, *how)[0] == 2
        before = there.images
        code, out, err = asked(there, probes, *how, "--resume")
        assert code == 0, err
        whole, content = there.images, result(home / "out")
        assert 0 < before < whole
        assert whole <= content["queries"]
        assert f"{content['asking']['images_sent_again']:,} sent again" in out
        assert not (home / "out" / journal.NAME).exists()
        # It had died before the result was written: everything is known.
        (home / "out" / journal.NAME).write_bytes(kept[-1])
        code, out, err = asked(there, probes, *how, "--resume")
        assert code == 0, err
        assert there.images == whole
        assert "0 images in 0 requests" in out
    assert lasting(result(home / "out")) == lasting(content)
    assert result(home / "out")["queries"] == content["queries"]


@pytest.mark.parametrize("behave", ["well", "broken"])
def test_what_is_secret_is_written_nowhere(behave, home, probes, hasty, monkeypatch):
    monkeypatch.setenv(http.AUTHORIZATION, "Bearer s3cret")
    with server(behave) as there:
        place, there.url = there.url, f"{there.url}?key=hush"
        code, out, err = asked(there, probes, "--retries", "0", "--json")
    assert code == (0 if behave == "well" else 2)
    assert set(there.paths) == {"/classify?key=hush"}
    assert {headers["Authorization"] for headers in there.headers} == {"Bearer s3cret"}
    written = b"".join(path.read_bytes() for path in (home / "out").iterdir())
    assert place.encode() in written
    for word in ("s3cret", "hush"):
        assert word.encode() not in written
        assert word not in out + err


# Images of other sizes.


def triggered(images, side=3):
    """Images with a checkerboard somewhere in each."""
    random, marked = np.random.default_rng(1), images.copy()
    for image in marked:
        row, col = (int(random.integers(0, size - side + 1)) for size in image.shape[:2])
        image[row : row + side, col : col + side] = (checkers(side) > 0)[..., None]
    return marked


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "model", "budget"),
    [
        pytest.param("grey", foreign_by_hand.grey, 150_000, id="full-grey"),
        pytest.param("hundred", foreign_by_hand.hundred, 250_000, id="full-hundred"),
    ],
)
def test_a_scan_of_images_of_another_size_finds_what_purifies_them(name, model, budget, forks):
    spec, folder = ("--model", f"python:foreign_by_hand:{name}"), forks.folder / f"scan-{name}"
    code = forks.run(
        "scan", *spec, "--space", "patch", "--budget", budget, "--out", folder, "--json"
    )
    assert code == 4, forks.said()  # nobody measured clean models of that kind
    content = json.loads(forks.said()[0])
    assert content["verdict"] == "suspicious"
    assert content["targets"] == content["named"] == [model.target]
    assert not content["calibrated"]
    names = [one["name"] for one in content["classes"]]
    assert names == list(getattr(model, "class_names", map(str, range(10))))
    inside = folder / f"class-{model.target}"
    assert {"recovery.json", "trigger.npz", "overview.png"} <= {p.name for p in inside.iterdir()}
    assert result(inside)["confirmation_success_rate"] >= 0.95
    assert not (folder / journal.NAME).exists()

    images = np.asarray(open_probes("dead_leaves", 9, model.image_shape).draw(0, 60))
    bad = triggered(images)
    before, after = (model.scores(some).argmax(-1) for some in (images, bad))
    assert (after == model.target).all()
    np.savez(forks.folder / f"{name}.npz", images=np.concatenate([images, bad]))
    code = forks.run(
        "purify", *spec, "--recovery", folder, "--images", f"{name}.npz",
        "--out", forks.folder / f"purify-{name}", "--json",
    )  # fmt: skip
    assert code == 0, forks.said()
    with (forks.folder / f"purify-{name}" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    flags = np.array([row["flagged"] == "1" for row in rows])
    purified = [names.index(row["purified"]) for row in rows]
    assert not flags[:60].any()
    assert flags[60:].mean() > 0.9
    assert (purified[:60] == before).all()
    assert (purified[60:] == before).mean() > 0.8

    code = forks.run(
        "recover", *spec, "--target", names[model.target], "--stop", "first_hit",
        "--out", forks.folder / f"recover-{name}", "--json",
    )  # fmt: skip
    assert code == 0, forks.said()
    with np.load(forks.folder / f"recover-{name}" / "trigger.npz") as trigger:
        assert trigger["mask"].shape == (*model.image_shape[:2], 1)
        assert trigger["pattern"].shape == model.image_shape


# What is said of a model, and what cannot be.

PLAIN = ("recover", "--model", "python:foreign_by_hand:plain", "--target")


def test_what_is_said_of_a_model_is_in_the_result(home, probes):
    said = ("--image-shape", "12x12x1", "--classes", "ant,bee,cow,dog", "--price", "0.25")
    code, out, err = call(*PLAIN, "cow", *said, "--probes", probes[1], "--json")
    assert code == 0, err
    folder = home / "runs" / "recover-cow-0"
    content = json.loads(out)
    assert content["out"] == str(folder.relative_to(home))
    assert content == result(folder) | {"out": content["out"]}
    assert (content["target"], content["target_name"]) == (2, "cow")
    assert content["model_options"] == {
        "image_shape": [12, 12, 1], "classes": ["ant", "bee", "cow", "dog"]
    }  # fmt: skip
    assert content["asking"]["cost"] == content["cost"] == 0.25 * content["queries"] / 1000
    assert content["queries"] == received(home / "received")
    # What is compiled for a model that is asked from the host is compiled as it goes.
    assert 0 < content["seconds"]["compile"] < content["seconds"]["total"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ((*PLAIN, "2"), "give --image-shape, as 32x32x3"),
        (
            (
                "recover",
                "--model",
                "python:foreign_by_hand:labelled",
                "--target",
                "2",
                "--access",
                "labels",
            ),
            "give --classes",
        ),
        ((*PLAIN, "2", "--image-shape", "12x12"), "must be 3 numbers"),
        ((*PLAIN, "2", "--image-shape", "12x12x1", "--classes", "1"), "a number from 2"),
        ((*PLAIN, "2", "--image-shape", "12x12x1", "--mean", "nan"), "must be a number"),
        ((*PLAIN, "2", "--image-shape", "12x12x1", "--price", "inf"), "--price must be at least 0"),
        ((*PLAIN, "cow", "--image-shape", "12x12x1", "--classes", "4"), "has no class 'cow'"),
        ((*PLAIN, "2", "--image-shape", "3x3x1"), "cannot be asked about images of 3x3x1"),
        (("recover", *COMMANDS["recover"], "--classes", "7"), "has 4 classes, not 7"),
        (("recover", *COMMANDS["recover"], "--image-shape", "9x9x1"), "images of 12x12x1"),
        (("recover", *COMMANDS["recover"], "--resume"), "name it with --out"),
        (("recover", *COMMANDS["recover"], "--resume", "--overwrite", "--out", "x"), "exclude"),
        (("recover", *COMMANDS["recover"], "--resume", "--out", "x"), "no run to resume in x"),
        (("scan", *COMMANDS["scan"], "--resume", "--out", "x"), "no run to resume in x"),
        (("scan", "--model", "shipped", "--resume", "--out", "x"), "no run to resume in x"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(line, said, home):
    code, out, err = call(*line)
    assert code == 2
    assert out == ""
    assert said in one_sentence(err)
    assert not any(path.is_file() for path in (home / "runs").rglob("*"))
    assert not (home / "x").exists()


@pytest.mark.slow
def test_a_run_is_resumed_with_the_arguments_that_it_was_begun_with(home, probes, monkeypatch):
    calls = iter(range(1000))

    def fails_later(images):
        if next(calls) == 5:
            raise RuntimeError("out of order.\nIndeed")
        return small.scores(images)

    monkeypatch.setattr(foreign_by_hand, "plain", fails_later)
    shown = ("--image-shape", "12x12x1", "--classes", "4", "--range", "0,1")
    line = (*PLAIN, "2", *shown, "--probes", probes[1], "--out", "out")
    code, _, err = call(*line)
    assert code == 2
    assert one_sentence(err) == (
        "error: python:foreign_by_hand:plain failed: RuntimeError: out of order. Indeed; what it "
        "answered is kept, and --out out --resume goes on."
    )
    content = (home / "out" / journal.NAME).read_bytes()
    assert "not empty" in one_sentence(call(*line)[2])
    for others, named in (
        (("--seed", "1"), "another seed:"),
        (("--seed", "1", "--budget", "5000", "--range", "0,2"), "another budget, range, seed:"),
        (("--model", "python:foreign_by_hand:small", "--target", "1"), "another model, target:"),
    ):
        code, _, err = call(*line, *others, "--resume")
        assert code == 2
        assert f"out was begun with {named}" in one_sentence(err)
    assert "another command, " in one_sentence(call("scan", *line[1:3], *line[5:], "--resume")[2])
    assert (home / "out" / journal.NAME).read_bytes() == content
    # What does not decide what is asked may change.
    code, _, err = call(*line, "--resume", "--price", "2", "--json")
    assert code == 0, err
    assert result(home / "out")["cost"] == 2 * result(home / "out")["queries"] / 1000
    code, _, err = call(*line, "--resume")
    assert "no run to resume" in one_sentence(err)


def test_a_model_may_write_to_the_images_it_is_shown(monkeypatch):
    def careless(images):
        images *= 255
        return images[:, 0, 0]

    monkeypatch.setattr(foreign_by_hand, "plain", careless)
    options = ModelOptions(image_shape=(2, 2, 3))
    oracle = open_model("python:foreign_by_hand:plain", options=options)
    images = tame(5, (4, 4, 3))[:, :2, :2]
    images.flags.writeable = False
    np.testing.assert_array_equal(oracle.answer((), images), images[:, 0, 0] * np.float32(255))
