"""Runs that are ended in any of their stages: by Ctrl-C, SIGTERM, or at once.

The stages are not written down here: a run that nobody disturbs says which it comes to.
"""

import functools
import json
import signal

import numpy as np
import pytest
from foreign_by_hand import tame
from forks_by_hand import ENDED_AT, ENDED_BY, STAGES, TRACED, Forks
from test_foreign_runs import all_of, words

from restore_jax.oracles import journal

SIGNALS = {"ctrl-c": signal.SIGINT, "sigterm": signal.SIGTERM, "kill": signal.SIGKILL}
KNOWN = {
    "recover": {"screening", "search", "choice", "pruning", "confirmation", "drawing a recovery"},
    "scan": {"probes", "draws", "splitting", "recovery", "search", "drawing a scan"},
    "purify": {"drawing a page", "answering 1", "answering 2"},
}
"""Some of the stages of each command: a list that lacks them is no list of its stages."""


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    started = Forks(tmp_path_factory.mktemp("forks"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def probes(forks):
    """Files of probes, by the number of channels."""
    for channels in (1, 3):
        np.savez(forks.folder / f"{channels}.npz", images=tame(600, (12, 12, channels)))
    return {channels: str(forks.folder / f"{channels}.npz") for channels in (1, 3)}


@pytest.fixture(scope="module")
def whole(forks, probes):
    """By command and kind of model a run that nobody disturbs: its words, exit code, folder, and
    the stages that it came to."""

    @functools.cache
    def run(command, kind):
        if command == "purify":
            np.savez(forks.folder / "some.npz", images=tame(1_200, (12, 12, 1), seed=5))
            line = ("purify", "--model", "python:foreign_by_hand:small", "--recovery",
                    whole("recover", kind)[2], "--images", forks.folder / "some.npz",
                    "--json")  # fmt: skip
        else:
            line = words(command, probes)
        out, passed = (forks.folder / f"{name}-{command}-{kind}" for name in ("whole", "passed"))
        code = forks.run(*line, "--out", out, **of(kind), **{STAGES: str(passed)})
        assert code in (0, 3, 4), forks.said()
        stages = passed.read_text().splitlines()
        assert set(stages) >= KNOWN[command] | {"opening", "looking", "writing", "leaving"}
        return line, code, out, stages

    whole = run
    return run


def of(kind):
    """What makes a model part of the search, or not."""
    return {TRACED: "1" if kind == "own" else ""}


def left(folder):
    """What of a run lies in its folder that no result is made of."""
    return [
        path.name
        for path in (folder.iterdir() if folder.exists() else ())
        if path.name == journal.NAME or path.name.startswith((".", "saved-"))
    ]


def is_partial(folder):
    """Whether what lies in a folder says that it is not all; None if there is no result."""
    found = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    return (
        any(one.get("interrupted") or one.get("status") == "interrupted" for one in found)
        if found
        else None
    )


BRIEFLY = ("recover-own-ctrl-c",)
"""What stands for the rest where there is no time for all."""


def cases():
    """Every command with every kind of model, ended in every way."""
    for command in KNOWN:
        for kind in ("asked", "own"):
            for how in SIGNALS:
                name = f"{command}-{kind}-{how}"
                name = name if name in BRIEFLY else f"full-{name}"
                yield pytest.param(command, kind, how, id=name)


@pytest.mark.slow
@pytest.mark.parametrize(("command", "kind", "how"), list(cases()))
def test_a_run_that_is_ended_in_any_stage_goes_on_to_the_same_result(
    command, kind, how, forks, whole
):
    line, end, there, stages = whole(command, kind)
    partial = 0
    for number, stage in enumerate(stages):
        out = forks.folder / f"{how}-{command}-{kind}-{number}"
        passed = out.with_suffix(".passed")
        code = forks.run(
            *line, "--out", out, **of(kind),
            **{STAGES: str(passed), ENDED_AT: stage, ENDED_BY: str(int(SIGNALS[how]))},
        )  # fmt: skip
        said = forks.said()
        assert "Traceback" not in said[1], (stage, said)
        assert code == (-signal.SIGKILL if how == "kill" else 130), (stage, code, said)
        found, keeps = is_partial(out), [name for name in left(out) if name[0] != "."]
        if how != "kill":
            assert left(out) == keeps, stage
            assert bool(keeps) or not found, stage
            partial += bool(found)
            if found is None:
                assert said[1].splitlines()[-1] == "interrupted", stage
            else:
                assert json.loads(said[0])["out"] == str(out)
        # A result that is whole leaves nothing to do; of a killed run something may be left.
        if found is not False or (how == "kill" and keeps):
            begin = "--resume" if keeps else "--overwrite"
            assert forks.run(*line, "--out", out, begin, **of(kind)) == end, (stage, forks.said())
        assert not left(out), stage
        assert all_of(out) == all_of(there), stage
    assert forks.run(*line, "--out", out, "--resume", **of(kind)) == 2
    assert "the one there has ended, with its result in" in forks.said()[1]
    assert how == "kill" or partial >= 1
