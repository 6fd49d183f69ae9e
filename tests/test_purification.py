"""A model with a backdoor is used safely: triggers go, everything else stays as it was."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models_by_hand import IMAGE_SHAPE, TARGET, backdoored

from restore_jax.backdoors import PlantedPatch, PlantedStripes, Trigger, stamp
from restore_jax.cli import main
from restore_jax.diagnosis import ClassFinding, Scan, ScanSettings
from restore_jax.oracles import Inconclusive, open_model
from restore_jax.purification import (
    Defended,
    defence_cost,
    defences,
    looks,
    purifier,
    stand_out,
)
from restore_jax.purification.menu import menu
from restore_jax.purification.rules import verdict
from restore_jax.recovery import Settings, recover
from restore_jax.report import write_recovery
from restore_jax.run import Cost, Run

pytestmark = pytest.mark.usefixtures("hardly_optimised")

NAMES = tuple("abcd")
BLOCK = PlantedPatch("1", 5, 6, ("00", "00"), TARGET, 0.1).trigger(IMAGE_SHAPE)


def smooth_images(number, seed=0, low=0.4):
    """Bright images f32[number, 12, 12, 3] that vary slowly: no dark block in any of them."""
    coarse = jax.random.uniform(jax.random.key(seed), (number, 3, 3, 3), minval=low)
    return jax.image.resize(coarse, (number, *IMAGE_SHAPE), "bilinear")


@pytest.fixture(scope="module")
def oracle():
    return open_model(backdoored, image_shape=IMAGE_SHAPE, class_names=NAMES)


@pytest.fixture(scope="module")
def purify(oracle):
    """Learned once: what is asked of it is asked of the same one."""
    return purifier(oracle, BLOCK)


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


def test_a_median_over_a_cross_takes_single_pixels_away_and_spares_edges():
    image = np.zeros((1, 8, 8, 3), np.float32)
    image[:, :, 4:] = 1.0  # an edge stays
    np.testing.assert_array_equal(looks.cross_median(image), image)
    dotted = image.copy()
    dotted[0, 2, 2], dotted[0, 5, 6] = 1.0, 0.0  # single pixels go
    np.testing.assert_array_equal(looks.cross_median(dotted), image)
    # Mirrored, it is the same of the mirrored image.
    np.testing.assert_array_equal(looks.mirrored_cross_median(dotted), image[:, :, ::-1])
    assert looks.cross_median(np.full((1, 4, 6, 1), 0.5, np.float32)).shape == (1, 4, 6, 1)


def test_where_a_warp_was_recovered_medians_are_preferred():
    local = Trigger(np.zeros((8, 8, 1)), np.zeros((8, 8, 3)), jnp.int32(1))
    warp = dataclasses.replace(local, flow=np.ones((8, 8, 2), np.float32))
    medians = ("median", "mirrored median")
    for channels in (1, 3):
        usual, warped = (menu((8, 8, channels), [one]) for one in (local, warp))
        assert tuple(look.name for look in warped[0].looks) == medians
        assert tuple(look.name for look in usual[0].looks) != medians
        # The others are there all the same.
        assert {rule.looks[0].name for rule in usual} < {rule.looks[0].name for rule in warped}


@pytest.mark.slow
def test_a_local_trigger_goes_wherever_it_lies_and_nothing_else_changes(purify):
    function = jax.jit(purify)
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


def mirror_breaks(images):
    """Logits f32[b, 4] of a model that is the same for an image mirrored, but for a backdoor.

    Class 2 leads where the upper left corner is darker than the upper right one. Otherwise the
    class is 0, 1 or 3, by the image's colour.
    """
    left, right = jnp.mean(images[:, :3, :3], (1, 2, 3)), jnp.mean(images[:, :3, -3:], (1, 2, 3))
    red, green, blue = jnp.moveaxis(jnp.mean(images, (1, 2)), -1, 0)
    return jnp.stack([red, green, 4.0 * (right - left) - 0.5, blue], -1)


@pytest.mark.slow
def test_a_trigger_that_was_never_recovered_goes_with_one_that_was():
    """The class is guarded, not the pattern: a large faint shade, where a small block was found."""
    oracle = open_model(mirror_breaks, image_shape=IMAGE_SHAPE, class_names=NAMES)
    mask = jnp.zeros((*IMAGE_SHAPE[:2], 1)).at[:3, :3].set(1.0)
    recovered = Trigger(mask, jnp.zeros(IMAGE_SHAPE), jnp.int32(TARGET))
    shade = jnp.linspace(1.0, 0.0, 12)[None, :, None] * jnp.ones(IMAGE_SHAPE)
    planted = Trigger(jnp.ones_like(mask), -0.6 * shade, jnp.int32(TARGET), additive=True)
    images = smooth_images(60, seed=3)
    images = 0.5 * (images + images[:, :, ::-1])
    stamped = stamp(planted, images)
    before = mirror_breaks(stamped)
    assert np.mean(classes(before) == TARGET) > 0.9
    purify = purifier(oracle, recovered)
    outputs, flags = purify(stamped, before)
    assert np.mean(classes(outputs) == TARGET) < 0.1
    np.testing.assert_array_equal(flags, classes(outputs) != classes(before))
    plain = mirror_breaks(images)
    np.testing.assert_array_equal(purify(images, plain)[0], plain)
    power = purify.report.guards[0]
    assert power.held_out > 0
    assert power.worst_asr_after <= 0.1 < 0.7 < power.asr_before


@pytest.mark.slow
def test_the_report_says_what_the_guards_do(purify):
    report = purify.report
    power = report.guards[0]
    assert (power.target, power.target_name) == (TARGET, "c")
    assert report.unguarded == ("a", "b", "d")
    assert power.asr_after < 0.5 * power.asr_before
    assert 1 <= len(power.looks) <= 2
    assert 0 <= power.clean_loss <= 1
    text = report.summary()
    assert "class 2 (c)" in text
    assert "a, b, d (whatever leads there goes through)" in text


@pytest.mark.slow
def test_a_trigger_that_no_look_removes_is_a_warning():
    """Class 2 leads if an image is dark, mirrored or moved or smoothed or grey: nothing helps."""

    def by_mean(images):
        red, green, blue = jnp.moveaxis(jnp.mean(images, (1, 2)), -1, 0)
        return jnp.stack([red, green, 2.0 - 8.0 * jnp.mean(images, (1, 2, 3)), blue], -1)

    oracle = open_model(by_mean, image_shape=IMAGE_SHAPE, class_names=NAMES)
    ones = jnp.ones((*IMAGE_SHAPE[:2], 1))
    dark = Trigger(ones, jnp.zeros(IMAGE_SHAPE), jnp.int32(TARGET))
    report = purifier(oracle, dark, probes=np.asarray(smooth_images(100))).report
    assert report.guards[0].recovered_asr_after > 0.9
    assert any("triggers to c are not removed" in text for text in report.warnings)
    assert "not removed" in report.summary()


@pytest.mark.slow
def test_a_class_that_was_not_named_goes_through_and_the_report_says_so(oracle):
    """A scan that accused class 3: the trigger to class 2 works on, which nobody may overlook."""
    ones = jnp.ones((*IMAGE_SHAPE[:2], 1))
    blue = jnp.zeros(IMAGE_SHAPE).at[..., 2].set(1.0)
    wrong = Trigger(0.9 * ones, blue, jnp.int32(3))
    purify = purifier(oracle, wrong)
    assert "c" in purify.report.unguarded
    assert "c, " in purify.report.summary() or ", c" in purify.report.summary()
    stamped = stamp(BLOCK, smooth_images(20, seed=4))
    before = backdoored(stamped)
    outputs, flags = purify(stamped, before)
    assert not flags.any()
    np.testing.assert_array_equal(outputs, before)


def a_scan(named, recovery=None):
    """What a scan of a model with four classes may say."""
    findings = [
        ClassFinding(k, NAMES[k], 1.0, "patch", 0.1, k in named, recovery if k == TARGET else None)
        for k in range(4)
    ]
    return Scan(
        verdict="suspicious" if named else "nothing found",
        reason="",
        interrupted=False,
        classes=findings,
        spaces={},
        calibrated=True,
        false_alarm_rate=0.05,
        false_alarm_bound=0.05,
        success=0.95,
        classes_covered=4,
        goal=0.0,
        settings=ScanSettings(),
        cost=Cost(0, 1, {}, {}, {}),
        provenance=Run(open_model(backdoored, image_shape=IMAGE_SHAPE), budget=1).provenance(),
    )


@pytest.mark.parametrize(
    ("named", "says"),
    [((), "the scan named no class"), ((1,), "confirmed no trigger of class 1")],
)
def test_a_scan_that_names_nothing_cannot_be_purified_with(oracle, named, says):
    with pytest.raises(ValueError, match=says) as caught:
        purifier(oracle, a_scan(named))
    assert "purify cannot help" in str(caught.value)
    assert "goes through" in str(caught.value)


@pytest.mark.slow
def test_a_purifier_is_a_function_to_jit_and_to_vmap(purify):
    images = jnp.concatenate([stamp(BLOCK, smooth_images(6, seed=8)), smooth_images(6, seed=9)])
    plain = backdoored(images)
    outputs, flags = purify(images, plain)
    compiled = jax.jit(purify)(images, plain)
    np.testing.assert_array_equal(compiled[1], flags)
    np.testing.assert_allclose(compiled[0], outputs, atol=1e-5)
    halves = jax.vmap(purify)(images.reshape(2, 6, *IMAGE_SHAPE), plain.reshape(2, 6, -1))
    np.testing.assert_array_equal(halves[1].reshape(-1), flags)
    np.testing.assert_allclose(halves[0].reshape(outputs.shape), outputs, atol=1e-5)


@pytest.mark.parametrize(
    "access", [pytest.param("probabilities", marks=pytest.mark.slow), "labels"]
)
def test_every_access_is_purified(access):
    oracle = open_model(
        lambda x: jax.nn.softmax(backdoored(x)) if access != "labels" else backdoored(x).argmax(-1),
        access=access, image_shape=IMAGE_SHAPE, class_names=NAMES,
    )  # fmt: skip
    images = smooth_images(40, seed=11)
    stamped = stamp(BLOCK, images)
    outputs, flags = purifier(oracle, BLOCK)(stamped, oracle.query(stamped))
    assert flags.mean() > 0.5
    assert outputs.dtype == oracle.query(stamped).dtype
    given = np.asarray(outputs if access == "labels" else outputs.argmax(-1))
    assert np.all(given[np.asarray(flags)] != TARGET)
    if access == "probabilities":
        np.testing.assert_allclose(outputs.sum(-1), 1.0, atol=1e-3)


@pytest.mark.slow
def test_the_same_seed_chooses_the_same(oracle, purify):
    assert purifier(oracle, BLOCK).report == purify.report


LOGITS = jnp.log(jnp.array([[0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1]]))
OTHER = jnp.log(jnp.array([[0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2]]))


@pytest.mark.parametrize(
    ("rule", "flags", "stands"),
    [
        ("alone", [False, True, False], {1: 0}),
        ("mean", [False, False, False], {}),
        ("first", [False, True, False], {1: 0}),
        ("either", [False, True, True], {1: 0, 2: 0}),
    ],
)
def test_a_rule_reads_two_answers(rule, flags, stands):
    """Class 1 is guarded. The means of the second and third row are still class 1."""
    outputs, flagged = verdict(rule, "logits", 1, LOGITS, OTHER)
    assert flagged.tolist() == flags
    for row, label in stands.items():
        assert int(jnp.argmax(outputs[row])) == label


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


def test_the_command_says_that_a_scan_that_named_nothing_is_of_no_use(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scan").mkdir()
    content = {"schema_version": 2, "verdict": "nothing found", "targets": []}
    (tmp_path / "scan" / "scan.json").write_text(json.dumps(content))
    assert main(["purify", "--recovery", "scan", "--images", "x.npz"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "confirmed no trigger (its verdict: nothing found)" in said
    assert "purify cannot help" in said


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
    page = (out / "report.html").read_text()
    assert "10 of 30 images carry a trigger" in page
    assert page.count('alt="image ') == 10
    written = json.loads((out / "purification.json").read_text())
    assert [guard["target"] for guard in written["guards"]] == [TARGET]
    assert written["guards"][0]["recovered_asr_before"] > 0.9
    assert written["unguarded"] == ["a", "b", "d"]
    assert written["warnings"] == result["warnings"]
    lines = (out / "predictions.csv").read_text().splitlines()
    assert lines[0] == "image,model,purified,flagged"
    assert [line.split(",")[3] for line in lines[1:]] == ["1"] * 10 + ["0"] * 20
    assert all(line.split(",")[2] != "c" for line in lines[1:])
