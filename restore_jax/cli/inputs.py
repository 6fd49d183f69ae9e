"""What the commands that look at a model take, and the checks that need no model."""

import argparse
import contextlib
import os
import shlex
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from restore_jax.cli import exits, limits, models
from restore_jax.folders import lies_in, put_files
from restore_jax.oracles.accesses import ACCESSES
from restore_jax.oracles.formats import FORMATS, examples

if TYPE_CHECKING:
    import numpy as np

    from restore_jax.oracles import Oracle

_MAX_SEED = 2**32 - 1


def add_arguments(parser: argparse.ArgumentParser, out: str, limited: bool = True) -> None:
    """Declares the flags that these commands share.

    Args:
      parser: of the command.
      out: what --out is by default, for the help.
      limited: whether the command may be limited in time and money.
    """
    add = parser.add_argument
    add("--model", default="shipped", metavar="SPEC",
        help='"shipped", the model in the package; "shipped-clean", its twin without a backdoor; '
             'a folder that train.py wrote; '
             f"{', '.join(examples()[:-1])} or {examples()[-1]} (%(default)s)")  # fmt: skip
    add("--access", default="logits", choices=ACCESSES,
        help="what the model answers: logits, probabilities or labels (%(default)s)")  # fmt: skip
    add("--probes", default="dead_leaves", metavar="SPEC",
        help="images to ask about: dead_leaves or shapes (drawn here), cifar10, a folder of "
             "images, an .npz or .npy file (%(default)s)")  # fmt: skip
    add("--data-dir", metavar="DIR",
        help="the TFDS folder that holds cifar10/: the success rate on its test images is "
             "measured, too")  # fmt: skip
    add("--seed", type=int, default=0, metavar="N", help="decides everything drawn (%(default)s)")
    add("--out", metavar="DIR", help=f"where to write ({out})")
    add("--overwrite", action="store_true", help="replace what --out holds")
    add("--json", action="store_true", help="print the result as one JSON object on stdout")
    if limited:
        limits.add_arguments(parser)
    models.add_arguments(parser)


def check(args: argparse.Namespace, default: str, writes: bool = True) -> None:
    """Checks the shared flags; touches nothing.

    Args:
      args: the parsed flags.
      default: the folder that will be made where --out is not given, or its parent.
      writes: whether anything is written where --out is not given.

    Raises:
      UsageError: a flag out of range, or a folder that could not be written.
    """
    if not 0 <= args.seed <= _MAX_SEED:
        raise exits.UsageError(f"--seed must be 0 to {_MAX_SEED}, not {args.seed}.")
    asks = hasattr(args, "image_shape")  # train asks no model
    if asks:
        models.check(args)
    if hasattr(args, "seconds"):  # and serve goes on until it is ended
        limits.check(args)
    if args.overwrite and args.out is None:
        raise exits.UsageError("--overwrite needs the folder to replace: name it with --out.")
    for name in ("out", "data_dir", "probes", "images", "trigger_file"):
        if isinstance(getattr(args, name, None), str):
            setattr(args, name, os.path.expanduser(getattr(args, name)))
    try:
        folder = Path(default)
        if args.out is not None:
            folder = exits.out_folder(args.out, default, args.overwrite or (asks and args.resume))
            _spare_inputs(args, folder)
        elif not writes:
            return
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir():
            raise exits.UsageError(f"{folder} is a file: no folder can be made in its place.")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise exits.UsageError(f"nothing can be written to {folder}: choose another --out.")
    except OSError as error:
        raise exits.UsageError(f"--out {args.out} cannot be used ({error.strerror}).") from error


def command(args: argparse.Namespace, oracle: "Oracle") -> str:
    """The command that was given, as one types it again.

    Where the result goes is left out, and so is what may be secret in the model's address.
    """
    words = []
    for word in args.again:
        flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        words.append(f"{flag}{equals}{oracle.name}" if value == args.model else word)
    return shlex.join(["restore-jax", *words])


def read_from(args: argparse.Namespace) -> list[tuple[str, Path]]:
    """What a run reads, and what stands in the way of removing a folder: what they are called, and
    paths that exist."""
    kept = [("the working directory", Path.cwd()), ("the home directory", Path.home())]
    for name in ("model", "probes", "data_dir", "trigger_file", "images", "recovery"):
        given = getattr(args, name, None) or ()
        for value in [given] if isinstance(given, str) else given:
            for path in _paths(value):
                with contextlib.suppress(OSError, ValueError):
                    if os.path.lexists(path):
                        kept.append((exits.flag(name), path))
    return kept


def _paths(value: str) -> list[Path]:
    """The paths that a word on the command line may mean."""
    scheme, _, place = value.partition(":")
    paths = [Path(value).expanduser()]
    if scheme in FORMATS and place:
        paths.append(Path(place).expanduser())
    if scheme == "python":
        module = place.partition(":")[0].replace(".", "/")
        paths += [Path(module), Path(f"{module}.py")]
    return paths


def _spare_inputs(args: argparse.Namespace, folder: Path) -> None:
    """Refuses to replace a folder that holds what is read, or where the user is at home."""
    if not args.overwrite:
        return
    for name, path in read_from(args):
        if lies_in(path, folder):
            raise exits.UsageError(
                f"--overwrite would remove {name}, which lies in --out {args.out}: name "
                "another folder."
            )


def write(
    args: argparse.Namespace, folder: Path, files: dict[str, bytes], keep: Collection[str] = ()
) -> None:
    """Writes a result into its folder; with --overwrite what was there goes then.

    A named folder was checked before the search; what is found is not lost to it now.

    Args:
      args: the parsed flags.
      folder: where.
      files: their contents, by name.
      keep: names in the folder that stay: of what this run can be resumed with.

    Raises:
      UsageError: it cannot be written there; the sentence says where it is instead.
    """
    try:
        put_files(
            folder, files,
            replace=args.overwrite, keep=keep, spare=[path for _, path in read_from(args)],
        )  # fmt: skip
    except OSError as error:
        raise exits.UsageError(
            f"the result cannot be written to {folder} ({error.strerror}){_elsewhere(files)}."
        ) from error


def _elsewhere(files: dict[str, bytes]) -> str:
    """Writes a result where there is room, and says where that is."""
    folder = Path(tempfile.mkdtemp(prefix="restore-jax-"))
    for some in (files, {name: data for name, data in files.items() if name.endswith(".json")}):
        with contextlib.suppress(OSError):
            put_files(folder, some)
            return f", so it is in {folder}"
    return ""


def test_images(oracle: "Oracle", data_dir: str | None) -> "tuple[np.ndarray, np.ndarray] | None":
    """CIFAR-10's test images uint8[N, 32, 32, 3] and labels int32[N], if a folder is given.

    Raises:
      UsageError: the model knows other classes or takes other images.
      DataError: the folder does not hold them.
    """
    if data_dir is None:
        return None
    from restore_jax.data import cifar10

    numbers = tuple(str(k) for k in range(len(cifar10.CLASS_NAMES)))
    if oracle.image_shape != cifar10.IMAGE_SHAPE or oracle.class_names not in (
        cifar10.CLASS_NAMES,
        numbers,
    ):
        raise exits.UsageError(
            f"--data-dir gives the test images of CIFAR-10, but {oracle.name} was made for other "
            "images or classes: leave it out."
        )
    return cifar10.load("test", data_dir)
