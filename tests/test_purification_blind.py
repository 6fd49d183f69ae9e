"""Guarding all classes without a recovery: triggers go, honest answers stay, every image counts."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from restore_jax.cli.main import main
from restore_jax.errors import InputError
from restore_jax.oracles import open_model
from restore_jax.purification import Defended, blind_looks, blind_report, defend_blindly, purifier
from restore_jax.run import Run

SHAPE = (12, 12, 3)
NAMES = tuple("abcd")
TARGET = 3


def model(images):
    """Logits f32[b, 4]: dark, medium or bright; but class 3 if the upper left corner is red."""
    brightness = images.mean((1, 2, 3))
    red = images[:, 0, 0, 0] - 0.5 * (images[:, 0, 0, 1] + images[:, 0, 0, -1])
    steps = jnp.stack([0.4 - brightness, 0.1 - jnp.abs(brightness - 0.5), brightness - 0.6], -1)
    return jnp.concatenate([20 * steps, 60 * (red[:, None] - 0.7)], -1)


def one_sided(images):
    """Logits of a model that mirroring confuses: whether the left or the right is brighter."""
    left = (images[:, :, :6] - images[:, :, 6:]).mean((1, 2, 3))
    return 50 * jnp.stack([left, -left], -1)


def honest(number, channels=3):
    """Images without colour, f32[number, 12, 12, C], that vary slowly, and far from the borders."""
    level = jnp.tile(jnp.array([0.25, 0.5, 0.75]), number)[:number, None, None, None]
    coarse = jax.random.uniform(jax.random.key(1), (number, 3, 3, 1), minval=-0.05, maxval=0.05)
    smooth = jax.image.resize(coarse, (number, *SHAPE[:2], 1), "bilinear")
    return jnp.broadcast_to(level + smooth, (number, *SHAPE[:2], channels))


def stamped(images):
    return images.at[:, 0, 0].set(jnp.array([1.0, 0.0, 0.0]))


def opened(function=model, access="logits", shape=SHAPE, names=NAMES):
    return open_model(function, access, image_shape=shape, class_names=names)


ANSWERS = {
    "logits": model,
    "probabilities": lambda images: jax.nn.softmax(model(images)),
    "labels": lambda images: jnp.argmax(model(images), -1),
}


def classes(outputs, access="logits"):
    return np.asarray(outputs if access == "labels" else jnp.argmax(outputs, -1))


@pytest.mark.parametrize("access", ANSWERS)
def test_a_trigger_goes_that_nobody_recovered_and_honest_answers_stay(access):
    ask, images = ANSWERS[access], honest(30)
    purify = purifier(opened(ask, access), blind=True)
    wanted = classes(ask(images), access)
    assert set(wanted) == {0, 1, 2}
    led = ask(stamped(images))
    assert set(classes(led, access)) == {TARGET}
    for inputs, outputs, carry in ((images, ask(images), False), (stamped(images), led, True)):
        stands, flags = jax.jit(purify)(inputs, outputs)
        np.testing.assert_array_equal(classes(stands, access), wanted)
        assert flags.tolist() == [carry] * 30
        assert stands.dtype == outputs.dtype


@pytest.mark.slow
def test_it_is_a_function_to_vmap():
    purify = purifier(opened(), blind=True)
    images = stamped(honest(6))
    at_once, flags = purify(images, model(images))
    in_turn = jax.vmap(purify)(images[:, None], model(images)[:, None])
    np.testing.assert_allclose(in_turn[0][:, 0], at_once, rtol=1e-5)
    np.testing.assert_array_equal(in_turn[1][:, 0], flags)


def test_every_image_is_asked_about_four_times_and_counted():
    run = Run(opened(), budget=10_000)
    defended = Defended(run, defend_blindly(run))
    before = run.ledger.spent
    outputs, flags, plain = defended(np.asarray(stamped(honest(9))))
    assert run.ledger.spent - before == defended.queries == 4 * 9
    assert flags.all()
    assert set(classes(plain)) == {TARGET}
    assert set(classes(outputs)) == {0, 1, 2}


def test_grey_images_have_looks_of_their_own():
    assert [look.name for look in blind_looks(1)] == [
        "mirrored", "low frequencies", "mirrored low frequencies",
    ]  # fmt: skip
    images = honest(12, channels=1)
    purify = purifier(opened(shape=(12, 12, 1)), blind=True)
    stands, flags = purify(images, model(images))
    np.testing.assert_array_equal(classes(stands), classes(model(images)))
    assert not flags.any()


def test_the_report_says_what_it_costs_and_warns_of_a_model_that_it_confuses():
    fine = purifier(opened(), blind=True).report
    assert fine.warnings == ()
    assert fine.blind is not None
    assert fine.blind.changed < 0.25
    assert "all classes, blindly" in fine.summary()
    run = Run(opened(one_sided, names=("left", "right")), budget=10_000)
    bad = blind_report(defend_blindly(run))
    assert bad.blind is not None
    assert bad.blind.changed > 0.8
    assert set(bad.blind.changed_by_class) == {"left", "right"}
    assert "may not know images mirrored" in bad.warnings[0]


def test_of_images_of_the_models_own_kind_fewer_may_change():
    images = np.array(honest(40))
    images[:6] = stamped(jnp.asarray(images[:6]))  # what it is led by it does not know changed
    report = purifier(opened(), blind=True, probes=images).report
    assert report.blind is not None
    assert report.blind.changed == 6 / 40
    assert "15% of honest probes" in report.warnings[0]
    assert purifier(opened(), blind=True, probes=images[6:]).report.warnings == ()


def test_recoveries_or_blind_but_not_both_or_neither():
    with pytest.raises(InputError, match="either `recoveries` or `blind`"):
        purifier(opened())
    with pytest.raises(InputError, match="either `recoveries` or `blind`"):
        purifier(opened(), [], blind=True)


@pytest.mark.slow
def test_the_command_guards_blindly(tmp_path, monkeypatch, capsys):
    from restore_jax import oracles

    oracle = opened()
    monkeypatch.setattr(oracles, "open_model", lambda *_, **__: oracle)
    images = np.array(honest(24))
    images[:6] = stamped(jnp.asarray(images[:6]))
    np.savez(tmp_path / "images.npz", images=images)
    words = ["purify", "--images", str(tmp_path / "images.npz"), "--out", str(tmp_path / "out")]
    assert main([*words, "--blind", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["flagged"], result["num_images"], result["recoveries"]) == (6, 24, [])
    assert result["queries_per_image"] == 4.0
    assert result["guards"] == result["unguarded"] == []
    assert len(result["blind"]["looks"]) == 3
    page = (tmp_path / "out" / "report.html").read_text()
    assert "6 of 24 images are given another class" in page
    rows = (tmp_path / "out" / "predictions.csv").read_text().splitlines()[1:]
    assert [row.split(",")[3] for row in rows] == ["1"] * 6 + ["0"] * 18
    for wrong in ([], ["--blind", "--recovery", "x"]):
        assert main([*words, *wrong]) == 2
        assert "either --recovery" in capsys.readouterr().err.splitlines()[-1]
    assert main(["serve"]) == 2
    assert "either --recovery" in capsys.readouterr().err.splitlines()[-1]
