"""What a user can do something about is one sentence and exit code 2; a mistake of ours is not."""

import pytest
from commands_by_hand import call

import restore_jax
from restore_jax import oracles, recovery
from restore_jax.cli import exits
from restore_jax.errors import (
    BudgetError,
    Inconclusive,
    InputError,
    OutOfQueries,
    RestoreError,
)

PUBLIC = (BudgetError, Inconclusive, InputError, OutOfQueries)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def raising(error):
    def fail(*args, **kwargs):
        raise error

    return fail


def test_one_base_class_is_all_that_a_user_need_catch():
    from restore_jax.checkpoints import CheckpointError
    from restore_jax.data.errors import DataError
    from restore_jax.report import ResultError

    for kind in (*PUBLIC, oracles.ModelError, CheckpointError, DataError, ResultError,
                 exits.UsageError):  # fmt: skip
        assert issubclass(kind, RestoreError)
    assert issubclass(InputError, ValueError)  # as callers of earlier releases catch it
    assert restore_jax.RestoreError is RestoreError


@pytest.mark.parametrize(
    "error",
    [
        ValueError("operands could not be broadcast together with shapes (2,) (3,)"),
        TypeError("unhashable"),
        RuntimeError("XLA"),
        KeyError("x"),
    ],
)
def test_a_mistake_of_ours_is_a_traceback_and_exit_code_1(error, home, monkeypatch):
    monkeypatch.setattr(oracles, "open_model", raising(error))
    code, out, err = call("recover", "--target", "3")
    assert (code, out) == (1, "")
    assert "Traceback" in err
    assert type(error).__name__ in err
    assert "please report it" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("`data_dir` and\n `value_range` are at odds."), 2,
         "error: --data-dir and --range are at odds."),
        (BudgetError("`budget` 3 is too small."), 2, "error: --budget 3 is too small."),
        (Inconclusive("give other `probes`."), 4, "error: give other --probes."),
        (OutOfQueries("3 more."), 4, "error: 3 more."),
    ],
)  # fmt: skip
def test_sentences_speak_of_arguments_and_commands_of_flags(error, code, said, home, monkeypatch):
    monkeypatch.setattr(oracles, "open_model", raising(error))
    ended, out, err = call("recover", "--target", "3")
    assert (ended, out) == (code, "")
    assert err.splitlines()[-1] == said


def test_what_a_search_refuses_names_its_arguments():
    for wrong, said in (
        ({"budget": 0}, "`budget` must be at least 1"),
        ({"success": 2.0}, "`success` must lie in"),
        ({"stop": "soon"}, "unknown `stop` 'soon': it may be estimate, first_hit."),
        ({"protocol": "mine"}, "unknown `protocol`"),
    ):
        with pytest.raises(InputError) as caught:
            recovery.recover("shipped", 3, **wrong)
        assert said in str(caught.value)
