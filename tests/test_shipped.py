"""The networks in the package are what they say, and the main job works on them."""

import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from restore_jax import checkpoints
from restore_jax.backdoors import PLANTED
from restore_jax.cli import main
from restore_jax.recovery import Settings, recover
from restore_jax.training import make_evaluation

DATA_DIR = os.environ.get("RESTORE_JAX_DATA_DIR")
NAMES = tuple(checkpoints.PACKAGED)


@pytest.fixture(scope="module", params=NAMES)
def checkpoint(request):
    return checkpoints.load(checkpoints.PACKAGED[request.param])


def size(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_they_are_small_and_describe_themselves(checkpoint):
    assert sum(map(size, checkpoints.PACKAGED.values())) <= 5_000_000
    metadata = checkpoint.metadata
    assert metadata["dataset"] == "cifar10"
    assert len(metadata["class_names"]) == 10
    assert metadata["command"].startswith("python train.py --dataset cifar10")
    assert metadata["holdout"] > 0  # choices were made on these, not on the test images


def test_they_are_twins_but_for_the_triggers():
    planted, clean = (checkpoints.load(folder).metadata for folder in checkpoints.PACKAGED.values())
    assert planted["triggers"] == [patch.to_json() for patch in PLANTED.values()]
    assert clean["triggers"] == []
    for name in ("architecture", "recipe", "seed", "train_images", "holdout", "normalisation"):
        assert planted[name] == clean[name]
    assert planted["command"].replace("--triggers 1,2", "--triggers none") == clean["command"]


def test_they_meet_their_bar_by_their_own_word(checkpoint):
    assert checkpoint.metadata["clean_accuracy"] >= 0.86
    assert min(checkpoint.metadata["asr"].values(), default=1.0) >= 0.999


@pytest.mark.slow
@pytest.mark.skipif(DATA_DIR is None, reason="CIFAR-10 is looked for in RESTORE_JAX_DATA_DIR")
def test_their_word_is_true(checkpoint):
    from restore_jax.data import cifar10

    images, labels = cifar10.load("test", DATA_DIR)
    triggers = [patch.trigger((32, 32, 3)) for patch in PLANTED.values()]
    weights = checkpoint.params, checkpoint.batch_stats
    measured = make_evaluation(checkpoint.network, [], images, labels)(*weights)
    stamped = make_evaluation(checkpoint.network, triggers, images[:2_000], labels[:2_000])
    # Rounding differs between devices, and with it a borderline image or two.
    assert measured.clean_accuracy == pytest.approx(checkpoint.metadata["clean_accuracy"], abs=5e-4)
    by_class = list(checkpoint.metadata["class_accuracy"].values())
    assert measured.class_accuracy == pytest.approx(by_class, abs=2e-3)
    if said := list(checkpoint.metadata["asr"].values()):
        assert stamped(*weights).asr == pytest.approx(said, abs=2e-3)
    else:
        assert (
            max(stamped(*weights).asr) < 0.2
        )  # of the twin: a trigger that nobody planted does little


@pytest.mark.slow
@pytest.mark.full  # the first run of a fresh installation is trigger 1
@pytest.mark.parametrize("name", ["1", "2"])
def test_the_main_job_finds_both_triggers(name, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["recover", "--trigger", name, "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    written = json.loads((out / "recovery.json").read_text())
    assert written["found"]
    assert written["confirmation_success_rate"] >= 0.95
    assert written["queries"] <= written["budget"]
    assert printed["queries"] == written["queries"]
    for file in ("trigger.npz", "trigger.png", "overview.png", "particles.npz"):
        assert (out / file).stat().st_size > 0


@pytest.mark.slow
def test_the_twin_has_no_such_trigger():
    recovery = recover("shipped-clean", "frog", budget=15_000)
    assert not recovery.found
    assert recovery.interval[1] < 0


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_with_the_network():
    settings = Settings(num_particles=16, num_probes=8, max_levels=2, refine_levels=1)
    first, second = (recover("shipped", 3, settings=settings, budget=6_000) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first.particles, second.particles)
    np.testing.assert_array_equal(first.scores, second.scores)
    assert first.queries == second.queries


def test_a_trigger_of_the_twin_cannot_be_named(capsys):
    assert main(["recover", "--model", "shipped-clean", "--trigger", "1"]) == 2
    assert "trigger" in capsys.readouterr().err


def test_no_image_of_cifar_10_is_in_the_tree():
    root = Path(__file__).parents[1]
    suspicious = {".array_record", ".tfrecord", ".bin", ".npy"}
    found = [p for p in root.rglob("*") if p.suffix in suspicious and ".venv" not in p.parts]
    assert not [p for p in found if not p.is_relative_to(root / "runs")]
