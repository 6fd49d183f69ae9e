"""A model with a backdoor is used safely: triggers go, everything else stays as it was."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models_by_hand import IMAGE_SHAPE, TARGET, backdoored

from restore_jax.backdoors import PlantedPatch, PlantedStripes, Trigger, stamp
from restore_jax.cli import main
from restore_jax.oracles import Inconclusive, open_model
from restore_jax.purification import Defended, defence_cost, defences, purifier, stand_out
from restore_jax.recovery import Settings, recover
from restore_jax.report import write_recovery
from restore_jax.run import Run

NAMES = tuple("abcd")
BLOCK = PlantedPatch("1", 5, 6, ("00", "00"), TARGET, 0.1).trigger(IMAGE_SHAPE)


def smooth_images(number, seed=0, low=0.4):
    """Bright images f32[number, 12, 12, 3] that vary slowly: no dark block in any of them."""
    coarse = jax.random.uniform(jax.random.key(seed), (number, 3, 3, 3), minval=low)
    return jax.image.resize(coarse, (number, *IMAGE_SHAPE), "bilinear")


@pytest.fixture(scope="module")
def oracle():
    return open_model(backdoored, image_shape=IMAGE_SHAPE, class_names=NAMES)


def classes(outputs):
    return np.argmax(np.asarray(outputs), -1)


def test_the_windows_that_stand_out_are_those_that_were_stamped():
    images = smooth_images(20)
    covers, filled = stand_out(stamp(BLOCK, images), 3, 2)
    assert bool(covers[:, 5:7, 6:8].all())
    # What is painted there is what was there, nearly; elsewhere nothing changes.
    np.testing.assert_allclose(filled[:, 5:7, 6:8], images[:, 5:7, 6:8], atol=0.25)
    outside = ~np.broadcast_to(covers, filled.shape)
    np.testing.assert_array_equal(
        np.asarray(filled)[outside], np.asarray(stamp(BLOCK, images))[outside]
    )


def test_a_window_more_is_painted_over_only_where_it_stands_out_as_much():
    images = smooth_images(20)
    one = stamp(BLOCK, images)
    two = one.at[:, 8:10, 1:3].set(0.0)
    faint = one.at[:, 8:10, 1:3].multiply(0.9)
    covered = [float(stand_out(x, 3, 1, 1)[0][:, 8:10, 1:3].mean()) for x in (two, faint)]
    assert covered[0] > 0.9
    assert covered[1] == 0.0
    np.testing.assert_array_equal(stand_out(faint, 3, 1, 1)[1], stand_out(faint, 3, 1)[1])


def test_an_edge_does_not_stand_out():
    image = jnp.ones((1, 12, 12, 3)).at[:, :, 6:].set(0.0).at[:, 2:4, 1:3].set(0.5)
    covers, _ = stand_out(image, 3, 1)
    rows, cols = np.nonzero(np.asarray(covers)[0, ..., 0])
    assert rows.min() <= 3
    assert cols.max() <= 5, "the dot, not the edge at column 6"


def test_a_local_trigger_goes_wherever_it_lies_and_nothing_else_changes(oracle):
    function = jax.jit(purifier(oracle, BLOCK))
    images = smooth_images(60, seed=3)
    plain = backdoored(images)
    assert not np.any(classes(plain) == TARGET)
    outputs, flags = function(images, plain)
    np.testing.assert_array_equal(outputs, plain)
    assert not flags.any()
    for row, col in ((0, 0), (5, 6), (10, 3)):
        moved = PlantedPatch("1", row, col, ("00", "00"), TARGET, 0.1).trigger(IMAGE_SHAPE)
        stamped = stamp(moved, images)
        before = backdoored(stamped)
        assert np.all(classes(before) == TARGET)
        outputs, flags = function(stamped, before)
        assert flags.all()
        assert np.mean(classes(outputs) == classes(plain)) > 0.9


def test_an_image_of_the_class_stays_of_it(oracle):
    """Dark all over: no window of it would make a bright probe the target as a whole does."""

    def by_mean(images):
        dark = 0.4 - jnp.mean(images, (1, 2, 3))
        return backdoored(images).at[:, TARGET].max(4.0 * dark + 0.5)

    careful = open_model(by_mean, image_shape=IMAGE_SHAPE, class_names=NAMES)
    function = purifier(careful, BLOCK)
    dark = 0.1 + 0.1 * smooth_images(20, seed=5)
    plain = by_mean(dark)
    assert np.all(classes(plain) == TARGET)
    outputs, flags = function(dark, plain)
    np.testing.assert_array_equal(classes(outputs), classes(plain))
    assert not flags.any()


def test_a_dense_trigger_is_subtracted():
    stripes = PlantedStripes("s", 0.3, 3.0, target=1, rate=0.1).trigger(IMAGE_SHAPE)
    wave = jnp.sin(2 * jnp.pi * 3.0 * jnp.arange(12) / 12)

    def model(images):
        heard = jnp.mean(images * wave[None, None, :, None], (1, 2, 3))
        red, green, _ = jnp.moveaxis(jnp.mean(images, (1, 2)), -1, 0)
        return jnp.stack([red, 20.0 * heard, green], -1)

    oracle = open_model(model, image_shape=IMAGE_SHAPE, class_names=tuple("abc"))
    images = 0.4 + 0.2 * smooth_images(30, seed=2)
    plain = model(images)
    assert not np.any(classes(plain) == 1)
    stamped = stamp(stripes, images)
    assert np.all(classes(model(stamped)) == 1)
    outputs, flags = purifier(oracle, stripes)(stamped, model(stamped))
    assert flags.all()
    assert np.mean(classes(outputs) == classes(plain)) > 0.9


def test_a_defended_model_counts_and_asks_again_only_where_it_must(oracle):
    run = Run(oracle, budget=10_000)
    found = defences(run, BLOCK)
    before = run.ledger.spent
    assert before <= defence_cost(1)
    defended = Defended(run, found, chunk=16)
    images = np.array(smooth_images(40, seed=7))
    images[::4] = stamp(BLOCK, jnp.asarray(images[::4]))
    outputs, flags, plain = defended(images)
    assert flags.sum() == 10
    assert np.all(flags[::4])
    assert defended.queries == 40 + 2 * 10
    np.testing.assert_array_equal(outputs[~flags], plain[~flags])
    assert not np.any(classes(outputs) == TARGET)


def test_what_cannot_be_purified_is_one_sentence(oracle):
    with pytest.raises(ValueError, match="no trigger was found"):
        purifier(oracle, [])
    harmless = Trigger(BLOCK.mask, jnp.ones(IMAGE_SHAPE), jnp.int32(TARGET))
    with pytest.raises(Inconclusive, match="leads no probe"):
        purifier(oracle, harmless)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--recovery", "nowhere", "--images", "x.npz"], "there is no recovery folder nowhere"),
        (["--recovery", "nowhere", "--images", "x.npz", "--seed", "-1"], "--seed must be"),
    ],
)
def test_bad_input_is_one_sentence(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["purify", *words]) == 2
    assert says in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_the_command_purifies_a_file_of_images(tmp_path, monkeypatch, capsys):
    from restore_jax import oracles

    oracle = open_model(backdoored, image_shape=IMAGE_SHAPE, class_names=NAMES)
    settings = Settings(num_probes=8, num_particles=32, options={"max_size": 2, "levels": 2})
    recovery = recover(oracle, TARGET, settings=settings, budget=20_000, stop="first_hit")
    assert recovery.found
    write_recovery(recovery, None, tmp_path / "found")
    images = np.array(smooth_images(30, seed=9))
    images[:10] = stamp(BLOCK, jnp.asarray(images[:10]))
    np.savez(tmp_path / "images.npz", images=images)
    monkeypatch.setattr(oracles, "open_model", lambda *_, **__: oracle)
    out = tmp_path / "out"
    words = ["purify", "--recovery", str(tmp_path / "found"), "--json"]
    words += ["--images", str(tmp_path / "images.npz"), "--out", str(out)]
    assert main(words) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["flagged"] == 10
    assert result["num_images"] == 30
    endless = [*words[:4], "--images", "dead_leaves", "--out", str(tmp_path / "other")]
    assert main(endless) == 2
    assert "has no end" in capsys.readouterr().err
    lines = (out / "predictions.csv").read_text().splitlines()
    assert lines[0] == "image,model,purified,flagged"
    assert [line.split(",")[3] for line in lines[1:]] == ["1"] * 10 + ["0"] * 20
    assert all(line.split(",")[2] != "c" for line in lines[1:])
