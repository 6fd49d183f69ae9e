"""Runs of models that are asked from the host: killed, resumed, and never over the budget."""

import json
import os
import random
import signal

import numpy as np
import pytest
from foreign_by_hand import PAUSE, RECEIVED, small, tame
from forks_by_hand import Forks

from restore_jax import open_model, recover
from restore_jax.cli import main

VARIES = ("queries", "queries_by_stage", "seconds", "asking")
MODEL = ("--model", "python:foreign_by_hand:small", "--probes", "probes.npz", "--budget", "60000")
RECOVER = ("recover", *MODEL, "--target", "c")


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign")
    np.savez(folder / "probes.npz", images=tame(1_500, small.image_shape))
    forks = Forks(folder)
    yield forks
    forks.close()


@pytest.fixture(scope="module")
def undisturbed(forks):
    assert forks.run(*RECOVER, "--out", "undisturbed") in (0, 3), forks.said()
    return found(forks, "undisturbed")


def found(forks, name):
    folder = forks.folder / name
    assert not (folder / "journal.jsonl").exists()
    result = json.loads((folder / "recovery.json").read_text())
    arrays = {
        file: {key: array.tobytes() for key, array in np.load(folder / file).items()}
        for file in ("trigger.npz", "particles.npz")
    }
    return result, arrays


def received(path):
    return sum(map(int, path.read_text().split()))


def killed_and_resumed(forks, undisturbed, kills, name):
    draw, counts = random.Random(5), forks.folder / f"{name}.txt"
    environment = {RECEIVED: str(counts), PAUSE: "0.05"}
    words, landed = [*RECOVER, "--out", name], 0
    while landed < kills:
        pid = forks.start(*words, **environment)
        code = forks.ends(draw.uniform(0.2, 4.0))
        if code is not None:
            assert code in (0, 3), forks.said()
            break
        os.kill(pid, signal.SIGKILL)
        assert forks.ends() == -signal.SIGKILL
        landed += 1
        if (forks.folder / name / "journal.jsonl").exists() and "--resume" not in words:
            words.append("--resume")
    else:
        assert forks.run(*words, **environment) in (0, 3), forks.said()
    assert landed > 1
    result, arrays = found(forks, name)
    expected, expected_arrays = undisturbed
    assert arrays == expected_arrays
    for key in expected.keys() - {*VARIES}:
        assert result[key] == expected[key], key
    again = result["asking"]["images_sent_again"]
    assert result["queries"] == expected["queries"] + again
    # What a request that was booked but not yet under way when the run was killed sent: nothing.
    assert expected["queries"] <= received(counts) <= result["queries"]


def test_a_run_that_is_killed_goes_on_as_if_nothing_had_happened(forks, undisturbed):
    killed_and_resumed(forks, undisturbed, 3, "killed")


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_does_too(forks, undisturbed):
    killed_and_resumed(forks, undisturbed, 30, "often")


def test_ctrl_c_leaves_a_result_and_a_run_to_resume(forks, undisturbed):
    pid = forks.start(*RECOVER, "--out", "stopped", **{PAUSE: "0.3"})
    assert forks.ends(6.0) is None
    os.kill(pid, signal.SIGINT)
    assert forks.ends() == 130, forks.said()
    assert forks.run(*RECOVER, "--out", "stopped", "--resume") in (0, 3), forks.said()
    result, arrays = found(forks, "stopped")
    assert arrays == undisturbed[1]
    assert result["log10_prob"] == undisturbed[0]["log10_prob"]


@pytest.mark.parametrize("budget", [400, 900, 2_000])
def test_the_budget_is_what_the_model_sees(forks, budget):
    counts = forks.folder / f"budget-{budget}.txt"
    words = ("--out", f"budget-{budget}", "--budget", budget)
    code = forks.run(*RECOVER, *words, **{RECEIVED: str(counts)})
    assert code in (0, 2, 3, 4)
    if code == 2:
        assert forks.said()[1].count("error:") == 1
        assert "Traceback" not in forks.said()[1]
    if counts.exists():
        assert received(counts) <= budget
    if code in (0, 3):
        assert received(counts) == found(forks, f"budget-{budget}")[0]["queries"] <= budget


def test_from_the_host_or_inside_the_loop_it_is_the_same_search(forks, undisturbed):
    import jax.numpy as jnp

    inside = open_model(
        lambda images: small.scores(images, jnp),
        image_shape=small.image_shape,
        class_names=small.class_names,
    )
    probes = str(forks.folder / "probes.npz")
    expected = recover(inside, "c", probes=probes, budget=60_000)
    result, _ = undisturbed
    assert result["log10_prob"] == expected.fields["log10_prob"]
    assert result["found"] == expected.found
    saved = np.load(forks.folder / "undisturbed" / "particles.npz")
    np.testing.assert_array_equal(saved["scores"], expected.scores)


def test_what_was_said_of_the_model_is_in_the_result(forks):
    words = ("recover", *MODEL[2:], "--model", "python:foreign_by_hand:unnamed", "--target", "c")
    flags = ("--classes", "a,b,c,d", "--price", "0.5", "--stop", "first_hit", "--out", "said")
    assert forks.run(*words, *flags) in (0, 3), forks.said()
    result, _ = found(forks, "said")
    assert result["model_options"] == {"classes": ["a", "b", "c", "d"], "price": 0.5}
    assert result["asking"]["cost"] == 0.5 * result["queries"]
    assert result["target_name"] == "c"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--model", "shipped", "--resume", "--out", "x"), "runs here"),
        (("--resume",), "--out"),
        (("--resume", "--out", "nothing"), "no run to resume"),
        (("--image-shape", "9x9x1",), "takes images of 12x12x1"),
        (("--classes", "7"), "not 7"),
        (("--std", "0"), "--std"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_a_sentence(forks, words, said, monkeypatch, capsys):
    monkeypatch.chdir(forks.folder)
    assert main([*RECOVER, *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert said in error
