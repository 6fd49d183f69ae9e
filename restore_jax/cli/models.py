"""What the commands take for models that are not ours, and how they keep what those answered."""

import argparse
import contextlib
import dataclasses
import hashlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from restore_jax.cli import exits
from restore_jax.errors import InputError
from restore_jax.oracles.formats import FORMATS

if TYPE_CHECKING:
    from restore_jax.oracles import Journal, ModelOptions, Oracle
    from restore_jax.recovery import Recovery
    from restore_jax.run import Saved

_NO_MATTER = {
    "again", "command", "out", "overwrite", "resume", "json", "data_dir", "model", "price", "rate",
    "timeout", "retries", "trust", "seconds", "dollars", "began", "dry_run",
}  # fmt: skip
"""Flags that a run may be resumed with in another form."""
RESULTS = ("recovery.json", "scan.json", "purification.json")
"""What says that a result is there."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags, in a group of their own."""
    group = parser.add_argument_group(
        "models that are not ours",
        f"{', '.join(f'{kind}:' for kind in FORMATS)}; what is left out is read from the model",
    )  # fmt: skip
    add = group.add_argument
    add("--image-shape", type=_shape, metavar="HxWxC", help="what the model takes, as 32x32x3")
    add("--classes", type=_classes, metavar="N|NAMES",
        help="how many classes it has, or their names with commas between")  # fmt: skip
    add("--range", type=_numbers, metavar="LOW,HIGH", dest="value_range",
        help="what 0 and 1 of an image become, before --mean and --std, as 0,255")  # fmt: skip
    add("--mean", type=_numbers, metavar="X[,X,X]",
        help="what is subtracted: one number, or one for each channel")  # fmt: skip
    add("--std", type=_numbers, metavar="X[,X,X]", help="what the result is divided by, likewise")
    add("--resize", type=_size, metavar="HxW",
        help="size of probes and triggers, if not the model's own; images are then resized to "
             "that")  # fmt: skip
    add("--layout", choices=("nchw", "nhwc"),
        help="where the channels are in the arrays that it takes")  # fmt: skip
    add("--binary", action="store_true",
        help="it gives one number an image: the probability of the second of two classes (a "
             "sigmoid)")  # fmt: skip
    add("--output", metavar="NAME", help="which of its outputs to read, by name or number (first)")
    add("--noisy", action="store_true",
        help="go on with a model that does not always give the same answer: each image is asked "
             "about five times, all counted, and the answers are averaged")  # fmt: skip
    add("--batch", type=int, metavar="N", help="most images in one call, or request (64)")
    add("--trust", action="store_true",
        help="run what a Keras file brings along, as the code of a Lambda layer; TorchScript "
             "files of strangers are not safe with or without it")  # fmt: skip
    add("--concurrency", type=int, metavar="N", help="requests under way at once (4)")
    add("--rate", type=float, metavar="N", help="most requests per second")
    add("--timeout", type=float, metavar="SECONDS", help="for one request (30)")
    add("--retries", type=int, metavar="N", help="how often a failed request is sent again (5)")
    add("--send", choices=("json", "png"), help="numbers, or base64 PNGs of 8 bits (json)")
    add("--answer", metavar="PATH",
        help='where in the JSON of a response the outputs are, as result.0.scores; "" for the '
             "whole (outputs)")  # fmt: skip
    add("--resume", action="store_true",
        help="go on with an interrupted run of the same arguments in --out, from the last level "
             "that was saved; what a model from elsewhere answered is not asked again")  # fmt: skip


def check(args: argparse.Namespace) -> None:
    """Checks the flags; touches nothing.

    Raises:
      UsageError: a flag out of range.
    """
    least: dict[str, tuple[float, str]] = {
        "batch": (1, "at least 1"),
        "concurrency": (1, "at least 1"),
        "retries": (0, "at least 0"),
    }
    for name, (low, words) in least.items():
        value = getattr(args, name)
        if value is not None and not low <= value < math.inf:
            raise exits.UsageError(f"--{name} must be {words}, not {value:g}.")
    for name in ("rate", "timeout"):
        value = getattr(args, name)
        if value is not None and not 0 < value < 1e9:
            raise exits.UsageError(f"--{name} must be above 0, not {value:g}.")
    if args.std is not None and 0 in args.std:
        raise exits.UsageError("--std must not be 0: images are divided by it.")
    if args.value_range is not None and (
        len(args.value_range) != 2 or args.value_range[0] == args.value_range[1]
    ):
        raise exits.UsageError("--range takes two different numbers, as 0,255.")
    if args.resume and args.out is None:
        raise exits.UsageError("--resume needs the folder of the run: name it with --out.")
    if args.resume and args.overwrite:
        raise exits.UsageError("--resume and --overwrite exclude each other.")


def options(args: argparse.Namespace) -> "ModelOptions":
    """The flags that were given, as `ModelOptions`."""
    from restore_jax.oracles import ModelOptions

    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(ModelOptions)}
    return ModelOptions(**{name: value for name, value in given.items() if value is not None})


def open_oracle(args: argparse.Namespace) -> "Oracle":
    """Opens --model; see `restore_jax.open_model`."""
    from restore_jax.oracles import Journal, open_model
    from restore_jax.oracles.journal import NAME

    said = options(args)
    # Opening it may take an image, which was sent (and is counted) when the run began.
    opened = Journal.was_opened(Path(args.out) / NAME) if args.resume else None
    if opened is None:
        return open_model(args.model, args.access, options=said)
    oracle = open_model(args.model, args.access, class_names=opened["classes"], options=said)
    # Only a model that is asked from outside has such a file: a dataclass with that field.
    return dataclasses.replace(oracle, asked=opened["asked"])  # type: ignore[type-var]


def check_triggers(oracle: "Oracle", recoveries: "Sequence[Recovery]") -> None:
    """Checks that recovered triggers are for images of a model's size.

    Raises:
      UsageError: one of them is not.
    """
    for recovery in recoveries:
        shape = tuple(recovery.trigger.pattern.shape)
        if shape != oracle.image_shape:
            raise exits.UsageError(
                f"the trigger for class {int(recovery.trigger.target)} is for images of shape "
                f"{shape}, but {oracle.name} takes {oracle.image_shape}."
            )


class Kept(NamedTuple):
    """What is kept while a command runs.

    Attributes:
      folder: where the result will be, made.
      journal: keeps the answers of a model that costs anything to ask again, and saves where the
        searches in another stand.
      done: to be called once the result is written: there is nothing to resume then.
      names: gives the names of the files that it is kept in.
    """

    folder: Path
    journal: "Journal | Saved"
    done: Callable[[], None]
    names: Callable[[], list[str]]


@contextlib.contextmanager
def kept(args: argparse.Namespace, oracle: "Oracle", default: str) -> Iterator[Kept]:
    """Keeps what it takes to go on with a run that is ended, where the result will be.

    What else is in the folder stays as it is.

    Args:
      args: the parsed flags.
      oracle: the model, any.
      default: the folder's name where --out is not given.

    Raises:
      UsageError: --resume with a folder that holds no run, or one that cannot be written.
    """
    folder = Path(args.out) if args.out else exits.out_folder(None, default, overwrite=False)
    run = {exits.flag(key)[2:]: value for key, value in vars(args).items() if key not in _NO_MATTER}
    run |= {"command": args.command, "model": oracle.name, "model file": _digest(args.model)}
    if args.dollars is not None:
        run |= {"dollars": args.dollars, "price": args.price}  # they decide the budget
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        if oracle.repeat_cost(1):
            keeping = _answers(args, oracle, folder, run)
        else:
            keeping = _stands(args, folder, run)
        with keeping as found:
            yield found
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # it is not empty
                path.rmdir()


@contextlib.contextmanager
def _stands(args: argparse.Namespace, folder: Path, run: dict[str, Any]) -> Iterator[Kept]:
    """Saves where searches in this process stand."""
    from restore_jax.errors import Inconclusive
    from restore_jax.oracles import ModelError
    from restore_jax.run import Saved

    saved = Saved(folder, run, args.resume)
    if args.resume and not saved.paths():
        raise exits.UsageError(_nothing(folder, "no search was saved there"))
    _make(folder)
    finished = False

    def done() -> None:
        nonlocal finished
        finished = True
        saved.remove()

    try:
        yield Kept(folder, saved, done, lambda: [path.name for path in saved.paths()])
    except KeyboardInterrupt:
        saved.write_all()
        raise
    except (Inconclusive, ModelError):
        saved.remove()  # it would come to the same
        raise
    if not finished:
        saved.write_all(mark=True)


@contextlib.contextmanager
def _answers(
    args: argparse.Namespace, oracle: "Oracle", folder: Path, run: dict[str, Any]
) -> Iterator[Kept]:
    """Keeps the answers of a model that costs anything to ask again."""
    from restore_jax.errors import Inconclusive
    from restore_jax.oracles import Journal
    from restore_jax.oracles.errors import ModelFailed
    from restore_jax.oracles.journal import NAME

    path = folder / NAME
    if args.resume and not path.exists():
        raise exits.UsageError(_nothing(folder, f"{NAME} is not there"))
    opened = {"classes": oracle.class_names, "asked": oracle.asked}
    _make(folder)
    was_there = path.exists()
    try:
        journal = Journal(path, run, args.resume, opened)
    except OSError as error:
        raise exits.UsageError(f"{folder} cannot be written ({error.strerror}).") from error
    finished = False

    def leave() -> None:
        # What is asked to wind up is not what the run would have asked.
        journal.leaves = True

    def done() -> None:
        nonlocal finished
        finished = True

    try:
        with exits.told_of_signals(leave):
            yield Kept(folder, journal, done, lambda: [NAME])
    except Inconclusive:
        finished = journal.begun  # the same answers would come to the same
        raise
    except InputError as error:
        # There is nothing to go on with, but perhaps what an earlier run left.
        finished = journal.vain or (not journal.begun and not was_there)
        if not journal.begun or not isinstance(error, ModelFailed):
            raise
        raise ModelFailed(
            f"{str(error).rstrip('.')}; what it answered is kept, and --out {folder} --resume "
            "goes on."
        ) from error
    finally:
        journal.close()
        if finished:
            path.unlink(missing_ok=True)


def _nothing(folder: Path, why: str) -> str:
    """Why there is nothing to resume."""
    results = [name for name in RESULTS if (folder / name).is_file()]
    if results:
        why = f"the one there has ended, with its result in {results[0]}"
    return f"there is no run to resume in {folder}: {why}."


def _digest(model: str) -> str | None:
    """Of a file or folder that holds a model, since another of its name is another model.

    None: of none.
    """
    scheme, _, place = model.partition(":")
    if scheme not in FORMATS or not place:
        return None
    try:
        path = Path(place).expanduser()
        if not path.is_dir():
            return _sha256(path)
        files = sorted(inner for inner in path.iterdir() if inner.is_file())
        listed = "".join(f"{_sha256(file)}  {file.name}\n" for file in files)
        return hashlib.sha256(listed.encode(errors="replace")).hexdigest()
    except (OSError, ValueError, RuntimeError):  # it is no file
        return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise exits.UsageError(f"{folder} cannot be written ({error.strerror}).") from error


def _shape(text: str) -> tuple[int, int, int]:
    sides = _sides(text, 3)
    return sides[0], sides[1], sides[2]


def _size(text: str) -> tuple[int, int]:
    sides = _sides(text, 2)
    return sides[0], sides[1]


def _sides(text: str, number: int) -> list[int]:
    if not re.fullmatch(r"[1-9]\d*" + r"x[1-9]\d*" * (number - 1), text):
        raise argparse.ArgumentTypeError(
            f"{text!r} must be {number} numbers with x between, as {'x'.join(['32'] * number)}"
        )
    return [int(side) for side in text.split("x")]


def _classes(text: str) -> int | tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if len(names) == 1 and text.isdigit() and int(text) >= 2:
        return int(text)
    if len(names) < 2 or not all(names):
        raise argparse.ArgumentTypeError(
            f"{text!r} must be a number from 2, or names with commas between"
        )
    return names


def _numbers(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
        if not all(map(math.isfinite, numbers)):
            raise ValueError
        return numbers
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} must be a number, or several with commas between"
        ) from None
