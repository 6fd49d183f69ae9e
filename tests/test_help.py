"""The help of every command: on one screen, and all of it on request."""

import argparse
import importlib
import inspect
import shlex

import pytest
from commands_by_hand import call

import restore_jax
from restore_jax.cli import screens
from restore_jax.cli.main import COMMANDS, Parser


def a_parser(command):
    parser = Parser(prog=f"restore-jax {command}", description="What it does.", add_help=False)
    module = importlib.import_module(f"restore_jax.cli.{command}")
    screens.add_help(parser, module.screen())
    module.add_arguments(parser)
    return parser, module.screen()


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_fits_on_a_screen(command):
    code, out, _ = call(command, "--help")
    lines = out.splitlines()
    assert code == 0
    assert len(lines) <= 40
    assert max(map(len, lines)) < 80
    assert any(line.startswith("exit codes: 0 ") for line in lines)
    assert COMMANDS[command][1:] in " ".join(out.split())  # "URL" stays so
    assert lines[-1] == f"all flags:  restore-jax {command} --help-all"
    assert call(command, "-h")[1] == out


@pytest.mark.parametrize("command", ["recover", "scan", "verify"])
def test_a_flag_has_the_default_of_the_argument_of_its_name(command):
    arguments = inspect.signature(getattr(restore_jax, command)).parameters
    compared = {}
    for flag in a_parser(command)[0]._actions:
        argument = arguments.get(flag.dest)
        given = (None, inspect.Parameter.empty)
        if argument is not None and argument.default not in given and flag.default is not None:
            default = flag.default[0] if flag.nargs == "+" else flag.default
            compared[flag.dest] = (default, argument.default)
    assert {"seed", "probes"} <= compared.keys()
    assert all(mine == its for mine, its in compared.values()), compared


@pytest.mark.parametrize("command", COMMANDS)
def test_the_flags_on_the_screen_stand_as_they_are_given(command):
    parser, screen = a_parser(command)
    out = call(command, "--help")[1]
    for action in parser._actions:
        flag = screens.names(action)[-1]
        if any(flag in group for group in screen.groups.values()):
            alone = action.nargs == 0 or not action.option_strings
            value = "" if alone else f" {action.metavar or 'NAME'}"
            assert f"\n  {flag}{value}" in out
        else:
            assert not action.required, flag
            assert f"\n  {flag} " not in out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_is_explained_on_request(command):
    parser, _ = a_parser(command)
    code, out, _ = call(command, "--help-all")
    assert code == 0
    for action in parser._actions:
        assert action.help, action.option_strings
        assert action.help != argparse.SUPPRESS
        assert f"\n  {', '.join(action.option_strings)}" in out


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_on_the_screen_are_understood(command):
    parser, screen = a_parser(command)
    assert screen.examples
    for example in screen.examples:
        name, *words = shlex.split(example)
        assert name == command
        parser.parse_args(words)


def test_a_narrow_terminal_is_no_reason_to_fail(monkeypatch):
    monkeypatch.setenv("COLUMNS", "12")
    code, out, _ = call("recover", "--help")
    assert code == 0
    assert "--target CLASS" in out
