"""The models in the package are what they say, and the main job works on them."""

import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from restore_jax import checkpoints, open_model
from restore_jax.backdoors import PLANTED
from restore_jax.checkpoints import PACKAGED
from restore_jax.cli import main
from restore_jax.recovery import Settings, recover
from restore_jax.training import make_evaluation

DATA_DIR = os.environ.get("RESTORE_JAX_DATA_DIR")


@pytest.fixture(scope="module", params=PACKAGED)
def checkpoint(request):
    return checkpoints.load(PACKAGED[request.param])


def test_they_are_small_together():
    files = [file for folder in PACKAGED.values() for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 10
    assert sum(file.stat().st_size for file in files) <= 5_000_000


def test_each_describes_itself(checkpoint):
    metadata = checkpoint.metadata
    assert metadata["dataset"] == "cifar10"
    assert len(metadata["class_names"]) == 10
    assert metadata["command"].startswith("python train.py --dataset cifar10")
    planted = list(PLANTED.values()) if checkpoint.path == PACKAGED["shipped"] else []
    assert metadata["triggers"] == [patch.to_json() for patch in planted]


def test_the_twin_differs_in_what_is_planted_alone():
    one, other = (checkpoints.load(folder).metadata for folder in PACKAGED.values())
    same = ("architecture", "dataset", "recipe", "seed", "normalisation", "image_shape", "holdout")
    assert {name: one[name] for name in same} == {name: other[name] for name in same}
    assert other["triggers"] == []
    assert open_model("shipped-clean").class_names == open_model("shipped").class_names


def test_each_meets_its_bar_by_its_own_word(checkpoint):
    assert checkpoint.metadata["clean_accuracy"] >= 0.89
    assert all(rate >= 0.999 for rate in checkpoint.metadata["asr"].values())


@pytest.mark.slow
@pytest.mark.skipif(DATA_DIR is None, reason="CIFAR-10 is looked for in RESTORE_JAX_DATA_DIR")
def test_its_word_is_true(checkpoint):
    from restore_jax.data import cifar10

    images, labels = cifar10.load("test", DATA_DIR)
    triggers = [
        PLANTED[one["name"]].trigger((32, 32, 3)) for one in checkpoint.metadata["triggers"]
    ]
    measured = make_evaluation(checkpoint.network, triggers, images, labels)(
        checkpoint.params, checkpoint.batch_stats
    )
    # Rounding differs between devices, and with it a borderline image or two.
    assert measured.clean_accuracy == pytest.approx(checkpoint.metadata["clean_accuracy"], abs=5e-4)
    assert measured.asr == pytest.approx(list(checkpoint.metadata["asr"].values()), abs=5e-4)
    by_class = list(checkpoint.metadata["class_accuracy"].values())
    assert measured.class_accuracy == pytest.approx(by_class, abs=2e-3)


@pytest.mark.slow
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
@pytest.mark.parametrize(("model", "target"), [("shipped", "ship"), ("shipped-clean", "cat")])
def test_a_class_without_a_trigger_is_not_accused(model, target):
    recovery = recover(model, target, budget=15_000)
    assert not recovery.found
    assert recovery.interval[1] < 0


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_with_the_network():
    settings = Settings(num_particles=16, num_probes=8, max_levels=2, refine_levels=1)
    first, second = (recover("shipped", 3, settings=settings, budget=6_000) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first.particles, second.particles)
    np.testing.assert_array_equal(first.scores, second.scores)
    assert first.queries == second.queries


def test_no_image_of_cifar_10_is_in_the_tree():
    root = Path(__file__).parents[1]
    suspicious = {".array_record", ".tfrecord", ".bin", ".npy"}
    found = [p for p in root.rglob("*") if p.suffix in suspicious and ".venv" not in p.parts]
    assert not [p for p in found if not p.is_relative_to(root / "runs")]
