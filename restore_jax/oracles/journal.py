"""What a foreign model has answered so far, on disk, so that nobody pays for an answer twice.

A run is the same sequence of requests whenever it begins with the same arguments. So the journal
holds that sequence, a line for each request before it is sent and a line for each answer;
a run that was interrupted begins again and is given the answers that are there, until they end.
A line that is not whole was being written when the run was killed, and says nothing.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from restore_jax.oracles.errors import ModelError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = "journal.jsonl"


class JournalError(ModelError):
    """A journal cannot be gone on with; the message is one sentence that says why."""


class Journal:
    """Answers read back in order, and then written.

    Attributes:
      leaves: whether the run no longer does what it would have done, since it was interrupted:
        from then on images are only counted.
      begun: whether the file may hold more than what the run is.
    """

    leaves = False

    def __init__(
        self, path: Path, run: dict[str, Any], resume: bool, opened: dict[str, Any] | None = None
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
        self._old: Iterator[dict[str, Any]] = iter(())
        self._file = path.open("a", encoding="ascii")
        try:
            self._keep_others_out()
            self._begin(json.loads(json.dumps(run)), resume, opened)
        except BaseException:
            self._file.close()
            raise

    def _begin(self, run: dict[str, Any], resume: bool, opened: dict[str, Any] | None) -> None:
        found = None
        if not resume:
            self._file.truncate(0)
        elif self._drop_torn_line():
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
    def was_opened(path: Path) -> dict[str, Any] | None:
        """What the file says of how the model was opened; None if it says nothing."""
        try:
            with path.open(encoding="ascii") as file:
                opened = json.loads(file.readline())["opened"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return opened if isinstance(opened, dict) else None

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
                    outputs = np.frombuffer(
                        base64.b64decode(line["outputs"], validate=True), line["dtype"]
                    )
                    return outputs.reshape(line["shape"]), again, 0
            except (KeyError, TypeError, ValueError) as error:
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

    def sending(self, images: int) -> None:
        """Notes that images are about to be sent, those that `known` knew nothing of."""
        self.begun = True
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
        self._file.close()

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

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def _lines(self) -> Iterator[dict[str, Any]]:
        with self._path.open(encoding="ascii", errors="replace") as file:
            for line in file:
                try:
                    found = json.loads(line)
                except ValueError as error:
                    raise self._damaged() from error
                if not isinstance(found, dict):
                    raise self._damaged()
                yield found

    def _damaged(self) -> JournalError:
        return JournalError(f"{self._path} is damaged: begin again with `overwrite`.")

    def _drop_torn_line(self) -> bool:
        """Cuts off a last line that is not whole; whether anything is left."""
        if not self._path.exists():
            return False
        with self._path.open("rb+") as file:
            end = file.seek(0, 2)
            size = end
            while size > 0:
                step = min(size, 1 << 16)
                file.seek(size - step)
                found = file.read(step).rfind(b"\n")
                if found >= 0:
                    size = size - step + found + 1
                    break
                size -= step
            if size < end:
                file.truncate(size)
        return size > 0
