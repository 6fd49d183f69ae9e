"""Completion: what a shell offers is what the commands declare."""

import shlex
import shutil
import subprocess
import sys

import pytest
from commands_by_hand import call

from restore_jax.cli.completion import declared
from restore_jax.cli.main import COMMANDS
from restore_jax.cli.shells import SHELLS, Command, Flag, bash, fish, zsh
from restore_jax.models import NETWORKS
from restore_jax.oracles import ACCESSES
from restore_jax.spaces import SPACES

TOY = (
    Command(
        "look",
        "look: at [one]",
        (
            Flag(("-h", "--help"), "it's help", "0"),
            Flag(("--space",), "where", "+", ("patch", "warp")),
            Flag(("--stop",), "when", "1", ("early", "late")),
            Flag(("--model",), "which", "1", ("shipped", "onnx:"), paths=True),
        ),
    ),
    Command("say", "say it", (), ("bash", "fish")),
)
"""Two commands with a flag of each kind."""


@pytest.fixture(scope="module")
def flags():
    return {
        command.name: {name: flag for flag in command.flags for name in flag.names}
        for command in declared()
    }


def test_every_command_and_every_choice_is_declared(flags):
    assert set(flags) == set(COMMANDS)
    assert set(flags["recover"]["--space"].words) == {"auto", *SPACES}
    assert flags["scan"]["--space"].number == "+"
    assert flags["recover"]["--access"].words == ACCESSES
    assert set(flags["recover"]["--stop"].words) == {"estimate", "first_hit"}
    assert set(flags["train"]["--arch"].words) == set(NETWORKS)
    assert {"shipped", "onnx:"} <= set(flags["verify"]["--model"].words)
    assert flags["verify"]["--trigger-file"].paths
    assert flags["scan"]["--json"].number == "0"


def completed(script, words, place):
    """What bash offers for the last of the words, in a folder; as if Tab had been pressed."""
    asked = (
        f"{script}\n"
        f"COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1}\n"
        "$(complete -p restore-jax | sed 's/.*-F \\([^ ]*\\) .*/\\1/') restore-jax 2> /dev/null\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        [shutil.which("bash"), "--norc", "--noprofile", "-c", asked],
        capture_output=True, text=True, cwd=place, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ([""], ["look", "say"]),
        (["lo"], ["look"]),
        (["--v"], ["--version"]),
        (["look", "--s"], ["--space", "--stop"]),
        (["look", "--stop", ""], ["early", "late"]),
        (["look", "--stop", "=", "l"], ["late"]),
        (["look", "--stop", "late", "--space", "p"], ["patch"]),
        (["look", "--space", "patch", "w"], ["warp"]),
        (["look", "--stop", "late", ""], ["-h", "--help", "--space", "--stop", "--model"]),
        (["look", "--model", "s"], ["shipped"]),
        (["look", "--model", "o"], ["onnx:"]),
        (["look", "--model", "onnx", ":", "mo"], []),
        (["say", "f"], ["fish"]),
    ],
)
def test_bash_offers_what_fits(words, offered, tmp_path):
    assert completed(bash(TOY), ["restore-jax", *words], tmp_path) == offered


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_the_script_that_is_printed_completes_a_space(tmp_path):
    code, script, err = call("completion", "bash")
    assert (code, err) == (0, "")
    offered = completed(script, ["restore-jax", "recover", "--space", "pa"], tmp_path)
    assert offered == [space for space in SPACES if space.startswith("pa")]


@pytest.mark.parametrize(("shell", "command"), [("zsh", ["zsh", "-n"]), ("fish", ["fish", "-n"])])
def test_other_shells_can_read_their_scripts(shell, command, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    script = tmp_path / "script"
    script.write_text(SHELLS[shell](declared()))
    done = subprocess.run([*command, str(script)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_means_something_to_a_shell_is_escaped():
    assert r"'look:look\: at \[one\]'" in zsh(TOY)
    assert r"(patch warp)" in zsh(TOY)
    assert r"-d 'it\'s help'" in fish(TOY)
    assert "-l model -r -F -a 'shipped onnx:'" in fish(TOY)


def test_an_unknown_shell_is_refused():
    code, _, err = call("completion", "tcsh")
    assert code == 2
    assert "invalid choice: 'tcsh'" in err


def test_no_other_command_loads_the_scripts():
    code = (
        "import sys; from restore_jax.cli.main import main\n"
        "try: main(['recover', '--help'])\n"
        "finally: print('restore_jax.cli.shells' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines()[-1] == "False"
