"""Completion scripts for shells, from what the commands declare. Nothing runs when Tab is pressed.

One function for each shell, ``(commands) -> script``. A shell loads the script once; it holds every
flag and every choice, so that completing a word starts no Python.
"""

import re
import shlex
from collections.abc import Callable, Sequence
from typing import NamedTuple

PROGRAM = "restore-jax"


class Flag(NamedTuple):
    """A flag of a command.

    Attributes:
      names: as ``-h`` and ``--help``.
      help: what it is for, in one line.
      number: how many values it takes: "0", "1", or "+" for one or more.
      words: what may stand there, where that is known; a word that ends in ":" is a beginning.
      paths: whether a file or a folder may stand there.
    """

    names: tuple[str, ...]
    help: str
    number: str
    words: tuple[str, ...] = ()
    paths: bool = False


class Command(NamedTuple):
    """A command.

    Attributes:
      name: as it is typed.
      help: what it does, in one line.
      flags: those that it takes.
      words: what may stand where it takes a word without a flag.
    """

    name: str
    help: str
    flags: tuple[Flag, ...]
    words: tuple[str, ...] = ()


def bash(commands: Sequence[Command]) -> str:
    """For bash 3.2 or newer."""
    takes = "\n".join(
        f"        {_quoted(f'{command.name} {name}')}) echo "
        f"{_quoted(' '.join((flag.number, 'paths' if flag.paths else 'words', *flag.words)))} ;;"
        for command in commands
        for flag in command.flags
        if flag.number != "0"
        for name in flag.names
    )
    flags = "\n".join(
        f"        {command.name}) echo "
        f"{_quoted(' '.join(name for flag in command.flags for name in flag.names))} ;;"
        for command in commands
    )
    words = "\n".join(
        f"        {command.name}) echo {_quoted(' '.join(command.words))} ;;"
        for command in commands
        if command.words
    )
    names = _quoted(" ".join(command.name for command in commands))
    return (
        _BASH.replace("@TAKES@", takes)
        .replace("@FLAGS@", flags)
        .replace("@WORDS@", words)
        .replace("@COMMANDS@", names)
        .replace("@PROGRAM@", PROGRAM)
    )


_BASH = """\
# Completion of @PROGRAM@ for bash.
_restore_jax_takes() {
    case $1 in
@TAKES@
    esac
}

_restore_jax_flags() {
    case $1 in
@FLAGS@
        *) echo '--help --version' ;;
    esac
}

_restore_jax_words() {
    case $1 in
@WORDS@
        '') echo @COMMANDS@ ;;
    esac
}

_restore_jax() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}
    local command= flag= given=0 number= kind= words= index word
    COMPREPLY=()
    # A colon and an equals sign are words of their own to bash.
    for ((index = 1; index < COMP_CWORD; index++)); do
        word=${COMP_WORDS[index]}
        case $word in
            [:=]) ;;
            -*) flag=$word given=0 ;;
            *) if [[ -z $command ]]; then command=$word; else given=$((given + 1)); fi ;;
        esac
    done
    if [[ $current == : || $previous == : ]]; then
        return  # what stands after onnx: is a file, which bash itself completes
    fi
    if [[ $current == = ]]; then current=; fi
    if [[ -n $command && -n $flag && $current != -* ]]; then
        read -r number kind words <<< "$(_restore_jax_takes "$command $flag")"
    fi
    if [[ $number == + || ( $number == 1 && $given == 0 ) ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$current"))
        if [[ $kind == paths ]]; then
            if [[ ${#COMPREPLY[@]} -gt 0 && ${COMPREPLY[0]} == *: ]]; then
                type compopt &> /dev/null && compopt -o nospace
            fi
            return
        fi
    elif [[ $current == -* ]]; then
        COMPREPLY=($(compgen -W "$(_restore_jax_flags "$command")" -- "$current"))
    elif [[ -z $flag ]]; then
        COMPREPLY=($(compgen -W "$(_restore_jax_words "$command")" -- "$current"))
    else
        COMPREPLY=($(compgen -W "$(_restore_jax_flags "$command")" -- "$current"))
    fi
    type compopt &> /dev/null && compopt +o default
}

complete -o default -F _restore_jax @PROGRAM@
"""


def zsh(commands: Sequence[Command]) -> str:
    """For zsh 5 or newer."""
    cases = []
    for command in commands:
        lines = [_zsh_flag(flag) for flag in command.flags]
        if command.words:
            lines.append(_quoted(f"1:{command.name}:({' '.join(command.words)})"))
        ends = " \\\n                    "
        cases.append(
            f"            {command.name})\n                _arguments -S{ends}"
            f"{ends.join(lines)}\n                ;;"
        )
    names = "\n".join(
        f"        {_quoted(f'{command.name}:{_plain(command.help)}')}" for command in commands
    )
    return (
        _ZSH.replace("@CASES@", "\n".join(cases))
        .replace("@COMMANDS@", names)
        .replace("@PROGRAM@", PROGRAM)
    )


_ZSH = """\
#compdef @PROGRAM@
# Completion of @PROGRAM@ for zsh.
_restore_jax_or_path() {
    if compset -P '*:'; then
        _files
    else
        (( $# )) && compadd -S '' -- "$@"
        _files
    fi
}

_restore_jax() {
    local state line curcontext=$curcontext
    local -A opt_args
    local -a commands=(
@COMMANDS@
    )
    _arguments -C '(- *)'{-h,--help}'[help]' '(- *)--version[the version]' \\
        '1: :->command' '*:: :->rest'
    case $state in
        command) _describe command commands ;;
        rest) case $words[1] in
@CASES@
        esac ;;
    esac
}

if [[ $funcstack[1] == _restore_jax ]]; then
    _restore_jax "$@"
else
    compdef _restore_jax @PROGRAM@
fi
"""


def _zsh_flag(flag: Flag) -> str:
    """A flag as a word for ``_arguments``."""
    words = " ".join(word.replace(":", r"\:") for word in flag.words)
    known = f"({words})" if words else " "
    action = f" _restore_jax_or_path {words}" if flag.paths else known
    value = {"0": "", "1": f":value:{action}", "+": f":*-*:value:{action}"}[flag.number]
    rest = _quoted(f"[{_plain(flag.help)}]{value}")
    names = ",".join(flag.names)
    return f"{{{names}}}{rest}" if len(flag.names) > 1 else f"{names}{rest}"


def fish(commands: Sequence[Command]) -> str:
    """For fish 3 or newer."""
    none = " ".join(command.name for command in commands)
    first = f"complete -c {PROGRAM} -n {_fish(f'not __fish_seen_subcommand_from {none}')}"
    lines = [f"# Completion of {PROGRAM} for fish.", f"complete -c {PROGRAM} -f"]
    lines += [f"{first} -a {command.name} -d {_fish(command.help)}" for command in commands]
    lines.append(f"{first} -l version -d 'the version'")
    for command in commands:
        begun = f"complete -c {PROGRAM} -n {_fish(f'__fish_seen_subcommand_from {command.name}')}"
        if command.words:
            lines.append(f"{begun} -a {_fish(' '.join(command.words))}")
        for flag in command.flags:
            names = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
                     for name in flag.names]  # fmt: skip
            value = [] if flag.number == "0" else ["-r -F" if flag.paths else "-x"]
            if flag.words:
                value.append(f"-a {_fish(' '.join(flag.words))}")
            lines.append(" ".join([begun, *names, *value, f"-d {_fish(flag.help)}"]))
    return "\n".join(lines) + "\n"


SHELLS: dict[str, Callable[[Sequence[Command]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}


def _quoted(text: str) -> str:
    return shlex.quote(text)


def _plain(text: str) -> str:
    """A help text where brackets and colons mean something."""
    return re.sub(r"([\[\]:])", r"\\\1", text)


def _fish(text: str) -> str:
    """A word of fish, in which a quote is escaped inside quotes."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
