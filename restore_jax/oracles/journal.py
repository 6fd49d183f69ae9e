"""What a foreign model has answered so far, on disk, so that nobody pays for an answer twice.

A run is the same sequence of requests whenever it begins with the same arguments. So the journal
holds that sequence, a line for each request before it is sent and a line for each answer;
a run that was interrupted begins again and is given the answers that are there, until they end.
A line that is not whole was being written when the run was killed, and says nothing.
"""

import base64
import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from restore_jax.oracles.errors import ModelError
from restore_jax.reading import Unreadable, parse_json
from restore_jax.types import JSON

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = "journal.jsonl"
MOST_FIRST = 1 << 24
"""Bytes of the first line."""
LONGEST_NOTE = 256
"""Bytes of a line without an answer."""


class JournalError(ModelError):
    """A journal cannot be gone on with; the message is one sentence that says why."""


class Journal:
    """Answers read back in order, and then written.

    Attributes:
      leaves: whether requests can no longer be repeated by a later run, since this one was
        interrupted: from then on images are only counted.
      begun: whether the file may hold more than the description of the run.
      vain: whether the first look at the model ended the run, as it would again: nobody needs what
        was answered.

    Before images are sent there is room in the file for their answer, so that a disk that is full
    ends the run before it pays, and not after.
    """

    leaves = False
    vain = False

    def __init__(
        self, path: Path, run: dict[str, JSON], resume: bool, opened: dict[str, JSON] | None = None
    ):
        """Opens a journal.

        Args:
          path: the file.
          run: what decides the sequence of requests; JSON can hold it.
          resume: read what is there; otherwise begin anew.
          opened: kept for `was_opened`.

        Raises:
          JournalError: the file is of another run or is no journal, or another process writes it.
        """
        self._path, self._requests, self._digest = path, 0, ""
        self._replays = self.begun = resume
        self._old: Iterator[dict[str, JSON]] = iter(())
        self._first: dict[str, JSON] | None = None
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        self._end = os.fstat(self._file).st_size
        try:
            self._keep_others_out()
            self._begin(json.loads(json.dumps(run)), resume, opened)
        except BaseException:
            os.close(self._file)
            raise

    def _begin(self, run: dict[str, JSON], resume: bool, opened: dict[str, JSON] | None) -> None:
        found = None
        if not resume:
            self._first = {"run": run, "opened": opened}
            # What an earlier run paid for stays until this one has something to pay for.
            if not self._end or (opened or {}).get("asked"):
                self._write_first()
            return
        if self._drop_torn_line():
            self._old = self._lines()
            found = next(self._old, None)
        if found is None:
            self._write({"run": run, "opened": opened})
            return
        was = found.get("run")
        if not isinstance(was, dict):
            raise JournalError(f"{self._path} is not the journal of a run: it cannot be resumed.")
        if was != run:
            differs = [key for key in sorted({*run, *was}) if run.get(key) != was.get(key)]
            raise JournalError(
                f"{self._path.parent} was begun with another {', '.join(differs)}: resume it with "
                "the same arguments."
            )

    @staticmethod
    def was_opened(path: Path) -> dict[str, JSON] | None:
        """What the file says of how the model was opened; None if it says nothing."""
        try:
            with path.open("rb") as file:
                opened = parse_json(file.readline(MOST_FIRST))["opened"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if not isinstance(opened, dict):
            return None
        names, asked = opened.get("classes"), opened.get("asked")
        right = isinstance(names, list) and all(isinstance(name, str) for name in names)
        return opened if right and type(asked) is int and asked >= 0 else None

    def known(self, images: np.ndarray) -> tuple[np.ndarray | None, int, int]:
        """What is known of the next request.

        Args:
          images: f32[b, H, W, C].

        Returns:
          The outputs, or None if they have to be asked for; how many images were sent beyond b,
          because a request had failed or the run had ended before the answer came; and how many
          more that takes now.

        Raises:
          JournalError: the run that the journal is of asked about other images.
          KeyboardInterrupt: the run was interrupted while it was given what is there. It would
            have to ask to wind up, and there is a result of that already, or a run to go on with.
        """
        if self.leaves:
            if self._replays:
                raise KeyboardInterrupt
            return None, 0, 0
        self._requests += 1
        self._digest = hashlib.blake2b(np.ascontiguousarray(images).data, digest_size=8).hexdigest()
        again = unanswered = 0
        for line in self._old:
            try:
                if "sent" in line:
                    if (line["request"], line["of"]) != (self._requests, self._digest):
                        break
                    again, unanswered = again + unanswered, int(line["sent"])
                elif "again" in line:
                    again += int(line["again"])
                elif "unpaid" in line:
                    if unanswered:  # otherwise of the request before, which has ended
                        return None, again, int(line["unpaid"])
                elif not unanswered:
                    break
                else:
                    return self._outputs(line, len(images)), again, 0
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise self._damaged() from error
        else:
            self._replays = False
            return None, again, unanswered
        raise JournalError(
            f"{self._path} does not fit: its request {self._requests} was about other images, so "
            "begin again with `overwrite`."
        )

    def unpaid(self, images: int) -> None:
        """Notes that the budget did not pay for sending images again, so that nobody did."""
        if not self._replays:
            self._write({"unpaid": images})

    def sending(self, images: int, room: int = 0) -> None:
        """Notes that images are about to be sent, those that `known` knew nothing of.

        Args:
          images: how many are sent.
          room: bytes that their answer will take, at most.

        Raises:
          JournalError: there is no room for that.
        """
        self.begun = True
        if not self.leaves:
            self._reserve(room)
        if self.leaves:
            self._write({"again": images})
        else:
            self._write({"request": self._requests, "of": self._digest, "sent": images})

    def sent_again(self, images: int) -> None:
        """Notes images about to be sent again within a request."""
        self._write({"again": images})

    def note(self, outputs: np.ndarray) -> None:
        """Notes what came back: f32[b, K] or int32[b]."""
        if self.leaves:
            return
        plain = np.ascontiguousarray(outputs)
        self._write(
            {
                "outputs": base64.b64encode(plain.tobytes()).decode(),
                "shape": plain.shape,
                "dtype": plain.dtype.str,
            }
        )

    def close(self) -> None:
        """Closes the file."""
        if self._file < 0:
            return
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, self._end)
        os.close(self._file)
        self._file = -1

    @staticmethod
    def _outputs(line: dict[str, JSON], number: int) -> np.ndarray:
        """An answer as it was noted: f32[number, K] or int32[number].

        Raises:
          KeyError, TypeError, ValueError: it is none.
        """
        if line["dtype"] not in ("<f4", "<i4", ">f4", ">i4"):
            raise ValueError
        flat = np.frombuffer(base64.b64decode(line["outputs"], validate=True), line["dtype"])
        outputs = flat.reshape(tuple(map(int, line["shape"])))
        if len(outputs) != number or outputs.ndim != (2 if line["dtype"][1] == "f" else 1):
            raise ValueError
        return outputs

    def _keep_others_out(self) -> None:
        """Locks the file until it is closed or the process ends, on systems that can."""
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JournalError(
                f"{self._path.parent} is being written by a run that is still going on: wait for "
                "it, or end it."
            ) from None
        except OSError:  # a file system without locks
            return

    def _write_first(self) -> None:
        line, self._first = self._first, None
        if line is not None:
            os.ftruncate(self._file, 0)
            self._end = 0
            self._write(line)

    def _write(self, line: dict[str, JSON]) -> None:
        """Adds a line, the whole of it or nothing."""
        self._write_first()
        content = (json.dumps(line) + "\n").encode()
        try:
            os.lseek(self._file, self._end, os.SEEK_SET)
            left = memoryview(content)
            while left:
                left = left[os.write(self._file, left) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._end)
            raise self._full(error) from error
        self._end += len(content)

    def _reserve(self, room: int) -> None:
        """Makes room for an answer; what of it is not used goes when the file is closed.

        After a kill it is a line that is not whole.
        """
        if not room or not hasattr(os, "posix_fallocate"):
            return
        self._write_first()
        try:
            os.posix_fallocate(self._file, self._end, room + LONGEST_NOTE)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):  # not on this file system
                return
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._end)
            raise self._full(error) from error

    def _full(self, error: OSError) -> JournalError:
        return JournalError(
            f"{self._path} cannot be written ({error.strerror}), so nothing more is asked: make "
            "room, and go on with `resume`; what was answered until now is kept."
        )

    def _lines(self) -> Iterator[dict[str, JSON]]:
        with self._path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    return
                try:
                    found = parse_json(line)
                except Unreadable as error:
                    raise self._damaged() from error
                if not isinstance(found, dict):
                    raise self._damaged()
                yield found

    def _damaged(self) -> JournalError:
        return JournalError(f"{self._path} is damaged: begin again with `overwrite`.")

    def _drop_torn_line(self) -> bool:
        """Cuts off a last line that is not whole; whether anything is left."""
        size = self._end
        while size > 0:
            step = min(size, 1 << 16)
            os.lseek(self._file, size - step, os.SEEK_SET)
            found = os.read(self._file, step).rfind(b"\n")
            if found >= 0:
                size = size - step + found + 1
                break
            size -= step
        if size < self._end:
            os.ftruncate(self._file, size)
        self._end = size
        return size > 0
