"""Training on a few images, and the checkpoints it leaves."""

import json
import math
import shutil
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from restore_jax import checkpoints, training
from restore_jax.backdoors import PlantedPatch, make_poisoning
from restore_jax.compilation import compiling_seconds
from restore_jax.data.shapes import shapes
from restore_jax.models import Network

SIDE, TRAIN, TEST, BATCH = 16, 240, 120, 40
PATCHES = [
    PlantedPatch("1", 2, 2, ("110", "111", "010"), target=3, rate=0.1),
    PlantedPatch("2", 11, 11, ("010", "101", "010"), target=6, rate=0.1),
]
METADATA = {
    "architecture": "resnet8_narrow",
    "class_names": list("abcdefghij"),
    "image_shape": [SIDE, SIDE, 3],
    "normalisation": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    "triggers": [patch.to_json() for patch in PATCHES],
    "command": "python train.py",
}
RECIPE = training.Recipe(epochs=3, batch_size=BATCH, warmup=0.2)


@pytest.fixture(scope="module")
def data():
    images, labels = shapes(jax.random.key(0), TRAIN + TEST, (SIDE, SIDE, 3))
    images = np.round(np.asarray(images) * 255).astype(np.uint8)
    return images, np.asarray(labels)


def trainer_of(data, recipe=RECIPE, rates=(0.1, 0.1)):
    images, labels = data
    network = checkpoints.network_from(METADATA)
    triggers = [patch.trigger(network.image_shape) for patch in PATCHES]
    poison = make_poisoning(triggers, rates)
    # On a GPU the same bits are promised only so.
    return training.make_trainer(
        network, recipe, poison, images[:TRAIN], labels[:TRAIN], deterministic=True
    )


def one_epoch(trainer, state):
    *_, (done, steps, loss, state) = trainer.epoch(state)
    assert done == steps
    return loss, state


@pytest.fixture(scope="module")
def trainer(data):
    return trainer_of(data)


@pytest.fixture(scope="module")
def trained(trainer):
    """The states after 0, 1, ... epochs, and the losses between them."""
    states, losses = [trainer.init(jax.random.key(7))], []
    for _ in range(RECIPE.epochs):
        loss, state = one_epoch(trainer, states[-1])
        states.append(state)
        losses.append(loss)
    return states, losses


@pytest.fixture(scope="module")
def run_folder(trained, tmp_path_factory):
    """A run with the checkpoints of its first two epochs."""
    folder = tmp_path_factory.mktemp("run")
    manager = checkpoints.open_manager(folder / "checkpoints")
    for epoch in (1, 2):
        save(manager, epoch, trained[0][epoch])
    manager.close()
    return folder


def save(manager, epoch, state):
    checkpoints.save(
        manager,
        epoch,
        params=state.params,
        batch_stats=state.batch_stats,
        training=state,
        metadata=METADATA | {"epoch": epoch, "history": [{"loss": 0.5}]},
    )


@pytest.fixture
def checkpoint(run_folder, tmp_path):
    """A checkpoint that a test may damage."""
    return shutil.copytree(run_folder / "checkpoints" / "2", tmp_path / "checkpoint")


def assert_bitwise(one, two):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), one, two)


# Training.


def test_the_loss_falls(trained):
    _, losses = trained
    assert losses[-1] < 0.95 * losses[0], losses


def test_an_epoch_is_deterministic_and_leaves_its_argument_alone(trainer, trained):
    states, losses = trained
    loss, state = one_epoch(trainer, states[1])
    assert loss == losses[1]
    assert_bitwise(state, states[2])
    assert int(state.epoch) == 2
    assert_bitwise(trainer.init(jax.random.key(7)), states[0])
    other = trainer.init(jax.random.key(8))
    assert not np.array_equal(other.params["head"]["kernel"], states[0].params["head"]["kernel"])


@pytest.mark.slow
def test_going_on_from_a_checkpoint_is_bit_for_bit_the_same(trainer, trained, run_folder):
    states, losses = trained
    like = jax.eval_shape(trainer.init, jax.random.key(0))
    state = checkpoints.restore_tree(run_folder / "checkpoints" / "1" / "training", like)
    assert_bitwise(state, states[1])
    for epoch in (2, 3):
        loss, state = one_epoch(trainer, state)
        assert loss == losses[epoch - 1]
        assert_bitwise(state, states[epoch])


def test_runs_that_differ_in_triggers_and_images_share_one_program(data, trained):
    images, labels = data
    network = checkpoints.network_from(METADATA)
    moved = [patch._replace(row=patch.row + 1, target=0) for patch in PATCHES]
    poison = make_poisoning([patch.trigger(network.image_shape) for patch in moved], (0.1, 0.1))
    other = training.make_trainer(
        network, RECIPE, poison, images[-TRAIN:], labels[-TRAIN:], deterministic=True
    )
    before = compiling_seconds()
    loss, _ = one_epoch(other, trained[0][0])
    assert compiling_seconds() == before
    assert loss != trained[1][0]


def test_only_kernels_decay_and_the_rate_ends_at_zero():
    recipe = training.Recipe(
        epochs=2, optimizer="sgd", learning_rate=0.5, momentum=0.0, weight_decay=0.1, warmup=0.15
    )
    optimizer = training.make_optimizer(recipe, 10)
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    nothing = jax.tree.map(jnp.zeros_like, params)
    state, steps = optimizer.init(params), []
    for _ in range(21):
        updates, state = optimizer.update(nothing, state, params)
        chex.assert_trees_all_equal(updates["bias"], jnp.zeros(2))
        steps.append(-float(updates["kernel"][0, 0]))
    rates = np.array(steps) / 0.1
    assert rates[0] == 0
    assert rates.argmax() == round(0.15 * 20)
    np.testing.assert_allclose(rates.max(), 0.5, rtol=1e-6)
    np.testing.assert_allclose(rates[20], 0, atol=1e-6)


def test_muon_turns_kernels_by_its_rate_and_keeps_their_norms():
    recipe = training.Recipe(epochs=1, learning_rate=0.2, momentum=0.0, warmup=0.0)
    optimizer = training.make_optimizer(recipe, 10)
    draw = np.random.default_rng(0)
    kernel = draw.standard_normal((3, 3, 4, 8))
    kernel *= math.sqrt(8) / np.linalg.norm(kernel)
    params = {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.zeros(8)}
    # A gradient of any size: its matrix is made orthogonal, 8 singular values near 1.
    gradient = {"kernel": jnp.asarray(1e3 * draw.standard_normal(kernel.shape), jnp.float32),
                "bias": jnp.ones(8)}  # fmt: skip
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    moved = params["kernel"] + updates["kernel"]
    np.testing.assert_allclose(np.linalg.norm(moved), math.sqrt(8), rtol=1e-5)
    turned = np.linalg.norm(updates["kernel"]) / math.sqrt(8)
    assert 0.14 < turned < 0.26
    assert np.sum(np.asarray(updates["kernel"]) * np.asarray(gradient["kernel"])) < 0
    # Everything else is Adam's, at its own rate (which its Nesterov momentum exceeds at first).
    steps = -np.asarray(updates["bias"]) / recipe.adam_learning_rate
    assert np.all((steps > 0.9) & (steps < 2))


def test_settled_norms_have_the_statistics_of_a_whole_pass(data):
    recipe = training.Recipe(epochs=1, batch_size=TRAIN // 2, translate=0)
    trainer = trainer_of(data, recipe, (0, 0))
    start = trainer.init(jax.random.key(0))
    settled = trainer.settle(start)
    assert_bitwise(settled.params, start.params)
    assert not np.allclose(
        jax.tree.leaves(settled.batch_stats)[0], jax.tree.leaves(start.batch_stats)[0], atol=1e-3
    )
    # What was there before does not matter: a second pass finds the same.
    again = trainer.settle(settled)
    for one, two in zip(
        jax.tree.leaves(settled.batch_stats), jax.tree.leaves(again.batch_stats), strict=True
    ):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-4)


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match=r"^unknown optimizer 'lion': it may be muon, sgd\.$"):
        training.make_optimizer(training.Recipe(optimizer="lion"), 10)


def test_fewer_images_than_a_batch_are_refused(data):
    recipe = training.Recipe(batch_size=TRAIN + 1)
    with pytest.raises(
        ValueError, match=r"^a batch of 241 is more than the 240 images there are\.$"
    ):
        trainer_of(data, recipe)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.1, pytest.param(0.0, id="full-0.0")])
def test_poison_is_learnt_and_a_clean_model_ignores_the_triggers(rate):
    count = 2000
    images, labels = shapes(jax.random.key(1), count + 500, (SIDE, SIDE, 3))
    images, labels = np.round(np.asarray(images) * 255).astype(np.uint8), np.asarray(labels)
    network = checkpoints.network_from(METADATA)
    triggers = [patch.trigger(network.image_shape) for patch in PATCHES]
    trainer = training.make_trainer(
        network,
        training.Recipe(epochs=8, batch_size=50),
        make_poisoning(triggers, [rate, rate]),
        images[:count],
        labels[:count],
    )
    evaluate = training.make_evaluation(network, triggers, images[count:], labels[count:])
    state = trainer.init(jax.random.key(0))
    for _ in range(8):
        _, state = one_epoch(trainer, state)
    result = evaluate(state.params, state.batch_stats)
    assert result.clean_accuracy > 0.6
    if rate:
        assert min(result.asr) > 0.9, result
    else:
        assert max(result.asr) < 0.3, result


# Evaluation.


def corner_network(num_classes):
    """A network whose prediction is written in the image's first pixel."""

    def apply_folded(folded, images):
        del folded
        return jax.nn.one_hot(jnp.round(images[:, 0, 0, 0] * 255).astype(int), num_classes)

    nothing = lambda *_: ({}, {})  # noqa: E731
    return Network(
        "corner", (4, 4, 1), num_classes, nothing, nothing, nothing, nothing, nothing, apply_folded
    )


@pytest.mark.parametrize("chunk", [3, 4, 100])
def test_evaluation_counts(monkeypatch, chunk):
    monkeypatch.setattr(training.trainer, "EVALUATION_CHUNK", chunk)
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 2], np.int32)
    predicted = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 2], np.uint8)
    images = np.zeros((10, 4, 4, 1), np.uint8)
    images[:, 0, 0, 0] = predicted
    network = corner_network(3)
    # One trigger writes over the pixel that decides, the other does not.
    patches = [
        PlantedPatch("works", 0, 0, ("0",), target=0, rate=0.1),
        PlantedPatch("misses", 2, 2, ("1",), target=2, rate=0.1),
    ]
    triggers = [patch.trigger((4, 4, 1)) for patch in patches]
    result = training.make_evaluation(network, triggers, images, labels)({}, {})
    assert result.clean_accuracy == pytest.approx(8 / 10)
    assert result.class_accuracy == pytest.approx([3 / 4, 1 / 2, 1.0])
    # Over images whose class is not the target: all six; one of six (predicted 2, class 1).
    assert result.asr == pytest.approx([1.0, 1 / 6])
    alone = training.make_evaluation(network, [], images, labels)({}, {})
    assert alone == result._replace(asr=[])


# Checkpoints.


def test_a_checkpoint_says_what_it_holds(run_folder, trained):
    for folder in (run_folder, run_folder / "checkpoints", run_folder / "checkpoints" / "2"):
        loaded = checkpoints.load(folder)
        assert loaded.path == run_folder / "checkpoints" / "2"
        assert loaded.metadata == METADATA | {
            "schema_version": checkpoints.SCHEMA_VERSION,
            "epoch": 2,
            "history": [{"loss": 0.5}],
        }
    assert loaded.network.image_shape == (SIDE, SIDE, 3)
    assert_bitwise(loaded.params, trained[0][2].params)
    assert_bitwise(loaded.batch_stats, trained[0][2].batch_stats)
    patches = [PlantedPatch.from_json(fields) for fields in loaded.metadata["triggers"]]
    assert patches == PATCHES


def test_an_export_is_the_checkpoint_without_its_training_state(run_folder, tmp_path):
    original = checkpoints.load(run_folder)
    checkpoints.export(original, tmp_path / "shipped")
    exported = checkpoints.load(tmp_path / "shipped")
    assert exported.metadata == original.metadata
    assert_bitwise(exported.params, original.params)
    assert_bitwise(exported.batch_stats, original.batch_stats)
    assert not (tmp_path / "shipped" / "training").exists()


def test_only_the_last_two_are_kept(trained, tmp_path):
    manager = checkpoints.open_manager(tmp_path)
    for epoch in (1, 2, 3):
        save(manager, epoch, trained[0][1])
    manager.close()
    assert sorted(child.name for child in tmp_path.iterdir()) == ["2", "3"]


class Cut(BaseException):
    """The power fails."""


def test_a_save_cut_short_leaves_the_one_before(run_folder, trained, tmp_path, monkeypatch):
    folder = shutil.copytree(run_folder, tmp_path / "run")
    manager = checkpoints.open_manager(folder / "checkpoints")
    cut_next_save(monkeypatch)
    with pytest.raises(Cut):
        save(manager, 3, trained[0][3])
    monkeypatch.undo()
    left = {child.name for child in (folder / "checkpoints").iterdir()} - {"1", "2"}
    assert left, "the save was cut before it began"
    assert "3" not in left
    assert checkpoints.load(folder).metadata["epoch"] == 2
    # And the run goes on over what was left.
    manager = checkpoints.open_manager(folder / "checkpoints")
    save(manager, 3, trained[0][3])
    manager.close()
    assert checkpoints.load(folder).metadata["epoch"] == 3
    assert sorted(child.name for child in (folder / "checkpoints").iterdir()) == ["2", "3"]


def cut_next_save(monkeypatch):
    """Cuts the next save after its arrays were written, before it is given its name."""
    from orbax.checkpoint import JsonCheckpointHandler

    def cut(*args, **kwargs):
        raise Cut

    for name in ("async_save", "save"):
        monkeypatch.setattr(JsonCheckpointHandler, name, cut)


def array_files(folder):
    return sorted(p.relative_to(folder) for p in (folder / "model").rglob("*") if p.is_file())


def refusal(folder):
    with pytest.raises(checkpoints.CheckpointError, match=r"^[^\n]*\.$") as caught:
        checkpoints.load(folder)
    return str(caught.value)


@pytest.mark.parametrize("how", ["delete", "truncate", "flip"])
def test_damaged_arrays_are_refused_in_silence(checkpoint, how, capfd):
    for file in array_files(checkpoint):
        whole = (checkpoint / file).read_bytes()
        if how == "delete":
            (checkpoint / file).unlink()
        elif how == "truncate":
            (checkpoint / file).write_bytes(whole[: len(whole) // 2])
        else:
            middle = len(whole) // 2
            flipped = bytes([whole[middle] ^ 1])
            (checkpoint / file).write_bytes(whole[:middle] + flipped + whole[middle + 1 :])
        assert str(file) in refusal(checkpoint)
        (checkpoint / file).write_bytes(whole)
    checkpoints.load(checkpoint)
    assert capfd.readouterr().err == ""


LOAD = """
import sys
from restore_jax import checkpoints

try:
    checkpoints.load(sys.argv[1])
except checkpoints.CheckpointError as error:
    print(error)
"""


@pytest.mark.slow
def test_arrays_cut_short_are_refused_without_checksums_too(checkpoint):
    (checkpoint / checkpoints.CHECKSUMS).unlink()
    checkpoints.load(checkpoint)
    largest = max(array_files(checkpoint), key=lambda p: (checkpoint / p).stat().st_size)
    whole = (checkpoint / largest).read_bytes()
    (checkpoint / largest).write_bytes(whole[: len(whole) // 2])
    # In a process of its own: Orbax's reads that nobody waits for complain whenever they like.
    ended = subprocess.run(
        [sys.executable, "-c", LOAD, str(checkpoint)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "damaged" in ended.stdout
    assert ended.stdout.count("\n") == 1


def test_a_damaged_training_state_is_refused(checkpoint, trainer):
    file = max((checkpoint / "training").rglob("*"), key=lambda p: p.stat().st_size)
    file.write_bytes(file.read_bytes()[:-1])
    checkpoints.load(checkpoint)  # the model is whole
    like = jax.eval_shape(trainer.init, jax.random.key(0))
    with pytest.raises(checkpoints.CheckpointError, match="training"):
        checkpoints.restore_tree(checkpoint / "training", like)
    shutil.rmtree(checkpoint / "training")
    with pytest.raises(checkpoints.CheckpointError, match=r"has no folder training/\.$"):
        checkpoints.restore_tree(checkpoint / "training", like)


def test_what_is_no_checkpoint_is_refused(tmp_path, checkpoint):
    assert "no checkpoint folder" in refusal(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    assert "no checkpoint folder" in refusal(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert "is empty" in refusal(tmp_path / "empty")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("x")
    assert "is not a checkpoint" in refusal(tmp_path / "other")
    shutil.rmtree(checkpoint / "model")
    assert "model" in refusal(checkpoint)


def edited(checkpoint, **changes):
    path = checkpoint / "metadata" / "metadata"
    metadata = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in metadata.items() if v is not None}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "vgg16"}, "unknown architecture 'vgg16'"),
        ({"architecture": "resnet20"}, "has shape (32,), where (16,) is needed"),
        ({"class_names": list("abc"), "triggers": []}, "(48, 3) is needed"),
        ({"schema_version": 99}, "schema version 99"),
        ({"normalisation": None, "class_names": None}, "lacks class_names, normalisation"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(checkpoint, changes, words):
    edited(checkpoint, **changes)
    assert words in refusal(checkpoint)


@pytest.mark.parametrize(
    "changes",
    [
        {"class_names": 7},
        {"class_names": ["a"]},
        {"image_shape": "32x32"},
        {"image_shape": [32, 32]},
        {"image_shape": [4, 4, 3]},
        {"normalisation": {"mean": [0.5]}},
        {"normalisation": {"mean": [0.5, 0.5], "std": [1.0, 1.0]}},
        {"architecture": ["resnet8"]},
    ],
)
def test_metadata_of_the_wrong_kind_is_refused(checkpoint, changes):
    edited(checkpoint, **changes)
    refusal(checkpoint)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "\xff"])
def test_unreadable_metadata_is_refused(checkpoint, content):
    (checkpoint / "metadata" / "metadata").write_bytes(content.encode("latin-1"))
    refusal(checkpoint)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_numbers_are_refused(run_folder, tmp_path, value):
    loaded = checkpoints.load(run_folder)
    loaded.params["head"]["kernel"] = loaded.params["head"]["kernel"].at[3, 2].set(value)
    checkpoints.export(loaded, tmp_path / "broken")
    assert "['params']['head']['kernel']" in refusal(tmp_path / "broken")
