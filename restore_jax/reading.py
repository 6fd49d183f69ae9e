"""Reading files that others may have written or damaged: JSON, and archives of arrays.

Whatever is in such a file, reading it ends with what it should hold or with `Unreadable`, and takes
no more memory than the limits here say.
"""

import json
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NoReturn

import numpy as np

from restore_jax.errors import InputError
from restore_jax.types import JSON

MOST_JSON = 1 << 26
"""Bytes of JSON."""
DEEPEST = 64
"""Lists and objects of JSON inside each other."""
MOST_ARRAYS = 1 << 30
"""Bytes that the arrays of one file take in memory."""
MOST_MEMBERS = 1 << 16
MOST_HEADER = 10_000
_PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_NUMBERS = "biuf"


class Unreadable(InputError):
    """A file is not what it should be; the message is the reason, in a few words."""


def parse_json(
    text: str | bytes | bytearray, deepest: int = DEEPEST, most: int = MOST_JSON
) -> JSON:
    """What JSON says: strings that can be printed, numbers that are finite, not too deep.

    Raises:
      Unreadable: it is no such thing.

    >>> parse_json('{"a": [1, 2.5]}')
    {'a': [1, 2.5]}
    """
    if len(text) > most:
        raise Unreadable(f"more than {most} bytes of JSON")
    try:
        found = json.loads(text, parse_constant=_refuse)
    except Unreadable:
        raise
    except (ValueError, RecursionError, MemoryError) as error:
        raise Unreadable("no JSON") from error
    layer: list[JSON] = [found]
    for _ in range(deepest):
        inner: list[JSON] = []
        for value in layer:
            if isinstance(value, dict):
                _check_words(value)
                inner += value.values()
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, str):
                _check_words((value,))
            elif isinstance(value, float) and not math.isfinite(value):
                raise Unreadable("a number that is not finite")
        layer = inner
        if not layer:
            return found
    raise Unreadable(f"more than {deepest} lists inside each other")


def read_json(path: Path, deepest: int = DEEPEST) -> JSON:
    """What a file of JSON says; see `parse_json`.

    Raises:
      Unreadable: it is no such thing.
      OSError: the file cannot be read.
    """
    if path.stat().st_size > MOST_JSON:
        raise Unreadable(f"more than {MOST_JSON} bytes of JSON")
    return parse_json(path.read_bytes(), deepest)


class Archive:
    """A zip archive that is read within limits.

    Attributes:
      names: of its members.
    """

    def __init__(self, archive: zipfile.ZipFile, most: int):
        """Looks at what the archive says of itself; see `open_archive`."""
        members = archive.infolist()
        if len(members) > MOST_MEMBERS:
            raise Unreadable("too many parts")
        for member in members:
            if member.flag_bits & 1:
                raise Unreadable("an encrypted part")
            if member.compress_type not in _PLAIN:
                raise Unreadable("a part that is compressed in another way")
        if sum(member.file_size for member in members) > most:
            raise Unreadable(f"parts of more than {most} bytes")
        self.names = [member.filename for member in members]
        self._archive, self._members = archive, dict(zip(self.names, members, strict=True))
        if len(self._members) < len(members):
            raise Unreadable("two parts of one name")

    def size(self, name: str) -> int:
        """Bytes of a member."""
        return self._member(name).file_size

    def read(self, name: str) -> bytes:
        """A member's bytes.

        Raises:
          Unreadable: it is not there, or damaged.
        """
        with _as_unreadable():
            return self._archive.read(self._member(name))

    def json(self, name: str, deepest: int = DEEPEST) -> JSON:
        """A member's JSON; see `parse_json`."""
        if self.size(name) > MOST_JSON:
            raise Unreadable(f"more than {MOST_JSON} bytes of JSON")
        return parse_json(self.read(name), deepest)

    def array(self, name: str) -> np.ndarray:
        """A member's array of numbers."""
        member = self._member(name)
        with _as_unreadable(), self._archive.open(member) as file:
            return _array(file, member.file_size)

    def _member(self, name: str) -> zipfile.ZipInfo:
        if name not in self._members:
            raise Unreadable(f"no part {name}")
        return self._members[name]


@contextmanager
def open_archive(path: Path, most: int) -> Iterator[Archive]:
    """Opens a zip archive whose members take at most so many bytes.

    Raises:
      Unreadable: it is none, it is encrypted, or its members are too large.
      OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        with _as_unreadable():
            archive = zipfile.ZipFile(file)
        with archive:
            yield Archive(archive, most)


def read_npz(path: Path, most: int = MOST_ARRAYS) -> dict[str, np.ndarray]:
    """The arrays of numbers in an .npz file, by name.

    Raises:
      Unreadable: it is none, or holds anything else.
      OSError: the file cannot be read.
    """
    with open_archive(path, most) as archive:
        return {name.removesuffix(".npy"): archive.array(name) for name in archive.names}


def read_npy(path: Path, most: int = MOST_ARRAYS) -> np.ndarray:
    """The array of numbers in an .npy file; see `read_npz`."""
    size = path.stat().st_size
    if size > most:
        raise Unreadable(f"more than {most} bytes")
    with path.open("rb") as file, _as_unreadable():
        return _array(file, size)


def is_zip(path: Path) -> bool:
    """Whether a file begins as an archive does."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _array(file: IO[bytes], size: int) -> np.ndarray:
    """An array of numbers from an .npy file of so many bytes, which must be as many as it says."""
    shape, by_columns, dtype = _header(file)
    if dtype.kind not in _NUMBERS or dtype.hasobject:
        raise Unreadable(f"an array of {dtype}")
    number = math.prod(shape)
    if min(shape, default=0) < 0 or not 0 < size - number * dtype.itemsize <= 2 * MOST_HEADER:
        raise Unreadable("an array of another size than it says")
    flat = np.empty(number, dtype)
    room = flat.view(np.uint8).data
    while room:
        some = file.read(min(len(room), 1 << 20))
        if not some:
            raise Unreadable("an array of another size than it says")
        room[: len(some)] = some
        room = room[len(some) :]
    if file.read(1):  # the end of an archive's member, where its checksum is looked at
        raise Unreadable("an array of another size than it says")
    return flat.reshape(shape, order="F" if by_columns else "C")


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file, MOST_HEADER)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file, MOST_HEADER)
    raise Unreadable("an array of an unknown format")


@contextmanager
def _as_unreadable() -> Iterator[None]:
    """Whatever a parser makes of bytes that are not what it expects."""
    try:
        yield
    except (Unreadable, OSError):
        raise
    except Exception as error:  # parsers of others raise many kinds
        raise Unreadable("damaged") from error


def _refuse(constant: str) -> NoReturn:
    raise Unreadable(f"the number {constant}")


def _check_words(words: JSON) -> None:
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise Unreadable("half a character") from error
