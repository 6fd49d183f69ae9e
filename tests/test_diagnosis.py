"""A scan counts what it says it counts, for all classes at once, and its verdict is what it saw."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models_by_hand import IMAGE_SHAPE, NUM_CLASSES, TARGET, backdoored, clean

from restore_jax.cli import main
from restore_jax.data.probes import ProbeSource, open_probes
from restore_jax.diagnosis import (
    BACKDOOR,
    CLEAN,
    INCONCLUSIVE,
    ScanSettings,
    prediction_bound,
    scan,
    threshold,
)
from restore_jax.diagnosis.pooling import compile_draws, make_pool
from restore_jax.oracles import Inconclusive, labels, open_model
from restore_jax.purification import purifier
from restore_jax.racing import needed
from restore_jax.report import load_recoveries, render_scan, write_files
from restore_jax.run import Run
from restore_jax.spaces import make_space

NAMES = tuple("abcd")
SUCCESS = 0.75
# Grey patches of 1 to 3 pixels a side: black ones of at least 2 by 2 lead to the target.
OPTIONS = {"max_size": 3, "channels": "grey"}
SETTINGS = ScanSettings(
    num_probes=8, num_draws=500, num_particles=16, options={"patch": OPTIONS},
    thresholds={"patch": -1.5},
)  # fmt: skip


def opened(model, access="logits"):
    def answer(images):
        logits = model(images)
        return jnp.argmax(logits, -1) if access == "labels" else logits

    return open_model(answer, access, image_shape=IMAGE_SHAPE, class_names=NAMES)


def bright(seed=0, available=None):
    """Probes in which no block is dark."""

    def read(start, count):
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(
            jnp.arange(start, start + count)
        )
        return np.asarray(jax.vmap(lambda k: jax.random.uniform(k, IMAGE_SHAPE, minval=0.4))(keys))

    return ProbeSource("bright", IMAGE_SHAPE, available, read)


@pytest.fixture(scope="module")
def bright_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("probes") / "bright.npz"
    np.savez(path, images=bright().read(0, 400))
    return str(path)


def the_pool(oracle, m=8, source=None):
    return make_pool(Run(oracle, budget=1000, probes=source or bright()), m)


def test_every_class_gets_as_many_probes_none_of_which_is_its_own():
    oracle = opened(backdoored)
    pool = the_pool(oracle)
    own = np.asarray(labels("logits", oracle.query(pool.probes)))
    assert pool.probes.shape[0] < 3 * 8
    np.testing.assert_array_equal(pool.valid.sum(1), [8] * NUM_CLASSES)
    for k in range(NUM_CLASSES):
        assert not (own[pool.valid[k]] == k).any()
        assert pool.of_class(k).shape == (8, *IMAGE_SHAPE)


def test_a_class_that_takes_all_probes_is_not_judged_and_the_others_are():
    oracle = opened(lambda images: clean(images) + jnp.array([9.0, 0, 0, 0]))
    pool = the_pool(oracle, source=bright(available=40))
    np.testing.assert_array_equal(pool.valid.sum(1), [0, 8, 8, 8])
    with pytest.raises(Inconclusive, match="fewer than 50"):
        the_pool(oracle, m=50, source=bright(available=40))


@pytest.mark.parametrize("access", ["logits", "labels"])
def test_shared_draws_decide_each_class_as_all_its_probes_would(access):
    oracle = opened(backdoored, access)
    pool, space = the_pool(oracle), make_space("patch", IMAGE_SHAPE, **OPTIONS)
    key, n = jax.random.key(3), 200
    run = Run(oracle, budget=100_000)
    found = compile_draws(run, space, pool, SUCCESS, n)(key, np.ones(NUM_CLASSES, bool))
    particles = space.search.sample(key, n)
    images = jax.vmap(space.stamp, (0, None))(particles, pool.probes)
    said = labels(access, oracle.query(images.reshape(-1, *IMAGE_SHAPE))).reshape(n, -1)
    there = np.asarray(said)[..., None] == np.arange(NUM_CLASSES)
    event = (there & pool.valid.T).sum(1) >= needed(SUCCESS, 8)
    assert event[:, TARGET].any()
    np.testing.assert_array_equal(found.hits, event)
    assert int(found.cost) < n * pool.probes.shape[0]


def test_a_settled_class_is_neither_counted_nor_paid_for():
    oracle = opened(backdoored)
    pool, space = the_pool(oracle), make_space("patch", IMAGE_SHAPE, **OPTIONS)
    run = Run(oracle, budget=100_000)
    draws, key = compile_draws(run, space, pool, SUCCESS, 200), jax.random.key(3)
    everything = draws(key, np.ones(NUM_CLASSES, bool))
    watched = np.arange(NUM_CLASSES) != TARGET
    rest = draws(key, watched)
    np.testing.assert_array_equal(rest.hits, np.asarray(everything.hits) & watched)
    assert int(rest.cost) < int(everything.cost)


@pytest.fixture(scope="module")
def looked_at(bright_file):
    """A scan of the backdoored model by hand."""
    return scan(opened(backdoored), space="patch", probes=bright_file, settings=SETTINGS)


def test_the_probability_of_a_class_is_the_exact_one(looked_at):
    # A black 2x2 block leads every probe, fewer black pixels hardly any: the share of patches that
    # have one is counted on many more draws, and without a model.
    space = make_space("patch", IMAGE_SHAPE, **OPTIONS)
    particles = space.search.sample(jax.random.key(99), 20_000)
    canvas = jax.vmap(space.stamp, (0, None))(particles, jnp.ones((1, *IMAGE_SHAPE)))[:, 0, ..., 0]
    black = canvas == 0
    block = black[:, 1:, 1:] & black[:, 1:, :-1] & black[:, :-1, 1:] & black[:, :-1, :-1]
    share = float(block.any((1, 2)).mean())
    low, high = looked_at.classes[TARGET].chances["patch"].interval
    assert low - 0.05 < math.log10(share) < high + 0.05


def test_a_backdoor_is_named_recovered_and_confirmed_and_nothing_else(looked_at, bright_file):
    by_labels = scan(
        opened(backdoored, "labels"), access="labels", space="patch", probes=bright_file,
        settings=SETTINGS,
    )  # fmt: skip
    for found in (looked_at, by_labels):
        assert found.verdict == BACKDOOR
        assert found.targets == [TARGET]
        assert [f.target for f in found.classes if f.suspicious] == [TARGET]
        assert found.recoveries[0].confirmation_success_rate >= 0.95
        assert found.fields["queries"] == sum(found.fields["queries_by_stage"].values())
        assert found.fields["calibrated"] is False
    # Whatever is asked for, the same draws decide the same event.
    assert [f.chances for f in by_labels.classes] == [f.chances for f in looked_at.classes]


def test_a_clean_model_is_left_alone_and_the_undecided_are_searched(bright_file):
    settings = ScanSettings(
        num_probes=8, num_draws=250, num_particles=16, max_levels=3,
        options={"patch": OPTIONS}, thresholds={"patch": -4.0},
    )  # fmt: skip
    found = scan(opened(clean), space="patch", probes=bright_file, settings=settings)
    assert found.verdict == CLEAN
    assert found.targets == []
    assert found.fields["queries_by_stage"]["splitting"] > 0
    assert all(f.chances["patch"].log10_prob is None for f in found.classes if f.target == TARGET)


def test_a_scan_never_asks_more_than_it_may(bright_file):
    for budget in (2_100, 3_500):
        found = scan(
            opened(backdoored), space="patch", probes=bright_file, settings=SETTINGS, budget=budget
        )
        assert found.fields["queries"] <= budget
    assert found.verdict in (BACKDOOR, INCONCLUSIVE)
    with pytest.raises(ValueError, match="too small"):
        scan(opened(backdoored), space="patch", probes=bright_file, budget=100)


def test_an_interrupted_scan_says_what_it_has(bright_file):
    def stop(step):
        if "classes led to" in step.text:
            raise KeyboardInterrupt

    found = scan(
        opened(backdoored), space="patch", probes=bright_file, settings=SETTINGS, on_progress=stop
    )
    assert found.interrupted
    assert found.verdict == INCONCLUSIVE
    assert found.targets == []
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["interrupted"] is True
    assert render_scan(found, None)["scan.png"].startswith(b"\x89PNG")  # of no space at all


def test_the_same_seed_gives_the_same_scan(looked_at, bright_file):
    again = scan(opened(backdoored), space="patch", probes=bright_file, settings=SETTINGS)
    first, second = looked_at.to_json(), again.to_json()
    first.pop("seconds"), second.pop("seconds")
    assert first == second
    masks = [found.recoveries[0].trigger.mask for found in (looked_at, again)]
    np.testing.assert_array_equal(*masks)


def test_the_bound_is_exceeded_as_often_as_it_says():
    # By hand: of 1, 2, 3 the mean is 2, the spread 1, and Student's law with 2 degrees of freedom
    # has its upper 5 % at 2.920.
    assert prediction_bound([1.0, 2.0, 3.0], 0.05) == pytest.approx(
        2 + 2.920 * math.sqrt(4 / 3), abs=0.01
    )
    random = np.random.default_rng(0)
    over = [
        values[-1] > prediction_bound(values[:-1], 0.1) for values in random.normal(size=(4000, 13))
    ]
    assert 0.085 < np.mean(over) < 0.115


def test_thresholds_belong_to_a_prior_and_grow_with_what_is_asked():
    prior = make_space("patch", (32, 32, 3), max_size=3).description
    some = threshold(prior, 0.05, 1, 10)
    assert some is not None
    assert threshold(prior, 0.05, 3, 10) > some
    assert threshold(prior, 0.05, 1, 100) > some
    assert threshold(prior, 0.01, 1, 10) > some
    assert threshold(make_space("patch", (32, 32, 3)).description, 0.05, 1, 10) is None


@pytest.mark.slow
def test_without_a_threshold_classes_are_compared_with_each_other(bright_file):
    settings = ScanSettings(num_probes=8, num_draws=2000, options={"patch": {"channels": "grey"}})
    found = scan(opened(backdoored), space="patch", probes=bright_file, settings=settings)
    assert found.targets == [TARGET]
    assert found.classes[TARGET].chances["patch"].excess is None


def test_a_scan_purifies(looked_at):
    images = jnp.asarray(bright(seed=1).read(0, 40))
    black = images.at[:, 4:6, 7:9].set(0.0)
    function = jax.jit(purifier(opened(backdoored), looked_at))
    outputs, flags = function(black, backdoored(black))
    assert (np.argmax(backdoored(black), -1) == TARGET).all()
    assert np.asarray(flags).mean() > 0.9
    assert (np.argmax(outputs, -1) != TARGET).mean() > 0.9


def test_a_written_scan_is_what_purify_takes(looked_at, tmp_path):
    found = looked_at
    write_files(tmp_path / "scan", render_scan(found, None))
    content = json.loads((tmp_path / "scan" / "scan.json").read_text())
    assert content["verdict"] == "backdoor"
    assert content["targets"] == [TARGET]
    assert len(content["classes"]) == NUM_CLASSES
    assert (tmp_path / "scan" / "scan.png").read_bytes().startswith(b"\x89PNG")
    back = load_recoveries([tmp_path / "scan"])
    assert [int(recovery.trigger.target) for recovery in back] == [TARGET]
    np.testing.assert_array_equal(back[0].trigger.mask, found.recoveries[0].trigger.mask)


@pytest.mark.parametrize(
    "words",
    [
        ["--false-alarm-rate", "0"],
        ["--false-alarm-rate", "1.5"],
        ["--success", "0"],
        ["--budget", "0"],
        ["--budget", "50"],
        ["--space", "auto", "patch"],
        ["--space", "patch", "patch"],
    ],
)
def test_bad_flags_are_refused_in_a_sentence(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["scan", *words]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_the_packaged_model_is_seen_through_and_then_used(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["scan", "--json"]) == 3
    content = json.loads(capsys.readouterr().out)
    assert content["targets"] == [3, 6]
    assert [one["class"] for one in content["classes"] if one["suspicious"]] == [3, 6]
    assert content["calibrated"] is True
    np.savez(tmp_path / "images.npz", images=open_probes("dead_leaves", 7, (32, 32, 3)).draw(0, 50))
    words = ["purify", "--recovery", content["out"], "--images", "images.npz", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["targets"] == [3, 6]
