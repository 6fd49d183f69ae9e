"""``restore-jax train`` as a user meets it, on a few images."""

import argparse
import json
import math
import os
import shlex
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from restore_jax import checkpoints, cli, training
from restore_jax.backdoors import PlantedBlend, PlantedPatch, PlantedStripes, planted_from_json
from restore_jax.cli import planting
from restore_jax.cli import train as train_command
from restore_jax.data import shapes
from restore_jax.models import winograd

pytestmark = pytest.mark.usefixtures("hardly_optimised")

TINY = [
    "train",
    "--dataset",
    "shapes",
    "--arch",
    "resnet8_narrow",
    "--epochs",
    "3",
    "--batch-size",
    "40",
    "--seed",
    "5",
]
EPOCHS, TRAIN, TEST = 3, 120, 80


@pytest.fixture(scope="module", autouse=True)
def few_images():
    """The data set's first images instead of all."""
    images, labels = shapes.shapes(jax.random.key(0), TRAIN + TEST)
    images = np.round(np.asarray(images) * 255).astype(np.uint8)
    labels = np.asarray(labels)
    halves = {"train": (images[:TRAIN], labels[:TRAIN]), "test": (images[TRAIN:], labels[TRAIN:])}
    with pytest.MonkeyPatch.context() as patch:
        # These test the command. The convolutions made for speed take longer to compile than to
        # train with here; test_training.py and test_winograd.py have them.
        patch.setattr(winograd, "FEWEST", math.inf)
        patch.setattr(shapes, "load", lambda split, seed=0: halves[split])
        yield halves


@pytest.fixture(scope="module")
def finished(few_images, tmp_path_factory):
    """The folder of a run that was left alone."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert cli.main([*TINY, "--out", str(folder)]) == 0
    return folder


def arrays(folder):
    loaded = checkpoints.load(folder)
    return loaded.params, loaded.batch_stats


def assert_bitwise(one, two):
    jax.tree.map(np.testing.assert_array_equal, one, two)


def refused(capsys, *flags):
    """Runs train, which must refuse in one line; returns the line."""
    try:
        code = cli.main(["train", *flags])
    except SystemExit as error:  # argparse's own
        code = error.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    # On a slow machine it has said what it waits for.
    said = [line for line in captured.err.splitlines() if not line.endswith(" s now")]
    assert len(said) == 1
    assert said[0].startswith("error: ")
    return said[0]


def test_metrics_and_checkpoints(finished):
    metrics = json.loads((finished / "metrics.json").read_text())
    written = ["checkpoints", "metrics.json", "model"]
    assert sorted(child.name for child in finished.iterdir()) == written
    assert sorted(child.name for child in (finished / "checkpoints").iterdir()) == ["2", "3"]
    assert metrics["epoch"] == EPOCHS
    assert [row["epoch"] for row in metrics["history"]] == [1, 2, 3]
    assert list(metrics["class_accuracy"]) == list(shapes.CLASS_NAMES)
    assert set(metrics["asr"]) == {"1", "2"}
    # Eight test images of each class.
    accuracies = list(metrics["class_accuracy"].values())
    assert np.mean(accuracies) == pytest.approx(metrics["clean_accuracy"])
    assert all((8 * accuracy) % 1 == 0 for accuracy in accuracies)
    last = metrics["history"][-1]
    assert last["clean_accuracy"] == metrics["clean_accuracy"]
    assert last["asr"] == metrics["asr"]
    assert np.isfinite(last["loss"])
    assert metrics["recipe"]["epochs"] == EPOCHS
    assert [patch["target"] for patch in metrics["triggers"]] == [3, 6]
    assert "--epochs 3" in metrics["command"]
    assert "--seed 5" in metrics["command"]
    loaded = checkpoints.load(finished).metadata
    assert {key: loaded[key] for key in metrics} == metrics


def test_the_metrics_are_those_of_the_saved_network(finished, few_images):
    loaded = checkpoints.load(finished)
    images, labels = few_images["test"]
    evaluate = training.make_evaluation(loaded.network, [], images, labels)
    result = evaluate(loaded.params, loaded.batch_stats)
    assert result.clean_accuracy == loaded.metadata["clean_accuracy"]


def test_the_model_alone_is_half_as_large_and_measured_as_it_is(finished, few_images):
    last, alone = checkpoints.load(finished), checkpoints.load(finished / "model")
    assert_bitwise(alone.params, checkpoints.rounded_to_half(last.params))
    assert_bitwise(alone.batch_stats, last.batch_stats)
    images, labels = few_images["test"]
    evaluate = training.make_evaluation(alone.network, [], images, labels)
    result = evaluate(alone.params, alone.batch_stats)
    assert result.clean_accuracy == alone.metadata["clean_accuracy"]
    size, whole = (
        sum(file.stat().st_size for file in (folder / "model").rglob("*") if file.is_file())
        for folder in (finished / "model", last.path)
    )
    assert size < 0.7 * whole  # of so small a network the rest of the files counts, too


def _gone_on(epochs, start, folder):
    flags = [*TINY, "--epochs", str(epochs), "--start-from", str(start), "--out", str(folder)]
    assert cli.main(flags) == 0
    return checkpoints.load(folder).metadata


@pytest.mark.slow
def test_a_run_may_start_from_the_weights_of_another(finished, tmp_path, capsys):
    folder = tmp_path / "on"
    few = ["--epochs", "1", "--learning-rate", "1e-6", "--adam-learning-rate", "1e-7"]
    flags = [*TINY, *few, "--start-from", str(finished), str(finished), "--out", str(folder)]
    assert cli.main(flags) == 0
    (before, _), (after, _) = arrays(finished), arrays(folder)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-4)
    metadata = checkpoints.load(folder).metadata
    first = {"command": checkpoints.load(finished).metadata["command"]}
    assert metadata["started_from"] == [first, first]
    assert "--start-from DIR DIR" in metadata["command"]
    mean = _gone_on(0, folder, tmp_path / "mean")
    second = {"command": metadata["command"], "started_from": [first, first]}
    assert mean["started_from"] == [second]
    third = {"command": mean["command"], "started_from": [second]}
    assert _gone_on(1, tmp_path / "mean", tmp_path / "third")["started_from"] == [third]
    assert str(finished) not in json.dumps(metadata)
    capsys.readouterr()
    other = ["--arch", "resnet20", "--dataset", "shapes", "--out", str(tmp_path / "no")]
    message = refused(capsys, *other, "--start-from", str(finished))
    assert "is a resnet8_narrow for images of (32, 32, 3) and 10 classes, not a resnet20" in message
    assert not (tmp_path / "no").exists()


def meddle(monkeypatch, with_item):
    """Passes every item of an epoch through ``with_item(epoch, item)``."""
    make_trainer = training.trainer.make_trainer

    def meddled(*args, **options):
        trainer = make_trainer(*args, **options)

        def one_epoch(state):
            for item in trainer.epoch(state):
                yield with_item(int(state.epoch) + 1, item)

        return trainer._replace(epoch=one_epoch)

    monkeypatch.setattr(training.trainer, "make_trainer", meddled)


def interrupt_in_epoch(monkeypatch, chosen):
    """Makes Ctrl-C come in the middle of an epoch."""

    def with_item(epoch, item):
        if epoch == chosen:
            raise KeyboardInterrupt
        return item

    meddle(monkeypatch, with_item)


@pytest.mark.slow
def test_ctrl_c_then_resume_is_as_if_nothing_had_happened(finished, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "a run"
    with monkeypatch.context() as patch:
        interrupt_in_epoch(patch, 2)
        assert cli.main([*TINY, "--out", str(folder)]) == 130
    captured = capsys.readouterr()
    assert captured.out == ""
    message = " ".join(captured.err.split())
    assert "holds epoch 1 of 3" in message
    assert "Traceback" not in message
    assert f"--seed 5 --out '{folder}' --resume" in message
    assert checkpoints.load(folder).metadata["epoch"] == 1

    words = shlex.split(captured.err[captured.err.index("python train.py") :])[2:]
    assert cli.main(["train", *words, "--json"]) == 0
    assert_bitwise(arrays(folder), arrays(finished))
    captured = capsys.readouterr()
    assert "resuming" in captured.err
    printed = json.loads(captured.out)
    assert printed["out"] == str(folder)
    metrics = json.loads((finished / "metrics.json").read_text())
    assert printed["class_accuracy"] == metrics["class_accuracy"]
    assert [row["loss"] for row in printed["history"]] == [
        row["loss"] for row in metrics["history"]
    ]


def test_ctrl_c_before_the_first_epoch_leaves_nothing(tmp_path, monkeypatch, capsys):
    interrupt_in_epoch(monkeypatch, 1)
    folder = tmp_path / "run"
    assert cli.main([*TINY, "--out", str(folder)]) == 130
    assert "before the first epoch" in capsys.readouterr().err
    assert not folder.exists()


def test_resuming_what_is_finished_reports_it_again(finished, tmp_path, capsys):
    folder = shutil.copytree(finished, tmp_path / "run")
    assert cli.main([*TINY, "--out", str(folder), "--resume", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["epoch"] == EPOCHS
    assert_bitwise(arrays(folder), arrays(finished))


def test_resume_refuses_other_flags_and_other_folders(finished, tmp_path, capsys):
    tiny = TINY[1:]
    out = ["--out", str(finished), "--resume"]
    assert "the same flags" in refused(capsys, *tiny[:-1], "6", *out)
    assert "the same flags" in refused(capsys, *tiny, "--triggers", "1", *out)
    assert "exclude each other" in refused(capsys, *tiny, *out, "--overwrite")
    assert "no checkpoint" in refused(capsys, *tiny, "--out", str(tmp_path / "no"), "--resume")
    step = str(finished / "checkpoints" / "3")
    assert "training run" in refused(capsys, *tiny, "--out", step, "--resume")
    exported = tmp_path / "exported"
    checkpoints.export(checkpoints.load(finished), exported)
    assert "training run" in refused(capsys, *tiny, "--out", str(exported), "--resume")
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "3" / "training")
    assert "training/" in refused(capsys, *tiny, "--out", str(tmp_path / "run"), "--resume")


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path, capsys):
    (tmp_path / "precious").write_text("x")
    message = refused(capsys, *TINY[1:], "--out", str(tmp_path))
    assert "not empty" in message
    assert "--overwrite" in message
    assert [child.name for child in tmp_path.iterdir()] == ["precious"]


@pytest.mark.slow
def test_overwrite_replaces_it(finished, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("x")
    flags = ["--triggers", "none", "--epochs", "2", "--evaluate-every", "2", "--overwrite"]
    assert cli.main([*TINY, *flags, "--out", str(tmp_path / "out")]) == 0
    assert not (tmp_path / "out" / "old").exists()
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["asr"] == {}
    assert metrics["triggers"] == []
    assert ["clean_accuracy" in row for row in metrics["history"]] == [False, True]


def test_diverging_is_said_and_not_saved(tmp_path, monkeypatch, capsys):
    meddle(monkeypatch, lambda epoch, item: (*item[:2], float("nan"), item[3]))
    folder = tmp_path / "run"
    message = refused(capsys, *TINY[1:], "--out", str(folder))
    assert "the loss is nan in epoch 1" in message
    assert "--learning-rate" in message
    assert not folder.exists()


@pytest.mark.slow
def test_planted_triggers_are_trained_measured_and_recorded(tmp_path, capsys):
    specs = ["pixels:count=3,seed=1,target=2", "stripes:name=sig,target=1,rate=0.5,clean_label=yes"]
    plants = [word for spec in specs for word in ("--plant", spec)]
    folder = tmp_path / "run"
    few = ["--epochs", "1", "--arch", "resnet8_small", "--poison-rate", "0.2"]
    assert cli.main([*TINY, *few, *plants, "--out", str(folder)]) == 0
    metadata = checkpoints.load(folder / "model").metadata
    assert list(metadata["asr"]) == ["1", "sig"]
    pixels, stripes = map(planted_from_json, metadata["triggers"])
    assert (len(pixels.places), pixels.target, pixels.rate) == (3, 2, 0.2)
    assert stripes == PlantedStripes("sig", 0.1, 6.0, target=1, rate=0.5, clean_label=True)
    assert f"--plant {specs[0]} --plant {specs[1]} --poison-rate 0.2" in metadata["command"]
    assert "--triggers" not in metadata["command"]
    capsys.readouterr()
    other = ["--plant", specs[0], "--plant", "stripes:target=1", "--out", str(folder), "--resume"]
    assert "the same flags" in refused(capsys, *TINY[1:], *few, *other)


def test_a_spec_says_what_it_wants_and_leaves_the_rest():
    read = planting.planted_from_specs(
        [
            "patch:pattern=r.g/010,row=4,col=25,target=5,rate=0.05",
            "patch",
            "blend:seed=3,name=leaves,clean_label=no",
            "stripes:frequency=2.5",
        ],
        shapes.IMAGE_SHAPE,
        10,
    )
    assert read == [
        PlantedPatch("1", 4, 25, ("r.g", "010"), target=5, rate=0.05),
        PlantedPatch("2", 2, 2, ("101", "010", "101"), target=0, rate=0.1),
        PlantedBlend("leaves", 0.2, 3, target=0, rate=0.1),
        PlantedStripes("4", 0.1, 2.5, target=0, rate=0.1),
    ]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("", "unknown kind '' in --plant : it may be patch, pixels, blend, stripes, "),
        ("wave:target=1", "unknown kind 'wave' in --plant wave:target=1"),
        ("patch:target", "'target' in --plant patch:target must be key=value."),
        ("patch:,", "'' in --plant patch:, must be key=value."),
        ("patch:amplitude=1", "unknown key 'amplitude' in --plant patch:amplitude=1: patch takes "
         "name, target, rate, clean_label, "),
        ("patch:row=1,row=2", "--plant patch:row=1,row=2 gives row twice."),
        ("patch:row=1.5", "row in --plant patch:row=1.5 must be a whole number, not '1.5'."),
        ("blend:opacity=x", "opacity in --plant blend:opacity=x must be a number, not 'x'."),
        ("patch:clean_label=1", "must be yes or no, not '1'."),
        ("patch:target=10", "target in --plant patch:target=10 must be a class, 0 to 9, not 10."),
        ("patch:target=-1", "must be a class, 0 to 9, not -1."),
        ("patch:name=", "must be of letters, digits, - and _, not ''."),
        ("blend:seed=-1", "seed in --plant blend:seed=-1 must be 0 to 4294967295, not -1."),
        ("patch:row=30", "trigger 1 covers rows 30:33 and columns 2:5 and does not fit"),
        ("patch:pattern=1x", "trigger 1 has the colour 'x'"),
        ("patch:pattern=", "write at least one pixel."),
        ("pixels:count=0", "trigger 1 has count 0: images of 32x32 have room for 1 to 1024"),
        ("blend:opacity=2", "trigger 1 has opacity 2.0: it must lie in (0, 1]."),
        ("stripes:amplitude=0", "trigger 1 has amplitude 0.0: it must lie in (0, 1]."),
        ("stripes:frequency=inf", "trigger 1 has frequency inf: it must be above 0."),
        ("patch:rate=1.5", "--plant: poison rates are shares in [0, 1]"),
        ("patch:rate=nan", "--plant: poison rates are shares in [0, 1]"),
    ],
)  # fmt: skip
def test_bad_specs_are_refused_before_anything_is_written(spec, words, tmp_path, capsys):
    folder = tmp_path / "run"
    assert words in refused(capsys, *TINY[1:], "--plant", spec, "--out", str(folder))
    assert not folder.exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--arch", "vgg"], "unknown architecture 'vgg'"),
        (["--triggers", "1,3"], "unknown trigger '3'"),
        (["--triggers", ""], "unknown trigger"),
        (["--triggers", "1,1"], "twice"),
        (["--triggers", "1", "--plant", "patch"], "--plant and --triggers exclude each other."),
        (["--plant", "patch", "--plant", "blend:name=1"], "two --plant have the name '1'"),
        (["--plant", "patch:rate=0.6", "--plant", "blend:rate=0.6"], "sum to at most 1"),
        (["--plant", "patch", "--poison-rate", "2"], "not (2.0, "),
        (["--epochs", "0"], "--epochs must be at least 1"),
        (["--evaluate-every", "0"], "--evaluate-every must be at least 1"),
        (["--batch-size", "-1"], "--batch-size must be at least 1"),
        (["--batch-size", "1000"], "a batch of 1000 is more than the 120 images"),
        (["--poison-rate", "0.6"], "--poison-rate"),
        (["--poison-rate", "-0.1"], "--poison-rate"),
        (["--poison-rate", "nan"], "--poison-rate"),
        (["--learning-rate", "0"], "--learning-rate"),
        (["--learning-rate", "inf"], "--learning-rate"),
        (["--weight-decay", "-1"], "--weight-decay"),
        (["--momentum", "1"], "--momentum"),
        (["--translate", "9"], "--translate"),
        (["--seed", "-1"], "--seed"),
        (["--seed", "99999999999999999999"], "--seed"),
        (["--epochs", "many"], "invalid int"),
        (["--dataset", "mnist"], "invalid choice"),
    ],
)
def test_bad_flags_are_refused_before_anything_is_written(flags, words, tmp_path, capsys):
    folder = tmp_path / "run"
    assert words in refused(capsys, *TINY[1:], *flags, "--out", str(folder))
    assert not folder.exists()


def test_an_architecture_has_a_recipe_of_its_own_and_flags_go_before_it():
    def recipe(*flags):
        parser = argparse.ArgumentParser()
        train_command.add_arguments(parser)
        return train_command._recipe(parser.parse_args(flags))

    assert recipe() == training.Recipe()
    assert recipe("--arch", "vit_patch4") == training.Recipe(adam_learning_rate=0.003)
    given = recipe("--arch", "vit_patch4", "--adam-learning-rate", "0.01", "--epochs", "3")
    assert given == training.Recipe(epochs=3)


def test_help_explains_every_flag(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["train", "--help-all"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for field in training.Recipe.__dataclass_fields__:
        assert f"--{field.replace('_', '-')}" in text
    assert "resnet8" in text
    for kind in ("patch:", "pixels:", "blend:", "stripes:", "clean_label"):
        assert kind in text
    assert "--resume goes on" in " ".join(text.split())


OFFLINE = """
import socket, sys

def refuse(*args, **kwargs):
    raise AssertionError("the network was asked")

socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
from restore_jax.cli import main

code = main(["train", "--data-dir", sys.argv[1], "--out", sys.argv[2]])
loaded = [name for name in ("tensorflow", "tensorflow_datasets") if name in sys.modules]
assert not loaded, loaded
sys.exit(code)
"""


def test_without_data_it_says_so_at_once(tmp_path):
    (tmp_path / "data").mkdir()
    ended = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(tmp_path / "data"), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == ""
    assert ended.stderr.startswith("error: CIFAR-10 is not in ")
    assert ended.stderr.count("\n") == 1
    for way in ("--data-dir", "tfds.data_source", "--dataset shapes"):
        assert way in ended.stderr
    assert not (tmp_path / "out").exists()
