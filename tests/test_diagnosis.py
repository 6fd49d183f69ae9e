"""A scan sees what is there, in every class at once, and its verdict is what it saw."""

import dataclasses
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models_by_hand import IMAGE_SHAPE, NUM_CLASSES, TARGET, backdoored, clean

from restore_jax.cli import main
from restore_jax.data.probes import ProbeSource, open_probes
from restore_jax.diagnosis import (
    BACKDOOR,
    INCONCLUSIVE,
    NOTHING,
    SUSPICIOUS,
    ClassLook,
    ScanSettings,
    SpaceLook,
    depths_by,
    false_alarm_bound,
    looking,
    null,
    procedure,
    scan,
)
from restore_jax.diagnosis.descent import make_descent
from restore_jax.diagnosis.drawing import Draws, all_margins, draw, scores_of
from restore_jax.diagnosis.looking import Followed
from restore_jax.diagnosis.null import PROBES_SEED
from restore_jax.diagnosis.preparing import prepare
from restore_jax.diagnosis.probing import make_pool
from restore_jax.diagnosis.procedure import images_for
from restore_jax.diagnosis.standing import (
    Ease,
    Profile,
    count_beyond,
    ease,
    level_at,
    plausible,
    standings,
    standings_by_events,
)
from restore_jax.errors import InputError
from restore_jax.oracles import Inconclusive, ModelError, margins, open_model
from restore_jax.purification import purifier
from restore_jax.report import (
    ResultError,
    foremost,
    load_recoveries,
    load_scan,
    render_scan,
    scan_content,
    write_files,
)
from restore_jax.run import Limits, Run
from restore_jax.spaces import SPACES, catalogue, make_space

NAMES = tuple("abcd")
SUCCESS = 0.75
# Grey patches of 1 to 3 pixels a side: black ones of at least 2 by 2 lead to the target.
OPTIONS = {"max_size": 3, "channels": "grey"}
SETTINGS = ScanSettings(
    num_probes=8, num_draws=128, num_particles=24, num_moves=3, depths={"patch": -2.5},
    options={"patch": OPTIONS},
)  # fmt: skip


def opened(model, access="logits"):
    def answer(images):
        logits = model(images)
        if access == "labels":
            return jnp.argmax(logits, -1)
        return jax.nn.softmax(logits) if access == "probabilities" else logits

    return open_model(answer, access, image_shape=IMAGE_SHAPE, class_names=NAMES)


def bright(seed=0, available=None):
    """Probes in which no block is dark."""

    def read(start, count):
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(
            jnp.arange(start, start + count)
        )
        return np.asarray(jax.vmap(lambda k: jax.random.uniform(k, IMAGE_SHAPE, minval=0.4))(keys))

    return ProbeSource("bright", IMAGE_SHAPE, available, read)


def the_run(model, access="logits", budget=100_000, source=None):
    return Run(opened(model, access), budget=budget, probes=source or bright())


@pytest.fixture(scope="module")
def bright_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("probes") / "bright.npz"
    np.savez(path, images=bright().read(0, 400))
    return str(path)


@pytest.fixture(scope="module")
def looked_at(bright_file):
    """A scan of the backdoored model by hand."""
    found = scan(
        opened(backdoored), space="patch", probes=bright_file, settings=SETTINGS, success=SUCCESS
    )
    return found


@pytest.fixture(scope="module")
def judged(bright_file):
    """The same scan once more, where nine clean models were measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(procedure, "clean_models", lambda work, looks: [0.1, 0.4, 1.0] * 6)
        return scanned(backdoored, probes=bright_file)


# Probes.


def test_probes_are_as_even_over_the_classes_as_the_model_allows():
    run = the_run(backdoored)
    pool = make_pool(run, [bright()], 8)
    own = np.asarray(jnp.argmax(backdoored(pool.probes), -1))
    np.testing.assert_array_equal(pool.predicted, own)
    np.testing.assert_array_equal(pool.valid.sum(1), [8] * NUM_CLASSES)
    for k in range(NUM_CLASSES):
        assert not (own[pool.valid[k]] == k).any()
    counts = np.bincount(own, minlength=NUM_CLASSES)[[0, 1, 3]]
    assert counts.max() - counts.min() <= 1
    assert pool.covered == 3
    assert run.ledger.spent == len(pool.looked_at[1]) == 96


def test_another_kind_of_image_is_looked_at_where_the_first_shows_few_classes():
    # Bright images are of class 0, dark ones of the three others.
    def by_light(images):
        light = images.mean((1, 2, 3))
        third = jnp.floor(images[:, 0, 0, 0] * 30).astype(int) % 3 + 1
        return 9.0 * jax.nn.one_hot(jnp.where(light > 0.5, 0, third), NUM_CLASSES)

    def half(low, seed):
        source = bright(seed)
        return dataclasses.replace(
            source, read=lambda start, count: low + 0.3 * (source.read(start, count) - 0.4)
        )

    run = the_run(by_light)
    pool = make_pool(run, [half(0.7, 0), half(0.0, 1)], 8)
    assert pool.covered == NUM_CLASSES
    assert len(np.unique(pool.predicted)) == NUM_CLASSES


def test_a_model_that_gives_every_probe_one_class_is_not_called_clean():
    constant = lambda images: jnp.zeros((images.shape[0], 4)).at[:, 1].set(1.0)  # noqa: E731
    with pytest.raises(Inconclusive, match=r"same class, 1.*`value_range`.*`mean`.*`layout`"):
        make_pool(the_run(constant), [bright()], 8)


# Scores.


def test_margins_of_all_classes_are_those_of_each():
    values = np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32)
    values[7, 1] = values[7, 3] = values[7].max() + 1  # a tie at the top
    for access in ("logits", "probabilities"):
        outputs = values if access == "logits" else np.asarray(jax.nn.softmax(30 * values))
        found = all_margins(access, outputs)
        for k in range(5):
            np.testing.assert_allclose(
                found[:, k], margins(access, outputs, k), rtol=1e-5, atol=1e-5
            )
            np.testing.assert_array_equal(found[:, k] >= 0, outputs.argmax(-1) == k)


@pytest.mark.parametrize("access", ["logits", "labels"])
def test_one_answer_speaks_for_every_class(access):
    run = the_run(backdoored, access)
    pool = make_pool(run, [bright()], 8)
    space, n, before = make_space("patch", IMAGE_SHAPE, **OPTIONS), 40, run.ledger.spent
    particles, outputs, alone = draw(run, space, pool, n, jax.random.key(3))
    assert run.ledger.spent - before == (n + 1) * len(pool.probes)
    scores = scores_of(access, outputs, pool, SUCCESS, NUM_CLASSES)
    images = jax.vmap(space.stamp, (0, None))(particles, pool.probes)
    for k in range(NUM_CLASSES):
        for i in range(n):
            lead = margins("logits", backdoored(images[i][pool.valid[k]]), k)
            by_hand = (lead >= 0).sum() if access == "labels" else jnp.sort(lead)[8 - 6]
            assert scores[k, i] == pytest.approx(float(by_hand), abs=1e-5)
    assert (scores[TARGET] >= (6 if access == "labels" else 0)).any()
    empty = scores_of(access, alone[None], pool, SUCCESS, NUM_CLASSES)
    assert (empty < (6 if access == "labels" else 0)).all()


# The descent.


def lanes_of(run, together, levels=2, asked=None, only=range(NUM_CLASSES)):
    pool = make_pool(run, [bright()], 8)
    space = make_space("patch", IMAGE_SHAPE, **OPTIONS)
    particles, outputs, alone = draw(run, space, pool, 128, jax.random.key(3))
    here = (pool, SUCCESS, NUM_CLASSES)
    draws = Draws(
        particles, scores_of("logits", outputs, *here),
        scores_of("logits", alone[None], *here)[:, 0], alone,
    )  # fmt: skip
    probes = {k: pool.probes[np.flatnonzero(pool.valid[k])] for k in range(NUM_CLASSES)}
    how = {} if together is None else {"together": together}

    def probes_of(k):
        if asked is not None:
            asked.append(k)
        return probes[k]

    descent = make_descent(run, space, SETTINGS, SUCCESS, probes_of, **how)
    lanes = [descent.begin(jax.random.key(5), k, draws) for k in range(NUM_CLASSES)]
    for _ in range(levels):
        lanes = descent.advance([lanes[k] for k in only])
    return lanes


@pytest.mark.slow
def test_classes_side_by_side_are_what_they_are_alone():
    # Three lanes in one program, the second round of which has places to fill.
    runs = the_run(backdoored), the_run(backdoored)
    alone, together = lanes_of(runs[0], 1), lanes_of(runs[1], 3)
    for one, other in zip(alone, together, strict=True):
        assert one.levels == other.levels
        assert one.depths == other.depths
        for mine, yours in zip(
            jax.tree.leaves(one.state), jax.tree.leaves(other.state), strict=True
        ):
            np.testing.assert_array_equal(mine, yours)
    assert runs[0].ledger.spent == runs[1].ledger.spent


@pytest.mark.slow
def test_probes_of_a_class_are_taken_from_the_pool_only_while_its_level_is_made():
    # Of a thousand classes of large images all together would be gigabytes.
    asked = []
    lanes = lanes_of(the_run(backdoored), None, levels=0, asked=asked)
    begun = list(asked)
    assert begun == list(range(NUM_CLASSES))
    leaves = [leaf for lane in lanes for leaf in jax.tree.leaves(lane)]
    assert max(np.size(leaf) for leaf in leaves) < 8 * math.prod(IMAGE_SHAPE)
    lanes_of(the_run(backdoored), None, levels=1, asked=asked, only=[TARGET])
    assert asked == [*begun, *begun, TARGET]


@pytest.mark.slow
def test_lanes_of_large_images_that_go_a_few_at_a_time_are_what_they_are_together(monkeypatch):
    run = the_run(backdoored)
    whole = lanes_of(run, None, levels=1)
    monkeypatch.setattr(
        "restore_jax.diagnosis.descent.BYTES_TOGETHER", 2 * 8 * 4 * math.prod(IMAGE_SHAPE)
    )
    few = lanes_of(the_run(backdoored), None, levels=1)
    assert [lane.levels for lane in few] == [lane.levels for lane in whole]
    assert [lane.depths for lane in few] == [lane.depths for lane in whole]


@pytest.mark.slow
def test_levels_rise_as_probabilities_fall_and_the_best_draws_come_first():
    lane = lanes_of(the_run(backdoored), None)[TARGET]
    assert lane.depths[0] == pytest.approx(math.log10(24 / 128))
    assert all(
        later < earlier for earlier, later in zip(lane.depths, lane.depths[1:], strict=False)
    )
    assert all(
        later > earlier for earlier, later in zip(lane.levels, lane.levels[1:], strict=False)
    )


# Standings.


def test_a_level_between_two_is_on_their_line_and_beyond_the_last_it_is_the_last():
    assert level_at((-1.0, -2.0, -4.0), (0.0, 1.0, 5.0), -3.0) == pytest.approx(3.0)
    assert level_at((-1.0, -2.0), (0.0, 1.0), -9.0) == 1.0


def test_a_standing_has_no_unit_and_knows_what_is_usual():
    gains, lacks = {0: 3.0, 1: 1.0, 2: 1.2, 3: 0.8}, dict.fromkeys(range(4), 4.0)
    flat = Profile([0.0] * 4, 0.1)
    plain = standings(gains, lacks, [flat])
    louder = standings({k: 7 * g for k, g in gains.items()}, dict.fromkeys(range(4), 28.0), [flat])
    for k in range(4):
        assert louder[k].value == pytest.approx(plain[k].value)
    assert plain[0].value == max(one.value for one in plain.values())
    # The square root of 3 / 4, less that of the median of the others, 1 / 4: in units of 0.1.
    assert plain[0].value == pytest.approx((math.sqrt(0.75) - 0.5) / 0.1)
    # Where class 0 is easy by nature, in one family of networks, that is not so far.
    easy = Profile([0.3, 0.0, 0.0, 0.0], 0.1)
    both = standings(gains, lacks, [flat, easy])
    assert both[0].value == pytest.approx(plain[0].value - 3.0)


def test_with_counts_a_class_is_judged_by_the_profiles_that_the_others_fit():
    lacks = dict.fromkeys(range(5), 1.0)
    gains = {0: 0.9**2, 1: 0.4**2, 2: 0.5**2, 3: 0.4**2, 4: 0.8**2}
    mine, other = Profile([0.1, 0.0, 0.1, 0.0, 0.4], 0.1), Profile([0.6, 0.4, 0.0, 0.1, 0.0], 0.1)
    # By the family whose classes 1 to 4 these are class 0 stands out, by another it would not.
    assert standings(gains, lacks, [mine, other])[0].value < 1.0
    assert standings(gains, lacks, [mine, other], 0.03)[0].value == pytest.approx(4.0)
    assert standings(gains, lacks, [other, mine], 0.03)[0].value == pytest.approx(4.0)
    # Two that fit about equally well have to agree.
    third = Profile([0.3, 0.01, 0.09, 0.0, 0.41], 0.1)
    assert standings(gains, lacks, [mine, third], 0.03)[0].value < 2.5


def test_a_count_goes_on_by_the_decades_that_are_left():
    assert count_beyond(-5.0, 12.0, -5.0) == 12.0
    assert count_beyond(-7.0, 12.0, -5.0) == 12.0
    assert count_beyond(-2.5, 12.0, -5.0) == 18.0
    assert count_beyond(-0.1, 12.0, -5.0) < 24.0


def test_a_model_is_compared_with_the_families_that_it_may_be_of():
    families = {"hard": Ease(0.6, 0.06), "easy": Ease(0.9, 0.01)}
    assert ease({0: 1.0, 1: 4.0, 2: 0.0}, {0: 4.0, 1: 4.0, 2: 4.0}) == 0.5
    assert plausible(0.55, families) == {"hard"}
    assert plausible(0.81, families) == {"easy"}  # few models: their spread is not believed
    # Of neither, or of nobody knows which: then it has to stand out from all of them.
    assert plausible(0.75, families) == plausible(2.0, families) == set(families)
    assert plausible(None, families) == set(families)


def test_how_easily_patches_lead_a_model_decides_for_all_of_its_spaces(monkeypatch):
    flat = {"offsets": [0.0] * NUM_CLASSES, "spread": 0.1}
    cat = {"offsets": [0.0, 0.0, 0.9, 0.0], "spread": 0.1}
    monkeypatch.setattr(
        looking, "profiles", lambda *_: {n: Profile(**p) for n, p in (("a", flat), ("b", cat))}
    )
    work = SimpleNamespace(
        conditions=SimpleNamespace(access="logits"), settings=None,
        run=SimpleNamespace(model=SimpleNamespace(access="logits")),
    )  # fmt: skip

    def a_look(levels):
        lanes = {
            k: SimpleNamespace(
                target=k, depths=(-1.0,), levels=(level,), event=math.nan, running=False
            )
            for k, level in enumerate(levels)
        }
        draws = SimpleNamespace(empty=np.full(NUM_CLASSES, -1.0))
        seen = SpaceLook(
            {"space": "x"}, -1.0,
            {k: ClassLook(None, 0.0, 0, (), -1.0, None) for k in lanes}, 0.0, 0.0, 0,
        )  # fmt: skip
        beginning = SimpleNamespace(draws=draws, goal=0.0)
        return looking.Look(seen, beginning, Followed(lanes, frozenset()))

    # In both spaces class 2 is led a whole unit further than the others.
    looks = {
        "patch": a_look([-0.75, -0.75, 1.25, -0.75]),
        "smooth": a_look([-0.5, -0.5, 1.5, -0.5]),
    }
    for eases, low, high in (
        ({"a": Ease(0.5, 0.05), "b": Ease(0.9, 0.05)}, 7, 11),  # as hard as a: compared with a
        ({"a": Ease(0.9, 0.05), "b": Ease(0.5, 0.05)}, -1, 2),  # as hard as b, where it is usual
        ({"a": Ease(0.9, 0.05), "b": Ease(1.9, 0.05)}, -1, 2),  # neither: compared with both
    ):
        monkeypatch.setattr(looking, "eases", lambda access, found=eases: found)
        for one in looking.stand(work, looks).values():
            assert low <= one.seen.classes[2].standing.value <= high


def test_without_profiles_the_classes_own_spread_is_the_unit():
    wide = dict(enumerate([4.0, 0.2, 1.0, 2.0, 3.0]))
    narrow = dict(enumerate([4.0, 1.0, 1.0, 1.0, 1.0]))
    lacks = dict.fromkeys(range(5), 4.0)
    assert standings(wide, lacks, [])[0].value < standings(narrow, lacks, [])[0].value


def test_without_profiles_the_events_probability_stands_for_itself():
    found = standings_by_events({0: -1.5, 1: -4.0, 2: -4.0, 3: -3.5})
    assert found[0].value == pytest.approx(2.5 / 0.5)
    assert found[0].reach == 1.0
    assert found[1].reach == 0.0


# The null.


def test_the_false_alarm_bound_holds_for_any_law_and_number():
    random, alpha = np.random.default_rng(0), 0.12
    for n in (9, 18):
        values = random.standard_cauchy(size=(20_000, n + 1))
        named = [false_alarm_bound(row[-1], row[:-1]) <= alpha for row in values]
        assert np.mean(named) <= alpha + 0.01
        assert np.mean(named) >= math.floor(alpha * (n + 1)) / (n + 1) - 0.01


def test_the_null_in_the_package_speaks_for_the_default_scan_and_for_no_other():
    settings = ScanSettings()
    usual = null.Conditions("logits", "dead_leaves", 0.95, (32, 32, 3), 10)
    by_labels = usual._replace(access="labels")
    priors = {
        name: make_space(name, (32, 32, 3), **SPACES[name].scan_options()).description
        for name in depths_by("logits")
    }
    settings = dataclasses.replace(settings, depths=depths_by("logits"))
    for name, prior in priors.items():
        assert null.profiles(usual, settings, prior), name
        others = [
            usual._replace(access="votes"), usual._replace(probes="photographs"),
            usual._replace(num_classes=100), usual._replace(image_shape=(64, 64, 3)),
            usual._replace(success=0.9),
        ]  # fmt: skip
        for other in others:
            assert null.profiles(other, settings, prior) == {}
        deeper = dataclasses.replace(settings, depths=settings.depths | {name: -9.0})
        assert null.profiles(usual, deeper, prior) == {}
        if SPACES[name].scan_labels:  # counts have a null of their own
            counted = dataclasses.replace(settings, depths=depths_by("labels"))
            known = null.profiles(by_labels, counted, prior)
            assert known
            assert known != null.profiles(usual, settings, prior)
    assert len(null.clean_standings("logits", list(priors))) >= 8
    assert len(null.clean_standings("labels", catalogue.scanned("labels"))) >= 8


# Whole scans.


def scanned(model, **how):
    run_how = {"space": "patch", "settings": SETTINGS, "success": SUCCESS}
    return scan(opened(model), **run_how | how)


def test_a_recovery_is_shown_probes_that_the_scan_never_saw(looked_at, bright_file):
    source = open_probes(bright_file, 0, IMAGE_SHAPE)
    seen = {image.tobytes() for image in np.asarray(source.draw(0, 96))}
    assert not seen & {image.tobytes() for image in np.asarray(looked_at.recoveries[0].probes)}


def test_the_probability_of_a_class_is_the_exact_one(looked_at):
    # A black 2x2 block leads every probe, fewer black pixels hardly any: the share of patches that
    # have one is counted on many more draws, and without a model.
    space = make_space("patch", IMAGE_SHAPE, **OPTIONS)
    particles = space.search.sample(jax.random.key(99), 20_000)
    canvas = jax.vmap(space.stamp, (0, None))(particles, jnp.ones((1, *IMAGE_SHAPE)))[:, 0, ..., 0]
    black = canvas == 0
    block = black[:, 1:, 1:] & black[:, 1:, :-1] & black[:, :-1, 1:] & black[:, :-1, :-1]
    share = float(block.any((1, 2)).mean())
    one = looked_at.spaces["patch"].classes[TARGET]
    assert abs(one.log10_prob - math.log10(share)) < 0.35
    assert one.log10_prob < one.log10_bound
    others = [seen for k, seen in looked_at.spaces["patch"].classes.items() if k != TARGET]
    assert all(other.log10_prob is None for other in others)
    assert looked_at.spaces["patch"].log10_certificate == one.log10_bound


def test_what_nobody_measured_is_suspicious_at_most(looked_at):
    assert looked_at.verdict == SUSPICIOUS
    assert "no clean model was measured" in looked_at.reason
    assert looked_at.named == looked_at.targets == [TARGET]
    assert not looked_at.calibrated
    assert looked_at.classes[TARGET].false_alarms is None
    assert looked_at.recoveries[0].confirmation_success_rate >= SUCCESS
    assert looked_at.queries == sum(looked_at.cost.queries_by_stage.values())


def test_the_verdict_is_what_clean_models_allow(judged, monkeypatch, bright_file):
    monkeypatch.setattr(procedure, "clean_models", lambda work, looks: [0.1, 0.4, 1.0] * 6)
    assert judged.verdict == BACKDOOR
    assert judged.reason == ""
    assert judged.classes[TARGET].false_alarms == pytest.approx(1 / 19)
    # Fewer classes may be named; one is still compared with all the others.
    elsewhere = scanned(backdoored, probes=bright_file, targets=[0, 1])
    assert elsewhere.verdict == NOTHING
    assert elsewhere.classes[TARGET].standing == judged.classes[TARGET].standing
    # Eighteen clean models cannot vouch for one in a hundred.
    strict = scanned(backdoored, probes=bright_file, false_alarm_rate=0.01)
    assert strict.verdict == INCONCLUSIVE
    assert "18 clean models cannot vouch" in strict.reason
    none_found = scanned(clean, probes=bright_file)
    assert none_found.verdict == NOTHING
    assert none_found.log10_certificate < -1.0
    # Nothing is recovered: it stands out, and that is all that is known.
    alone = dataclasses.replace(SETTINGS, max_recovered=0)
    unconfirmed = scanned(backdoored, probes=bright_file, settings=alone)
    assert unconfirmed.verdict == SUSPICIOUS
    assert unconfirmed.reason == "no trigger was confirmed on fresh probes"
    assert (unconfirmed.named, unconfirmed.targets) == ([TARGET], [])


def test_a_scan_never_asks_more_than_it_may_and_says_when_that_was_too_little(bright_file):
    for budget in (2_300, 2_900):
        found = scanned(clean, probes=bright_file, budget=budget)
        assert found.queries <= budget
        assert found.verdict == INCONCLUSIVE
        assert "larger `budget`" in found.reason
    with pytest.raises(InputError, match="too small"):
        scanned(backdoored, probes=bright_file, budget=100)


def test_spaces_share_the_images_by_how_deep_they_are_followed():
    ledger = SimpleNamespace(budget=100_000, spent=5_000)
    settings = ScanSettings(depths={"patch": -6.0, "stripes": -2.0})
    names = ["patch", "stripes"]
    work = SimpleNamespace(run=SimpleNamespace(ledger=ledger), names=names, settings=settings)
    # Of 100,000 images 35,000 are kept for recovering, and 5,000 are spent.
    assert images_for(work, 0) == 45_000
    ledger.spent += 40_000
    assert images_for(work, 1) == 20_000


@pytest.mark.parametrize(
    ("shape", "num_classes", "how", "depth"),
    [
        ((32, 32, 3), 10, {}, -6.0),
        ((32, 32, 3), 10, {"access": "labels"}, -5.0),
        ((32, 32, 3), 10, {"success": 0.9}, -12.0),
        ((32, 32, 3), 11, {}, -12.0),
        ((16, 16, 3), 10, {}, -12.0),
        ((16, 16, 3), 10, {"settings": ScanSettings(depths={"patch": -3.0})}, -3.0),
    ],
)
def test_where_no_clean_model_was_measured_a_scan_looks_deeper(shape, num_classes, how, depth):
    weights = jax.random.normal(jax.random.key(0), (math.prod(shape), num_classes))

    def model(images):
        logits = images.reshape(images.shape[0], -1) @ weights
        return jnp.argmax(logits, -1) if how.get("access") == "labels" else logits

    names = tuple(map(str, range(num_classes)))
    oracle = open_model(model, how.get("access", "logits"), image_shape=shape, class_names=names)
    work = prepare(
        oracle, "patch", "dead_leaves", None, Limits(None, None, None), how.get("success", 0.95),
        0.06, None, 0, None, None, how.get("settings", ScanSettings()), None, None, None,
    )  # fmt: skip
    assert work.settings.depths["patch"] == depth


def test_synthetic_probes_are_those_of_the_clean_models_whatever_the_seed(tmp_path):
    names = tuple(map(str, range(4)))
    oracle = open_model(
        lambda images: images[:, 2, ::2, 0], "logits", image_shape=(8, 8, 3), class_names=names
    )
    folder = tmp_path / "own.npy"
    np.save(folder, np.random.default_rng(0).random((40, 8, 8, 3), np.float32))

    def first(probes, seed):
        return np.asarray(prepare(
            oracle, "patch", probes, None, Limits(None, None, None), 0.95, 0.06, None, seed, None,
            None, ScanSettings(), None, None, None,
        ).run.source.draw(0, 6))  # fmt: skip

    for word in ("dead_leaves", "shapes"):
        np.testing.assert_array_equal(first(word, 7), first(word, 0))
        np.testing.assert_array_equal(
            first(word, 7), np.asarray(open_probes(word, PROBES_SEED, (8, 8, 3)).draw(0, 6))
        )
    assert (first(str(folder), 7) != first(str(folder), 0)).any()


def test_an_interrupted_scan_says_what_it_has(bright_file):
    def stop(step):
        if "led to" in step.text:
            raise KeyboardInterrupt

    found = scanned(backdoored, probes=bright_file, on_progress=stop)
    assert found.interrupted
    assert found.verdict == INCONCLUSIVE
    assert found.targets == []
    files = render_scan(found, None)
    assert json.loads(files["scan.json"])["interrupted"] is True
    assert files["scan.png"].startswith(b"\x89PNG")  # of no space at all
    assert b"The scan was interrupted." in files["report.html"]


def test_the_same_seed_gives_the_same_scan(looked_at, judged):
    assert judged.spaces == looked_at.spaces
    assert [f.standing for f in judged.classes] == [f.standing for f in looked_at.classes]
    assert judged.queries == looked_at.queries
    masks = [found.recoveries[0].trigger.mask for found in (looked_at, judged)]
    np.testing.assert_array_equal(*masks)


@pytest.mark.slow
def test_labels_are_enough(bright_file):
    settings = dataclasses.replace(SETTINGS, depths={"patch": -4.0})
    found = scan(
        opened(backdoored, "labels"), space="patch", probes=bright_file, settings=settings,
        success=SUCCESS,
    )  # fmt: skip
    assert found.verdict == SUSPICIOUS
    assert found.named == [TARGET]
    assert found.targets == [TARGET]
    # The class whose probes are soon all led is not what the others are compared at.
    seen = found.spaces["patch"]
    assert seen.classes[TARGET].log10_prob > -2.5
    assert seen.depth == -4.0


def test_answers_that_say_nothing_are_refused(bright_file):
    def lost(images):
        return backdoored(images) + jnp.where(images.min() == 0.0, jnp.nan, 0.0)

    with pytest.raises(ModelError, match="NaN or infinity"):
        scanned(lost, probes=bright_file)
    saturated = opened(lambda images: 1e4 * backdoored(images), "probabilities")
    with pytest.raises(Inconclusive, match="saturated"):
        scan(saturated, space="patch", probes=bright_file, settings=SETTINGS, success=SUCCESS)


@pytest.mark.slow
def test_a_scan_purifies(looked_at):
    images = jnp.asarray(bright(seed=1).read(0, 40))
    black = images.at[:, 4:6, 7:9].set(0.0)
    function = jax.jit(purifier(opened(backdoored), looked_at))
    outputs, flags = function(black, backdoored(black))
    assert (np.argmax(backdoored(black), -1) == TARGET).all()
    assert np.asarray(flags).mean() > 0.9
    assert (np.argmax(outputs, -1) != TARGET).mean() > 0.9


def test_a_written_scan_is_what_purify_takes(looked_at, tmp_path):
    write_files(tmp_path / "scan", render_scan(looked_at, None))
    content = json.loads((tmp_path / "scan" / "scan.json").read_text())
    assert content["verdict"] == "suspicious"
    assert content["targets"] == content["named"] == [TARGET]
    assert len(content["classes"]) == NUM_CLASSES
    assert content["classes"][TARGET]["spaces"]["patch"]["standing"]["value"] > 3
    assert (tmp_path / "scan" / "scan.png").read_bytes().startswith(b"\x89PNG")
    back = load_recoveries([tmp_path / "scan"])
    assert [int(recovery.trigger.target) for recovery in back] == [TARGET]
    np.testing.assert_array_equal(back[0].trigger.mask, looked_at.recoveries[0].trigger.mask)


def test_a_saved_scan_is_read_back_whole(looked_at, tmp_path):
    looked_at.save(tmp_path / "scan")
    back = load_scan(tmp_path / "scan")
    assert json.dumps(scan_content(back)) == json.dumps(scan_content(looked_at))
    assert back.summary() == looked_at.summary()
    assert back.targets == [TARGET]
    assert back.spaces["patch"].classes[TARGET] == looked_at.spaces["patch"].classes[TARGET]
    again = load_scan(tmp_path / "scan" / "scan.json")
    assert again.recoveries[0].summary() == looked_at.recoveries[0].summary()


@pytest.mark.parametrize(
    "damage",
    [
        {"verdict": 3},
        {"named": [0, 1, 2, 3]},
        {"classes": [None]},
        {"settings": {"num_probes": 3}},
        {"spaces": {"patch": None}},
        {"queries": "many"},
    ],
)
def test_a_damaged_scan_is_refused_in_a_sentence(looked_at, tmp_path, damage):
    looked_at.save(tmp_path)
    content = json.loads((tmp_path / "scan.json").read_text())
    (tmp_path / "scan.json").write_text(json.dumps(content | damage))
    with pytest.raises(ResultError, match=r"scan\.json"):
        load_scan(tmp_path)


def test_a_scan_of_a_thousand_classes_is_told_on_a_screen(looked_at):
    one = looked_at.classes[0]
    classes = [dataclasses.replace(one, target=k, name=f"class {k}") for k in range(1_000)]
    many = dataclasses.replace(looked_at, classes=classes)
    assert len(many.summary().splitlines()) < 40
    assert len(repr(many)) < 200
    assert many._repr_html_().startswith("<img")


def test_of_many_classes_those_that_stand_out_are_shown(looked_at):
    one = looked_at.classes[0]
    standings = [None, 0.5, -2.0, None, 3.0, -1.0]
    classes = [
        dataclasses.replace(one, target=k, standing=value, suspicious=k == 3)
        for k, value in enumerate(standings)
    ]
    many = dataclasses.replace(looked_at, classes=classes)
    assert [f.target for f in foremost(many, 4)] == [1, 3, 4, 5]
    assert foremost(many, 6) == classes


def test_the_page_names_every_key_and_no_other(looked_at):
    cost = dataclasses.replace(looked_at.cost, price=1.5, limit="dollars")
    content = scan_content(dataclasses.replace(looked_at, cost=cost))
    page = (Path(__file__).parents[1] / "docs" / "scans.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|$", page, re.M))
    assert set(rows) == set(content)
    for name in ("spaces", "classes"):
        inside = content[name]["patch"] if name == "spaces" else content[name][0]
        assert set(re.findall(r"`(\w+)`", rows[name])) == set(inside)


# The command.


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
        ["--depth", "patch"],
        ["--depth", "patch=3"],
        ["--depth", "nowhere=-3"],
        ["--option", "patch.max_size"],
        ["--option", "patch.nothing=3"],
        ["--target", "unicorn"],
    ],
)
def test_bad_flags_are_refused_in_a_sentence(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["scan", *words]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ")
    assert not (tmp_path / "runs").exists()


MODULE = """
import numpy as np

def constant(images):
    return np.tile(np.float32([0, 5, 0]), (len(images), 1))

def range_forgotten(images):
    # Made for 0 to 255: everything between 0 and 1 is dark to it.
    light = images.mean((1, 2, 3))
    return np.stack([200 - light, light, images[..., 0].mean((1, 2))], -1).astype(np.float32)
"""


@pytest.mark.parametrize("function", ["constant", "range_forgotten"])
def test_one_class_for_everything_is_inconclusive_and_names_the_flags(
    function, tmp_path, monkeypatch, capsys
):
    (tmp_path / "undecided_by_hand.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    words = ["--model", f"python:undecided_by_hand:{function}", "--image-shape", "12x12x3"]
    assert main(["scan", *words]) == 4
    said = " ".join(capsys.readouterr().err.split())
    assert "same class" in said
    assert "--range" in said
    assert "--layout" in said


@pytest.mark.slow
def test_the_packaged_model_is_seen_through_and_then_used(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["scan", "--space", "patch", "--json"]) == 3
    content = json.loads(capsys.readouterr().out)
    assert content["targets"] == content["named"] == [3, 6]
    assert content["calibrated"] is True
    np.savez(tmp_path / "images.npz", images=open_probes("dead_leaves", 7, (32, 32, 3)).draw(0, 50))
    words = ["purify", "--recovery", content["out"], "--images", "images.npz", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["targets"] == [3, 6]


@pytest.mark.slow
def test_its_twin_is_not_accused_in_full(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["scan", "--model", "shipped-clean", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["named"] == []
    assert content["calibrated"] is True


@pytest.mark.slow
def test_the_packaged_model_is_seen_through_in_full(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["scan", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["targets"] == [3, 6]
