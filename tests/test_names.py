"""Every public name says what it is, and every public function shows how it is used."""

import enum
import importlib
import inspect
import pkgutil

import pytest

import restore_jax

BELOW = sorted(
    f"restore_jax.{module.name}"
    for module in pkgutil.iter_modules(restore_jax.__path__)
    if module.name != "__main__"
)
ROOMS = ["restore_jax", *BELOW]
WITHOUT = {
    "restore_jax.backdoors": {
        "make_poisoning", "poisoning_of", "register",  # docs/extending.md shows them
    },
    "restore_jax.cli": {"main"},  # a command, see docs/commands.md
    "restore_jax.oracles": {"HostAnswers", "Journal"},  # what hosted models are made of
    "restore_jax.purification": {
        "Defended", "defence_cost", "defences", "report",  # the pieces of `purifier`
    },
    "restore_jax.racing": {"make_scorer", "race_to_one_class", "threshold"},  # want a search
    "restore_jax.recovery": {"compare", "conclude"},  # the last stages of `recover`
    # Take a recovery or a scan, which no example makes in less than half a minute.
    "restore_jax.report": {
        "foremost", "load_attack", "load_recoveries", "load_recovery", "load_scan",
        "load_trigger",
        "overview_figure", "power_content", "power_lines", "recovery_content", "recovery_lines",
        "recovery_page", "render_recovery", "render_scan", "scan_content", "scan_figure",
        "scan_page", "scan_text", "trigger_figure", "write_files", "write_recovery",
    },
    "restore_jax.run": {"ProbeFeed"},  # of `Run.feed`
    "restore_jax.spaces": {"register"},  # docs/extending.md shows it
    "restore_jax.splitting": {
        "MetropolisOptions",  # what `metropolis` takes, which has one
        "effective_sample_size", "load", "log_prob_interval",  # take a result, as `summary` does
    },
    "restore_jax.training": {"make_evaluation", "make_optimizer", "make_trainer"},  # of `train`
}  # fmt: skip
"""Public functions, and classes that are no records, that have no example of their own, and why.

To be made shorter; a new name does not belong here without a reason.
"""


def public(room):
    """The functions and classes that a room offers, by name; each where it is offered first."""
    module = importlib.import_module(room)
    for name in getattr(module, "__all__", ()):
        found = getattr(module, name)
        if inspect.isclass(found) or inspect.isroutine(found):
            yield name, found


def is_record(found):
    """Whether it is a type that holds, tells or demands something: what makes it has an example."""
    return inspect.isclass(found) and (
        issubclass(found, tuple | Exception | enum.Enum)
        or hasattr(found, "__dataclass_fields__")
        or getattr(found, "_is_protocol", False)
    )


def has_example(found):
    return ">>> " in (inspect.getdoc(found) or "")


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_has_a_docstring(room):
    assert [name for name, found in public(room) if not inspect.getdoc(found)] == []


@pytest.mark.parametrize("room", BELOW)
def test_every_public_function_has_an_example(room):
    bare = {name for name, found in public(room) if not has_example(found) and not is_record(found)}
    assert bare == WITHOUT.get(room, set())


def test_what_is_offered_at_the_top_is_offered_by_a_room():
    below = {id(found) for room in BELOW for _, found in public(room)}
    above = {name for name, found in public("restore_jax") if id(found) not in below}
    # Of modules that are no packages, and so have no list of what they offer.
    assert {getattr(restore_jax, name).__module__ for name in above} <= {
        "restore_jax.data.probes", "restore_jax.errors", "restore_jax.verification",
    }  # fmt: skip
