"""What a run is expected to send is said first, and no limit is passed: images, money, time."""

import dataclasses
import json
import threading
from pathlib import Path

import foreign_by_hand
import jax.numpy as jnp
import numpy as np
import pytest
from commands_by_hand import call
from examples_by_hand import example
from foreign_by_hand import small, tame
from test_site import module_at

import restore_jax
from restore_jax import recover, recovery, scan
from restore_jax.cli.progress import _Left
from restore_jax.diagnosis import ScanSettings
from restore_jax.diagnosis.expecting import expected as scan_expected
from restore_jax.diagnosis.types import depths_by
from restore_jax.errors import BudgetError, InputError, OutOfQueries, OutOfTime
from restore_jax.oracles import ModelOptions, ledger, open_model
from restore_jax.oracles.ledger import Ledger
from restore_jax.run import Estimate, Limits
from restore_jax.spaces import SPACES

pytestmark = pytest.mark.usefixtures("hardly_optimised")
ROOT = Path(__file__).parents[1]
NAMES = tuple("abcd")
SETTINGS = recovery.Settings(num_probes=4, num_particles=32, num_moves=2)
PROBES = tame(600, (12, 12, 1))
SECOND = 0.01
"""What the slow model takes for an image, on the clock of the tests."""


class Clock:
    """Goes on when somebody is asked."""

    def __init__(self):
        self.now, self.images = 100.0, 0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(ledger, "now", found)
    return found


@pytest.fixture
def slow(clock, monkeypatch):
    """A model that is asked from the host and takes a hundredth of a second for an image."""

    def answers(images):
        clock.now += SECOND * len(images)
        clock.images += len(images)
        return small.scores(images)

    monkeypatch.setattr(foreign_by_hand, "plain", answers)
    options = ModelOptions(image_shape=small.image_shape, classes=NAMES, batch=32)
    return open_model("python:foreign_by_hand:plain", options=options)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("patch", "scattered"):
        small_one = dataclasses.replace(SPACES[name], settings=SETTINGS)
        monkeypatch.setitem(SPACES, name, small_one)
    np.savez(tmp_path / "probes.npz", images=PROBES)
    return tmp_path


COMMAND = ("--model", "python:foreign_by_hand:plain", "--image-shape", "12x12x1", "--classes",
           "a,b,c,d", "--batch", "32", "--probes", "probes.npz")  # fmt: skip
RECOVER = ("recover", *COMMAND, "--target", "c")
HOW = {"probes": PROBES, "settings": SETTINGS}


# Limits alone.


def test_dollars_are_a_budget_of_images():
    assert Limits(dollars=0.3, price=0.1).images(10_000) == 3000
    assert Limits(dollars=0.3, price=0.1).images(2000) == 2000
    assert Limits(price=0.1).images(2000) == 2000
    with pytest.raises(BudgetError, match="do not pay for one image"):
        Limits(dollars=1e-4, price=1.0).images(10)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"seconds": 0.0}, "`seconds` must be above 0"),
        ({"dollars": -1.0, "price": 1.0}, "`dollars` must be above 0"),
        ({"dollars": 1.0}, "`dollars` needs a `price`"),
        ({"price": float("nan")}, "`price` must be at least 0"),
    ],
)
def test_a_limit_of_no_use_is_refused(how, said):
    with pytest.raises(InputError, match=said):
        Limits(**how)


def test_a_ledger_that_is_late_sends_nothing_and_tells(clock):
    told = []
    payer = Ledger(100, end=101.0, at_end=lambda: told.append("payer"))
    part = Ledger(50, payer=payer, at_end=lambda: told.append("part"))
    part.charge(10)
    clock.now = 101.0
    with pytest.raises(OutOfTime):
        part.charge(1)
    assert told == ["part", "payer"]
    assert (part.spent, payer.spent) == (10, 10)
    part.give_back(4)
    assert (part.spent, payer.spent) == (6, 6)
    part.book(1)  # what was asked already is booked whatever the clock says


# What is said beforehand.


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["first_hit", "estimate"])
def test_what_is_sent_lies_in_the_range_that_is_announced(stop, slow, clock):
    told = []
    found = recover(slow, "c", stop=stop, price=2.0, on_estimate=told.append, **HOW)
    (estimate,) = told
    assert found.found
    assert 0.75 * estimate.low <= found.queries <= 1.25 * estimate.high
    assert estimate.low < estimate.images < estimate.high <= estimate.most
    assert found.queries == clock.images <= estimate.most
    assert estimate.seconds == pytest.approx(SECOND * estimate.images, rel=0.1)
    assert estimate.most_seconds == pytest.approx(SECOND * estimate.most, rel=0.1)
    assert estimate.dollars == pytest.approx(estimate.images * 2 / 1000)
    assert found.cost.dollars == pytest.approx(found.queries * 2 / 1000)
    assert found.cost.queries_by_stage["estimate"] < 0.1 * found.queries
    assert sum(found.cost.queries_by_stage.values()) == found.queries


def test_what_is_said_of_a_space_is_what_the_recorded_recoveries_took():
    announced = module_at("benchmarks/announced.py")
    searches = announced.by_search(announced.rows())
    for entry in SPACES.values():
        first, estimated = (searches.get((entry.name, s)) for s in ("first_hit", "estimate"))
        assert entry.typical == (None if first is None else announced.typical(first)), entry.name
        assert entry.typical_estimate == (
            None if estimated is None else announced.typical(estimated)
        ), entry.name


def test_by_other_networks_nearly_all_recoveries_of_a_patch_lie_in_what_would_be_said():
    announced = module_at("benchmarks/announced.py")
    held = []
    for (space, _), some in announced.by_search(announced.rows()).items():
        if space == "patch":
            for row in some:
                others = [other for other in some if other.network != row.network]
                held.append(announced.said(row, announced.typical(others)))
    assert len(held) > 100
    assert np.mean(held) > 0.95


def test_words_for_what_is_not_known_for_what_is_and_for_a_range():
    how = {"images": 3000, "most": 40_000, "pace": 0.01, "price": 1.0}
    assert str(Estimate(**how)) == (
        "about 3,000 images (at most 40,000), about 30 s (at most 7 min), "
        "cost about $3.00 (at most $40.00) at a price of $1.00 per 1,000 images"
    )
    one = str(Estimate(**how, recoveries=1))
    assert one.startswith(
        "about 3,000 images, by what 1 recovery with a trigger took (at most 40,000)"
    )
    ranged = Estimate(**how, low=1000, high=9000, recoveries=7)
    assert "1,000 to 9,000 images, by what 7 recoveries with a trigger took" in str(ranged)
    assert (
        "in half of the networks up to 3,000 (at most 40,000), 10 s to 90 s (at most 7 min)"
        in str(ranged)
    )
    assert ranged.to_json()["low_images"] == 1000
    never = Estimate(**how | {"images": 40_000}, recoveries=0)
    assert str(never).startswith("at most 40,000 images (no recovery of this kind was measured), ")


@pytest.mark.parametrize("access", ["logits", "labels"])
def test_a_scan_of_many_classes_is_announced_as_its_budget_lets_it_go(access):
    # As recorded in benchmarks/results/many_classes.md: looks of 100 and of 1,000 classes.
    depths = [depths_by(access, measured=False)[name] for name in ("patch", "stripes", "smooth")]
    whole = scan_expected(depths, 1000, ScanSettings(), access == "labels")
    within = scan_expected(depths, 1000, ScanSettings(), access == "labels", 300_000)
    assert within < whole
    assert within < 0.65 * 300_000
    if access == "logits":
        recorded = json.loads((ROOT / "benchmarks/results/many_classes.json").read_text())
        for row in recorded.values():
            if row["queries_by_stage"]["splitting"] > 140_000:
                looks = row["queries"] - row["queries_by_stage"]["recovery"]
                assert looks == pytest.approx(within, rel=0.25)


@pytest.mark.slow
def test_what_is_measured_changes_nothing_that_is_drawn(slow):
    told = []
    plain = recover(slow, "c", stop="first_hit", **HOW)
    measured = recover(slow, "c", stop="first_hit", on_estimate=told.append, **HOW)
    assert told
    assert plain.scores.tobytes() == measured.scores.tobytes()
    assert measured.queries == plain.queries + told[0].measured


def test_an_estimate_sends_a_hundredth_of_the_budget_at_most(slow, clock):
    said = restore_jax.estimate(recover, slow, "c", budget=4000, **HOW)
    assert said.most == 4000
    assert said.measured <= 40
    assert clock.images == 13 + said.measured  # and the first look


@pytest.mark.slow
def test_a_model_in_this_process_is_measured_for_nothing():
    def inside(images):
        return small.scores(images, jnp)

    oracle = open_model(inside, image_shape=small.image_shape, class_names=NAMES)
    told = []
    found = recover(oracle, "c", stop="first_hit", on_estimate=told.append, **HOW)
    plain = recover(oracle, "c", stop="first_hit", **HOW)
    assert told[0].seconds > 0
    assert found.queries == plain.queries
    assert "estimate" not in found.cost.queries_by_stage


def test_a_dry_run_leaves_nothing_and_asks_little(slow, clock, home):
    before = sorted(home.iterdir())
    code, out, _ = call(*RECOVER, "--dry-run", "--price", "1.5")
    assert code == 0
    assert "recoveries with a trigger took" in out
    assert "(at most 40,000)" in out
    assert "at a price of $1.50 per 1,000 images" in out
    assert sorted(home.iterdir()) == before
    assert clock.images < 100
    code, out, _ = call(*RECOVER, "--dry-run", "--json", "--out", "there")
    assert code == 0
    content = json.loads(out)
    assert set(content) == {
        "images", "low_images", "high_images", "recoveries", "most_images", "seconds",
        "most_seconds",
    }  # fmt: skip
    assert content["low_images"] <= content["images"] <= content["high_images"]
    assert sorted(home.iterdir()) == before


@pytest.mark.parametrize("command", ["scan", "verify", "purify"])
def test_every_command_says_what_it_would_send(command, slow, home):
    code, _, err = call(*RECOVER, "--stop", "first_hit", "--out", "found")
    assert code == 0, err
    assert "recoveries with a trigger took" in err
    more = {
        "scan": ("--space", "patch"),
        "verify": ("--trigger-file", "found"),
        "purify": ("--recovery", "found", "--images", "probes.npz"),
    }[command]
    before = sorted(home.rglob("*"))
    code, out, err = call(command, *COMMAND, *more, "--dry-run", "--json", "--price", "1")
    assert code == 0, err
    content = json.loads(out)
    assert 0 < content["images"] <= content["most_images"]
    assert content["cost"] == pytest.approx(content["images"] / 1000)
    assert sorted(home.rglob("*")) == before


# Money.


@pytest.mark.slow
def test_no_image_is_sent_that_is_not_paid_for(slow, clock, home):
    code, out, err = call(
        *RECOVER, "--price", "2", "--dollars", "1.2", "--space", "scattered", "--json"
    )
    assert code == 3, err
    content = json.loads(out)
    assert clock.images == content["queries"] <= content["budget"] == 600
    assert content["cost"] == pytest.approx(content["queries"] * 2 / 1000)
    assert content["cost"] <= 1.2
    assert (content["status"], content["limit"]) == ("out_of_queries", "dollars")
    code, _, err = call(*RECOVER, "--price", "2", "--dollars", "0.1")
    assert code == 2
    assert "--dollars 0.1, which pay for 50 images, are too small" in err
    assert call(*RECOVER, "--dollars", "1")[0] == 2


# Time.


def test_time_ends_a_search_and_the_result_says_so(slow, clock, home):
    began = clock.now
    found = recover(slow, "c", space="scattered", budget=8000, seconds=14.0, probes=PROBES,
                    settings=SETTINGS)  # fmt: skip
    assert found.status == "out_of_time"
    assert found.cost.limit == "seconds"
    assert found.queries == clock.images < 8000
    # One call of the model late, and a last look at the search's own probes.
    assert clock.now - began <= 14.0 + SECOND * 32
    assert found.log10_prob is None
    assert found.interval[0] is None
    assert found.interval[1] <= 0
    assert found.confirmation_success_rate is not None


def test_time_that_ends_before_the_first_draws_is_an_error(slow):
    with pytest.raises(OutOfQueries, match="time was over"):
        recover(slow, "c", seconds=0.5, **HOW)


@pytest.mark.slow
def test_a_search_that_time_ended_is_gone_on_with(slow, clock, home):
    line = (*RECOVER, "--space", "scattered", "--budget", "3000", "--json", "--out")
    code, out, _ = call(*line, "whole")
    assert code == 3
    whole = json.loads(out)
    code, out, err = call(*line, "parts", "--seconds", "12")
    assert code == 3, err
    part = json.loads(out)
    assert part["limit"] == "seconds"
    assert part["queries"] < whole["queries"]
    sent = clock.images
    code, out, err = call(*line, "parts", "--resume")
    assert code == 3, err
    again = json.loads(out)
    assert "limit" not in again or again["limit"] == "images"
    assert again["levels"][: len(part["levels"])] == part["levels"]
    assert clock.images - sent < whole["queries"] - len(part["levels"])


def test_a_search_in_this_process_ends_between_levels(clock, monkeypatch):
    def inside(images):
        return small.scores(images, jnp)

    def level(step):
        clock.now += 1.0

    oracle = open_model(inside, image_shape=small.image_shape, class_names=NAMES)
    found = recover(
        oracle, "c", space="scattered", seconds=2.5, on_progress=level, probes=PROBES,
        settings=SETTINGS,
    )  # fmt: skip
    assert found.status == "out_of_time"
    assert len(found.levels) == 3


@pytest.mark.slow
def test_a_scan_that_time_ended_says_what_it_covered(slow, clock):
    settings = ScanSettings(num_draws=64, num_particles=24, num_moves=3, num_probes=4)
    began = clock.now
    found = scan(slow, space="patch", probes=PROBES, settings=settings, seconds=20.0, price=1.0)
    assert found.cost.limit == "seconds"
    assert found.queries == clock.images
    assert clock.now - began <= 20.0 + SECOND * 32
    assert -6.0 < found.spaces["patch"].depth < 0
    assert found.log10_certificate < 0
    assert "20 seconds" in found.reason or found.verdict == "suspicious"


# A server with limits of its own.


@pytest.fixture(scope="module")
def serve():
    return example("serve")


def serving(module, gate, latency=0.0):
    def inside(images):
        return small.scores(images, jnp)

    oracle = open_model(inside, image_shape=small.image_shape, class_names=NAMES)
    server = module.make_server(oracle, 0, gate, latency)
    server.RequestHandlerClass.log_message = lambda *_: None
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


def test_a_gate_refuses_what_is_too_fast_or_too_much(serve):
    gate = serve.Gate(rate=0.5, quota=10)
    assert gate.refuses(8) is None
    status, headers, _ = gate.refuses(1)
    assert (status, headers) == (429, {"Retry-After": "2"})
    gate.next = 0.0
    assert gate.refuses(3)[0] == 402
    assert gate.refuses(2) is None


@pytest.mark.slow
def test_a_run_with_a_server_keeps_to_its_dollars(serve, home):
    gate = serve.Gate(quota=500)
    server = serving(serve, gate)
    try:
        url = f"http://127.0.0.1:{server.server_port}/"
        code, out, err = call(
            "recover", "--model", url, "--target", "c", "--probes", "probes.npz", "--space",
            "scattered", "--price", "1", "--dollars", "0.5", "--json",
        )  # fmt: skip
    finally:
        server.shutdown()
        server.server_close()
    assert code == 3, err
    assert json.loads(out)["limit"] == "dollars"
    assert 500 - gate.left == json.loads(out)["queries"]


# Progress.


def test_what_is_left_is_said_at_the_speed_so_far():
    left = _Left()
    left.note(0, 100, 0.0)
    left.note(10, 100, 1.0)
    assert left.words(1.0) == ""
    left.note(20, 100, 3.0)
    assert left.words(3.0) == ", about 16 s left"
    assert left.words(13.0) == ", about 6 s left"
    assert left.words(30.0) == ""
    left.note(0, 0, 4.0)  # drawing the result, of which nobody knows how long it takes
    assert left.words(4.0) == ""
