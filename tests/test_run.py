"""A run books what is asked, stage by stage, and nobody else's ledger is touched."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from models_by_hand import IMAGE_SHAPE, TARGET, backdoored

from restore_jax import scan
from restore_jax.backdoors import Trigger
from restore_jax.diagnosis import ScanSettings
from restore_jax.errors import BudgetError, InputError, OutOfQueries
from restore_jax.oracles import HostAnswers, HostedOracle, ModelError, open_model
from restore_jax.recovery import Settings, attack_success_rate, recover, trying
from restore_jax.run import Run
from restore_jax.spaces import catalogue

pytestmark = pytest.mark.usefixtures("hardly_optimised")

NAMES = tuple("abcd")


def in_process(access="logits"):
    def model(images):
        logits = backdoored(images)
        return jnp.argmax(logits, -1) if access == "labels" else logits

    return open_model(model, access, image_shape=IMAGE_SHAPE, class_names=NAMES)


def stuttering():
    """A model outside that is sent two images again with every request."""

    def ask(images, sending):
        sending(2)
        return np.asarray(backdoored(jnp.asarray(images)))

    answers = HostAnswers("outside", ask, "logits", 4, lambda x: x, batch=None, most=None)
    return HostedOracle("outside", "logits", IMAGE_SHAPE, NAMES, answers)


def test_a_stage_books_queries_and_seconds_and_stages_of_one_name_add_up():
    run = Run(dataclasses.replace(in_process(), asked=1), budget=100)
    with run.stage("screening"):
        run.labels(np.zeros((3, *IMAGE_SHAPE)))
    for _ in range(2):
        with run.stage("choice"):
            run.margins(np.zeros((4, *IMAGE_SHAPE)), np.int32(TARGET))
    cost = run.cost({"compile": 1.0})
    assert cost.queries_by_stage == {"screening": 4, "choice": 8}
    assert cost.queries == 12
    assert set(cost.seconds_by_stage) == {"screening", "choice"}
    assert cost.seconds == {"compile": 1.0}
    assert cost.asking is None


def test_a_run_within_another_is_paid_by_it():
    whole = Run(in_process(), budget=10)
    part = Run(in_process(), budget=6, within=whole)
    part.labels(np.zeros((5, *IMAGE_SHAPE)))
    assert (whole.ledger.spent, part.ledger.spent) == (5, 5)
    with pytest.raises(OutOfQueries):
        part.labels(np.zeros((2, *IMAGE_SHAPE)))
    assert whole.ledger.spent == 5


def test_what_could_be_left_out_costs_only_where_asking_does():
    inside, outside = Run(in_process(), budget=10), Run(stuttering(), budget=10)
    assert inside.beside(1_000) is not None
    assert inside.ledger.spent == 0
    assert outside.beside(11) is None
    assert outside.beside(7) is not None
    assert outside.ledger.spent == 7


def test_asking_outside_a_run_leaves_its_ledger_alone():
    oracle = stuttering()
    run = Run(oracle, budget=100)
    run.labels(np.zeros((3, *IMAGE_SHAPE)))
    assert (run.ledger.spent, run.ledger.resent) == (5, 2)
    nothing = Trigger(jnp.zeros((12, 12, 1)), jnp.zeros(IMAGE_SHAPE), jnp.int32(TARGET))
    attack_success_rate(oracle, nothing, np.zeros((6, *IMAGE_SHAPE)), np.zeros(6, np.int32))
    oracle.query(np.zeros((2, *IMAGE_SHAPE)))
    assert (run.ledger.spent, run.ledger.resent) == (5, 2)
    run.labels(np.zeros((3, *IMAGE_SHAPE)))  # and it is still there, as it was not
    assert (run.ledger.spent, run.ledger.resent) == (10, 4)


def test_a_call_that_names_another_access_than_the_model_s_is_refused():
    oracle = in_process("labels")
    for call in (recover, scan):
        how = {"access": "logits"} | ({"target": TARGET} if call is recover else {})
        with pytest.raises(ModelError, match="opened for labels, so it cannot be asked for logits"):
            call(oracle, **how)
    assert open_model(oracle) is open_model(oracle, "labels") is oracle


@pytest.mark.slow
def test_a_scan_of_labels_says_so():
    settings = ScanSettings(num_probes=8, num_draws=64, num_particles=16, num_moves=3, max_levels=1)
    found = scan(in_process("labels"), space="patch", settings=settings, budget=8_000)
    assert found.provenance.access == "labels"


def test_auto_gives_each_space_the_options_that_it_knows():
    names = catalogue.automatic()
    own = {name: catalogue.find(name).settings.options for name in names}
    plans = trying._plans(names, Settings(num_probes=4, options={"max_size": 3}), "estimate")
    assert plans["patch"].options == own["patch"] | {"max_size": 3}
    for name in names[1:]:
        assert plans[name].options == own[name]
        assert plans[name].num_probes == 4
    with pytest.raises(InputError, match=r"none of the spaces .* takes the option 'max_sise'"):
        trying._plans(names, Settings(options={"max_sise": 3}), "estimate")


@pytest.mark.slow
def test_auto_tries_the_other_spaces_with_an_option_that_only_one_knows():
    def never(images):
        """Three classes by a pixel's colours; of class 1 nothing ever is."""
        first = images[:, 0, 0]
        return jnp.stack([first[:, 0], 0 * first[:, 0] - 9, first[:, 1], first[:, 2]], -1)

    flat = open_model(never, image_shape=IMAGE_SHAPE, class_names=NAMES)
    settings = Settings(num_probes=4, num_particles=8, max_levels=2, options={"max_size": 3})
    found = recover(flat, 1, space="auto", settings=settings, budget=20_000, stop="first_hit")
    assert [one.space for one in found.spaces_tried] == catalogue.automatic()
    assert found.queries == sum(found.cost.queries_by_stage.values())


def test_a_budget_that_pays_for_nothing_is_refused_before_anything_is_asked():
    shown = []

    def model(images):
        shown.append(len(images))
        return np.zeros((len(images), 4), np.float32)

    oracle = open_model(model, image_shape=IMAGE_SHAPE, class_names=NAMES)
    shown.clear()
    with pytest.raises(BudgetError, match="too small"):
        recover(oracle, 1, budget=500)
    assert not shown
