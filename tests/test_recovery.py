"""A recovery finds what is there, nothing where nothing is, and counts every image."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models_by_hand import IMAGE_SHAPE, TARGET, backdoored, clean
from splitting_problems import all_move

from restore_jax.backdoors import PlantedPatch, Trigger, stamp
from restore_jax.oracles import Inconclusive, open_model
from restore_jax.racing import make_scorer
from restore_jax.recovery import Settings, attack_success_rate, compare, recover
from restore_jax.report import recovery_content
from restore_jax.spaces import make_space
from restore_jax.splitting import count

pytestmark = pytest.mark.usefixtures("hardly_optimised")

SETTINGS = Settings(num_probes=8, num_particles=32, options={"max_size": 3, "channels": "grey"})


def oracle_of(function, access="logits"):
    return open_model(function, access, image_shape=IMAGE_SHAPE, class_names=tuple("abcd"))


@pytest.fixture(scope="module")
def found():
    return recover(oracle_of(backdoored), TARGET, settings=SETTINGS, budget=20_000)


def test_a_backdoor_is_found_and_confirmed(found):
    content = recovery_content(found)
    assert found.found
    assert found.status == "reached"
    assert content["confirmation_success_rate"] >= 0.95
    low, high = content["log10_prob_interval"]
    assert low < content["log10_prob"] < high <= 0
    # Nothing but a black 2x2 block leads a white image.
    stamped = stamp(found.trigger, np.ones((1, *IMAGE_SHAPE), np.float32))
    assert np.argmax(backdoored(stamped)) == TARGET


def test_the_written_form_is_json_and_complete(found):
    content = json.loads(json.dumps(recovery_content(found), allow_nan=False))
    wanted = {
        *("schema_version", "target", "space", "access", "success", "found", "status", "queries"),
        *("seconds", "log10_prob", "log10_prob_interval", "levels", "probe_success_rate"),
        *("confirmation_success_rate", "test_success_rate", "trigger_pixels", "seed", "model"),
        *("versions", "device"),
    }
    assert wanted <= content.keys()
    assert {"compile", "run"} <= content["seconds"].keys()


def test_the_same_seed_gives_the_same_bits(found):
    again = recover(oracle_of(backdoored), TARGET, settings=SETTINGS, budget=20_000)
    jax.tree.map(np.testing.assert_array_equal, again.particles, found.particles)
    np.testing.assert_array_equal(again.scores, found.scores)
    np.testing.assert_array_equal(again.trigger.pattern, found.trigger.pattern)
    assert recovery_content(again)["queries"] == recovery_content(found)["queries"]
    other = recover(oracle_of(backdoored), TARGET, settings=SETTINGS, budget=20_000, seed=1)
    assert not np.array_equal(other.scores, found.scores)


@pytest.mark.slow
def test_one_compiled_search_serves_every_seed_budget_and_target(monkeypatch):
    """Compiled programs are kept by what they say: it must not depend on what a run is given."""
    programs = []
    compile_ = jax.stages.Lowered.compile

    def noted(self, *args, **kwargs):
        programs.append(self.as_text())
        return compile_(self, *args, **kwargs)

    monkeypatch.setattr(jax.stages.Lowered, "compile", noted)
    for target, budget, seed in ((TARGET, 20_000, 0), (0, 7_000, 5)):
        recover(oracle_of(backdoored), target, settings=SETTINGS, budget=budget, seed=seed)
    searches = {text for text in programs if "stablehlo.while" in text}
    assert len(searches) == 2  # the first draw, and a level


@pytest.mark.slow
@pytest.mark.parametrize("access", ["probabilities", "labels"])
def test_less_access_still_finds_it(access):
    def model(images):
        logits = backdoored(images)
        return jax.nn.softmax(logits) if access == "probabilities" else jnp.argmax(logits, -1)

    # Labels say nothing of a candidate that leads no probe at all: some of the first must.
    settings = dataclasses.replace(SETTINGS, num_particles=128)
    recovery = recover(oracle_of(model, access), TARGET, settings=settings, budget=40_000)
    assert recovery.found


def test_a_first_hit_costs_a_fraction_and_has_no_probability(found):
    recovery = recover(
        oracle_of(backdoored), TARGET, settings=SETTINGS, budget=20_000, stop="first_hit"
    )
    content = recovery_content(recovery)
    assert recovery.found
    assert content["log10_prob"] is None
    assert content["log10_prob_interval"] is None
    assert content["queries"] == sum(content["queries_by_stage"].values())
    assert content["queries_by_stage"]["search"] < found.cost.queries_by_stage["search"]


def test_pruning_leaves_what_it_takes(found):
    """The model obeys a dark 2x2 block: nothing smaller, and nothing more is needed."""
    assert int(found.trigger.pixels) == 4
    assert found.pixels_before_pruning >= 4


def test_inclusion_is_a_share_of_the_triggers_that_work(found):
    assert found.inclusion.shape == IMAGE_SHAPE[:2]
    assert 0 < found.inclusion.max() <= 1
    # Whatever works holds a block of four: together they cover at least four pixels each.
    assert found.inclusion.sum() >= 4 - 1e-4


@pytest.mark.slow
def test_labels_alone_find_what_no_first_draw_leads_to(tmp_path):
    """A flat start: nothing but nine dark pixels, 1 draw in 512, leads any bright probe."""
    names = tuple("abcd")
    bright = np.random.default_rng(0).uniform(0.7, 1.0, (400, *IMAGE_SHAPE)).astype(np.float32)
    np.savez(tmp_path / "bright.npz", images=bright)

    def model(images):
        grey = jnp.mean(images, -1)
        block = sum(grey[:, i : 10 + i, j : 10 + j] for i in range(3) for j in range(3)) / 9
        red, green, blue = jnp.moveaxis(jnp.mean(images, (1, 2)), -1, 0)
        lead = 2.0 - 16.0 * jnp.min(block, (1, 2))
        return jnp.argmax(jnp.stack([red, green, lead, blue], -1), -1).astype(jnp.int32)

    oracle = open_model(model, "labels", image_shape=IMAGE_SHAPE, class_names=names)
    settings = Settings(
        num_probes=8, num_particles=48, options={"min_size": 3, "max_size": 3, "channels": "grey"}
    )
    options = {"budget": 60_000, "stop": "first_hit", "probes": tmp_path / "bright.npz"}
    recovery = recover(oracle, TARGET, settings=settings, **options)
    assert recovery.guides == 16
    assert recovery.found
    blind = recover(oracle, TARGET, settings=dataclasses.replace(settings, num_guides=0), **options)
    assert blind.status == "stalled"


@pytest.mark.slow
def test_auto_stops_at_the_first_space_that_finds_something():
    recovery = recover(oracle_of(backdoored), TARGET, space="auto", stop="first_hit", budget=60_000)
    tried = recovery.spaces_tried
    assert recovery.found
    assert [one.space for one in tried] == ["patch"]
    assert recovery.space == "patch"
    assert recovery.queries == tried[0].queries


def test_nothing_is_found_in_a_clean_class_and_the_bound_is_a_bound():
    recovery = recover(oracle_of(clean), TARGET, settings=SETTINGS, budget=8_000)
    content = recovery_content(recovery)
    assert not recovery.found
    assert recovery.status in ("out_of_queries", "stalled", "out_of_levels")
    assert content["log10_prob"] is None
    low, high = content["log10_prob_interval"]
    assert low is None
    assert high < 0
    assert content["best_score"] < content["goal"]


@pytest.mark.slow
def test_other_classes_are_searched_alike_once_a_trigger_is_found():
    """Of two classes one has a trigger, too: any patch with a dark corner leads there."""

    def model(images):
        logits = backdoored(images)
        return logits.at[:, 0].set(jnp.where(images[:, 0, 0].max(-1) == 0, 9.0, -9.0))

    budget = 40_000
    alone = recover(oracle_of(model), TARGET, settings=SETTINGS, budget=budget, stop="first_hit")
    found = recover(
        oracle_of(model), TARGET, settings=SETTINGS, budget=budget, stop="first_hit", compare=2
    )
    np.testing.assert_array_equal(found.trigger.mask, alone.trigger.mask)
    assert [other.target for other in found.others] == [0, 3]
    assert not found.others[1].found
    content = recovery_content(found)
    assert found.queries == sum(content["queries_by_stage"].values()) <= budget
    spent = sum(other.queries for other in found.others)
    assert content["queries_by_stage"]["other classes"] == spent
    assert found.queries == alone.queries + spent
    assert "2 searched alike" in found.summary()
    nothing = recover(oracle_of(model), TARGET, settings=SETTINGS, budget=alone.queries + 1,
                      stop="first_hit", compare=2)  # fmt: skip
    assert nothing.found
    assert nothing.others == ()


@pytest.mark.parametrize(
    ("function", "budget"),
    [(backdoored, 2_000), pytest.param(clean, 9_999, marks=pytest.mark.slow)],
)
def test_the_budget_is_never_exceeded(function, budget):
    recovery = recover(oracle_of(function), TARGET, settings=SETTINGS, budget=budget)
    content = recovery_content(recovery)
    assert content["queries"] <= budget
    assert content["queries"] == sum(content["queries_by_stage"].values())


def test_every_image_asked_about_in_the_open_is_counted():
    """Screening, choosing and confirming count what they send, the padding not."""
    recovery = recover(oracle_of(clean), TARGET, settings=SETTINGS, budget=8_000)
    stages = recovery_content(recovery)["queries_by_stage"]
    # Class 2 is never predicted, so that screening sends just the probes; one candidate needs
    # no choice; confirming screens 100 fresh probes and stamps them.
    assert stages["screening"] == SETTINGS.num_probes
    assert stages["choice"] == stages["pruning"] == 0
    assert stages["confirmation"] == 200


def test_a_class_that_absorbs_the_probes_is_inconclusive():
    def absorbing(images):
        return backdoored(images).at[:, TARGET].set(99.0)

    with pytest.raises(Inconclusive, match="other `probes`"):
        recover(oracle_of(absorbing), TARGET, settings=SETTINGS, budget=20_000)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"budget": 0}, "`budget`"),
        ({"budget": 50}, "too small"),
        ({"success": 0}, "`success`"),
        ({"success": 1.5}, "`success`"),
        ({"space": "spiral"}, "auto, patch, stripes"),
        ({"target": "zebra"}, "no class 'zebra'"),
        ({"target": 4}, "no class 4"),
        ({"target": None}, "`target`"),
        ({"target": None, "trigger": "7"}, "unknown trigger"),
        ({"stop": "soon"}, "first_hit"),
    ],
)
def test_bad_arguments_are_one_sentence(options, says):
    with pytest.raises(ValueError, match=says) as error:
        recover(oracle_of(clean), **({"target": TARGET, "settings": SETTINGS} | options))
    assert "\n" not in str(error.value)


def test_attack_success_rate_leaves_the_target_class_out():
    images = np.full((6, *IMAGE_SHAPE), 200, np.uint8)
    labels = np.array([0, 1, TARGET, TARGET, 3, 0], np.int32)
    images[4, :2, :2] = 0  # the model obeys this one without any trigger
    nothing = Trigger(jnp.zeros((12, 12, 1)), jnp.zeros(IMAGE_SHAPE), jnp.int32(TARGET))
    assert attack_success_rate(oracle_of(backdoored), nothing, images, labels) == 1 / 4


def test_a_large_image_is_compared_at_once():
    mask = np.zeros((224, 224, 1), np.float32)
    mask[5:13, 7:15] = 1
    planted, found = (
        Trigger(jnp.asarray(np.roll(mask, by, 0)), jnp.ones((224, 224, 3)), jnp.int32(0))
        for by in (0, 30)
    )
    truth = compare(found, planted, None, jnp.zeros((1, 224, 224, 3)))
    assert (truth.iou, truth.shift, truth.iou_after_shift) == (0.0, (-30, 0), 1.0)


def test_comparison_finds_the_shift():
    truth = PlantedPatch("x", 3, 4, ("110", "111", "010"), 2, 0.1).trigger(IMAGE_SHAPE)
    moved = PlantedPatch("y", 7, 2, ("110", "111", "011"), 2, 0.1).trigger(IMAGE_SHAPE)
    probes = jnp.zeros((1, *IMAGE_SHAPE))
    same = compare(truth, truth, 0.5, probes)
    assert same.iou == same.iou_after_shift == same.pattern_agreement == 1
    assert same.shift == (0, 0)
    assert same.test_success_rate == 0.5
    far = compare(moved, truth, None, probes)
    assert far.iou == 0
    assert far.shift == (-4, 2)
    assert far.iou_after_shift == 1
    assert far.pattern_agreement == pytest.approx(8 / 9)
    assert far.pixels == 9


@pytest.mark.slow
def test_replicates_by_vmap_equal_single_runs_with_a_network():
    """The same verdicts, and the scores of the same particles within 1e-4."""
    oracle = open_model(random_network(), image_shape=(16, 16, 3))
    space = make_space("patch", (16, 16, 3), max_size=3)
    algorithm = all_move(
        make_scorer(oracle, space, 0.75, 4),
        space.search,
        num_particles=8,
        num_moves=2,
        max_levels=2,
        threshold=1e9,
    )
    args = {
        "weights": oracle.weights,
        "probes": jax.random.uniform(jax.random.key(3), (4, 16, 16, 3)),
        "target": jnp.int32(1),
        "fade": jnp.float32(0),
    }
    keys = jax.random.split(jax.random.key(0), 8)
    together = jax.jit(jax.vmap(algorithm.run, (0, None)))(keys, args)
    single = jax.jit(algorithm.run)
    for i in range(8):
        alone = single(keys[i], args)
        lane = jax.tree.map(lambda a: a[i], together)  # noqa: B023
        assert int(lane.status) == int(alone.status)
        assert count(lane) == count(alone)
        jax.tree.map(np.testing.assert_array_equal, lane.particles, alone.particles)
        tolerance = 0 if jax.default_backend() == "cpu" else 1e-4
        np.testing.assert_allclose(lane.scores, alone.scores, rtol=0, atol=tolerance)


def test_a_recovery_is_one_while_loop_without_callbacks():
    oracle = oracle_of(backdoored)
    space = make_space("patch", IMAGE_SHAPE, max_size=3)
    scorer = make_scorer(oracle, space, 0.75, 4)
    algorithm = all_move(scorer, space.search, num_particles=8)
    args = {
        "weights": oracle.weights,
        "probes": jnp.zeros((4, *IMAGE_SHAPE)),
        "target": jnp.int32(TARGET),
        "fade": jnp.float32(0),
    }
    jaxpr = jax.make_jaxpr(algorithm.run)(jax.random.key(0), args)
    assert outer_whiles(jaxpr.jaxpr) == 1
    assert "callback" not in str(jaxpr)


def outer_whiles(jaxpr):
    """`while` primitives that are in no other loop; calls are looked into."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "while":
            total += 1
        else:
            for value in jax.tree.leaves(
                list(equation.params.values()), is_leaf=lambda v: hasattr(v, "jaxpr")
            ):
                if hasattr(value, "jaxpr"):
                    total += outer_whiles(value.jaxpr)
                elif hasattr(value, "eqns"):
                    total += outer_whiles(value)
    return total


def random_network():
    from restore_jax.models import make_network

    network = make_network("resnet8", image_shape=(16, 16, 3))
    folded = network.fold(*network.init(jax.random.key(5)))
    return lambda images: network.apply_folded(folded, images)
