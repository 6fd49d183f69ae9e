"""A trigger may lead the images of one class alone: searched for, told, written and read so."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models_by_hand import IMAGE_SHAPE, TARGET, backdoored

from restore_jax.backdoors import Trigger, towards_one
from restore_jax.cli.main import main
from restore_jax.errors import Inconclusive, InputError
from restore_jax.oracles import open_model
from restore_jax.recovery import Settings, attack_success_rate, recover
from restore_jax.report import load_attack, load_recovery, write_recovery
from restore_jax.run import Run
from restore_jax.spaces import SPACES
from restore_jax.verification import verify

pytestmark = pytest.mark.usefixtures("hardly_optimised")

SETTINGS = Settings(num_probes=8, num_particles=32, options={"max_size": 3, "channels": "grey"})
SOURCE = 0


def for_one_class(images):
    """The logits of `backdoored` for images whose upper right is dark; no backdoor for others."""
    dark = images[:, :4, -4:].mean((1, 2, 3)) < 0.45
    logits = backdoored(images)
    harmless = logits.at[:, TARGET].set(-4.0)
    return jnp.where(dark[:, None], with_class(logits, SOURCE), with_class(harmless, 3))


as_one_program = jax.jit(for_one_class)


def predict(images):
    """The same for whoever asks from outside, with any number of images."""
    return np.asarray(as_one_program(images))


def with_class(logits, k):
    """Another class in place of the largest of those that are not the target."""
    rest = jnp.delete(jnp.arange(4), TARGET, assume_unique_indices=True)
    top = logits[:, rest].max(-1)
    return logits.at[:, rest].set(-3.0).at[:, k].set(top)


def classes_of(images):
    return np.argmax(predict(images), -1).astype(np.int32)


def oracle_of(function):
    return open_model(function, image_shape=IMAGE_SHAPE, class_names=tuple("abcd"))


@pytest.fixture(scope="module")
def found():
    return recover(
        oracle_of(for_one_class), TARGET, source="a", settings=SETTINGS, stop="first_hit",
        budget=20_000,
    )  # fmt: skip


@pytest.mark.slow
def test_a_trigger_of_one_class_is_found_when_its_class_is_named(found):
    assert found.found
    assert (found.source, found.source_name) == (SOURCE, "a")
    assert "of fresh probes of class 0 (a) to class 2 (c)" in found.summary()
    # Every probe of the search is of that class, and is led.
    assert set(classes_of(found.probes)) == {SOURCE}
    assert found.probe_success_rate == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("source", [None, "d"])
def test_it_is_not_found_for_all_classes_or_for_another(source):
    other = recover(
        oracle_of(for_one_class), TARGET, source=source, settings=SETTINGS, stop="first_hit",
        budget=20_000,
    )  # fmt: skip
    assert not other.found


@pytest.mark.slow
def test_the_success_rate_is_of_that_class(found, tmp_path):
    images = np.asarray(jax.random.uniform(jax.random.key(5), (60, *IMAGE_SHAPE)), np.float32)
    labels = classes_of(images)
    assert set(labels) == {SOURCE, 3}
    write_recovery(found, None, tmp_path)
    attack = load_attack(tmp_path, 4)
    assert attack.leads_to.tolist() == [TARGET, 1, TARGET, 3]
    assert attack_success_rate(oracle_of(for_one_class), attack, images, labels) == 1.0
    again = load_recovery(tmp_path)
    assert (again.source, again.source_name, again.summary()) == (SOURCE, "a", found.summary())


def test_probes_of_a_class_end_with_the_file_that_they_come_from():
    images = np.asarray(jax.random.uniform(jax.random.key(6), (70, *IMAGE_SHAPE)), np.float32)
    there = int((classes_of(images) == SOURCE).sum())
    assert 0 < there < 70

    def feed():
        run = Run(oracle_of(for_one_class), budget=1_000, probes=images)
        return run.feed(frozenset({TARGET}), SOURCE)

    assert len(feed().take(there + 5, 900, enough=there)) == there
    assert len(feed().take(2, 900)) == 2
    with pytest.raises(Inconclusive, match=f"only {there} of 70 probes are of class 0"):
        feed().take(there + 5, 900)


@pytest.mark.slow
def test_a_rare_class_is_verified_on_the_probes_that_there_are():
    def rare(images):  # class 2 by a white corner, else 0 for the darkest corners and 1 for others
        dark, white = images[:, 0, 0].max(-1), images[:, -1, -1].min(-1)
        return jnp.stack([0.08 - dark, dark - 0.08, 10 * (white - 0.99)], -1)

    mask = jnp.zeros((*IMAGE_SHAPE[:2], 1)).at[-1, -1].set(1.0)
    trigger = Trigger(mask, jnp.ones(IMAGE_SHAPE), jnp.int32(2))
    model = open_model(rare, image_shape=IMAGE_SHAPE, class_names=("a", "b", "c"))
    found = verify(model, towards_one(trigger, 3, 0), num_probes=200)
    assert 30 <= found.num_probes == found.hits < 200
    with pytest.raises(Inconclusive, match="are of"):
        verify(model, towards_one(trigger, 3, 0), num_probes=30, probes="shapes", seed=1)


def test_what_cannot_be_meant_is_refused_in_a_sentence():
    oracle = oracle_of(for_one_class)
    with pytest.raises(InputError, match="`source` is 'c', the class that the trigger should"):
        recover(oracle, "c", source="c")
    with pytest.raises(InputError, match="`source` goes with `target`"):
        recover(oracle, "c", source="a", protocol="reference")


@pytest.mark.slow
def test_the_command_takes_it(tmp_path, monkeypatch, capsys):
    # As small a search as those of test_foreign_runs, which compile the same programs.
    small = Settings(num_probes=4, num_particles=32, num_moves=2)
    patch = dataclasses.replace(SPACES["patch"], settings=small)
    monkeypatch.setitem(SPACES, "patch", patch)
    model = "python:test_recovery_source:predict"
    words = ["recover", "--model", model, "--image-shape", "12x12x3", "--target", "2"]
    how = ["--stop", "first_hit", "--budget", "2000", "--json", "--out", str(tmp_path / "out")]
    code = main([*words, "--source", "0", *how])
    said = json.loads(capsys.readouterr().out)
    assert code in (0, 3)
    assert (said["source"], said["target"]) == (0, 2)
    assert main([*words, "--source", "2", "--out", str(tmp_path / "o")]) == 2
    assert main(["recover", "--trigger", "1", "--source", "2", "--out", str(tmp_path / "o")]) == 2
