"""Results for other tools, pictures, progress, and what Python shows of a result."""

import math

import jax
import numpy as np
import pytest
from splitting_problems import all_move, gaussian_space, linear_score, quick_jit

from restore_jax.splitting import (
    plot_genealogy,
    plot_levels,
    plot_tail,
    to_dataframe,
    to_inference_data,
)


def build(**options):
    return all_move(linear_score, gaussian_space(2), **{"threshold": 3.0, "keep": True} | options)


@pytest.fixture(scope="module")
def runs():
    run = quick_jit(jax.vmap(build().run, (0, None)))
    return run(jax.random.split(jax.random.key(0), 3), 0.0)


@pytest.fixture(scope="module")
def run(runs):
    return jax.tree.map(lambda leaf: leaf[0], runs)


def test_a_data_frame_has_a_row_for_each_level(run, runs):
    frame = to_dataframe(run)
    assert len(frame) == int(run.num_levels)
    assert frame["log10_prob"].iloc[-1] == pytest.approx(
        float(run.log_prob) / math.log(10), rel=1e-5
    )
    assert frame["score_above"].iloc[-1] == 3.0
    assert frame["score_above"].is_monotonic_increasing
    several = to_dataframe(runs)
    assert len(several) == int(np.sum(runs.num_levels))
    assert several["run"].nunique() == 3


def test_inference_data_has_the_particles_in_the_event(runs):
    data = to_inference_data(runs)
    scores = data.sample_stats["score"].values
    assert scores.shape[0] == 3
    assert scores.min() >= 3.0
    again = data.posterior["x"].values.sum(-1) / math.sqrt(2.0)
    np.testing.assert_allclose(again, scores, rtol=1e-5)
    np.testing.assert_allclose(data.sample_stats["log_prob"].values[:, 0], runs.log_prob, rtol=1e-6)


def test_inference_data_of_a_run_that_did_not_get_there_is_refused():
    run = quick_jit(build(max_levels=1).run)(jax.random.key(0), 0.0)
    with pytest.raises(ValueError, match="did not reach the event"):
        to_inference_data(run)


@pytest.mark.slow
def test_pictures_show_what_the_run_says(run, runs, tmp_path):
    ax = plot_tail(run)
    curve = ax.lines[0].get_xydata()
    tail = run.log_prob_of(curve[:, 0])
    np.testing.assert_allclose(curve[:, 1], np.asarray(tail.log_prob) / math.log(10), rtol=1e-5)
    ax.figure.savefig(tmp_path / "tail.png")
    levels = plot_levels(runs)
    assert len(levels.lines) == 3
    genealogy = plot_genealogy(run)
    shown = genealogy.images[0].get_array()
    assert shown.shape == (run.scores.shape[0], int(run.kept.num_rows))
    # The first column has all of the first particles, the last as many as have descendants.
    assert len(np.unique(shown[:, 0])) == shown.shape[0]
    assert len(np.unique(shown[:, -1])) == int(run.unique_ancestors)
    for name, picture in (("levels", levels), ("genealogy", genealogy)):
        picture.figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 1000


def test_pictures_are_of_one_run_that_kept_its_levels(runs):
    plain = quick_jit(build(keep=False).run)(jax.random.key(0), 0.0)
    for plot in (plot_tail, plot_genealogy):
        with pytest.raises(ValueError, match="keep=True"):
            plot(plain)
        with pytest.raises(ValueError, match="one lane"):
            plot(runs)


def test_progress_tells_of_every_level_of_every_run(runs):
    told = []
    run = quick_jit(jax.vmap(build(progress=told.append).run, (0, None)))
    result = run(jax.random.split(jax.random.key(0), 3), 0.0)
    jax.effects_barrier()
    assert len(told) == int(np.sum(result.num_levels))
    np.testing.assert_array_equal(result.log_prob, runs.log_prob)
    assert sorted(int(info.index) for info in told) == sorted(
        k for number in result.num_levels for k in range(int(number))
    )


def test_without_progress_there_is_no_callback_in_the_program():
    shown = str(jax.make_jaxpr(build().run)(jax.random.key(0), 0.0))
    told = str(jax.make_jaxpr(build(progress=True).run)(jax.random.key(0), 0.0))
    assert "callback" not in shown
    assert "callback" in told


def test_progress_prints_lines_on_stderr(capfd):
    quick_jit(build(progress=True).run)(jax.random.key(0), 0.0)
    jax.effects_barrier()
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].startswith("level 1: score above ")
    assert "log10 p" in lines[-1]


def test_what_python_shows_is_a_line(run, runs):
    assert repr(run).startswith("SplittingResult(the event was reached, log10 p = -2.")
    assert repr(runs) == "SplittingResult(3 runs of 128 particles, 3 reached the event)"
    state = build().init(jax.random.key(0), 0.0)
    assert repr(state).startswith("SplittingState(still running")
    seen = []
    jax.jit(lambda given: seen.append(repr(given)) or given.log_prob)(run)
    assert seen == ["SplittingResult(traced, 128 particles)"]
    assert max(map(len, (repr(run), repr(runs), repr(state)))) < 140
