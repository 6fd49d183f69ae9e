"""A model's purified answers behind a URL, in the form that ``docs/http.md`` describes.

What asks a model over HTTP today asks this server instead, and sees the same answers, but for
those that a trigger brought about. How many these were stands under ``/metrics``, as Prometheus
reads it.
"""

import base64
import collections
import io
import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

from restore_jax.types import JSON

Answer = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""``images f32[b, H, W, C] -> (outputs, flags bool[b], plain outputs)``, as `Defended` answers."""
MOST_IMAGES = 1_000
MOST_DRAINED = 1 << 26
"""Bytes of a request that is too long."""
SILENCE = 30.0
"""Seconds after which a connection that says nothing is closed."""
_BYTES_A_NUMBER = 32
TEXT = "text/plain; version=0.0.4; charset=utf-8"


class _Refused(Exception):
    """A request that cannot be answered: status and sentence."""


class Counts:
    """What a server has answered so far; safe to use from several threads.

    Attributes:
      images: answered.
      queries: images that the model was asked about for them.
      flagged: of the images, by the class that the model gave them.
      requests: by status.
      seconds: spent on asking the model.
    """

    def __init__(self) -> None:
        """All 0."""
        self._lock = threading.Lock()
        self.images = self.queries = 0
        self.flagged: collections.Counter[str] = collections.Counter()
        self.requests: collections.Counter[int] = collections.Counter()
        self.seconds = 0.0

    def answered(self, images: int, queries: int, flagged: Sequence[str], seconds: float) -> None:
        """Counts the images of a request."""
        with self._lock:
            self.images += images
            self.queries += queries
            self.flagged.update(flagged)
            self.seconds += seconds

    def replied(self, status: int) -> None:
        """Counts a request."""
        with self._lock:
            self.requests[status] += 1

    def content(self) -> dict[str, JSON]:
        """All of them, as JSON."""
        with self._lock:
            return {
                "images": self.images,
                "queries": self.queries,
                "flagged": sum(self.flagged.values()),
                "flagged_by_class": dict(self.flagged),
                "requests_by_status": {str(status): n for status, n in self.requests.items()},
                "seconds_asking": self.seconds,
            }

    def metrics(self) -> str:
        """All of them, in the text format of Prometheus."""
        with self._lock:
            rows: list[tuple[str, str, dict[str, float]]] = [
                ("images", "Images answered.", {"": self.images}),
                ("queries", "Images that the model was asked about.", {"": self.queries}),
                ("flagged", "Images with a trigger, by the class that the model gave them.",
                 {_label("class", name): n for name, n in sorted(self.flagged.items())}),
                ("requests", "Requests, by status.",
                 {_label("status", str(status)): n for status, n in sorted(self.requests.items())}),
                ("asking_seconds", "Seconds spent on asking the model.", {"": self.seconds}),
            ]  # fmt: skip
        lines = []
        for name, words, values in rows:
            full = f"restore_jax_{name}_total"
            lines += [f"# HELP {full} {words}", f"# TYPE {full} counter"]
            lines += [f"{full}{label} {value}" for label, value in values.items()]
        return "\n".join(lines) + "\n"


def make_server(
    answer: Answer,
    image_shape: tuple[int, int, int],
    class_names: Sequence[str],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    most_images: int = MOST_IMAGES,
    asked: Callable[[], int] | None = None,
) -> tuple[ThreadingHTTPServer, Counts]:
    """Makes a server; ``serve_forever`` of it answers until ``shutdown``.

    One request is answered at a time, the others wait. ``GET /metrics`` gives the counts, any other
    GET what the model takes, and POST the outputs for images, with ``flagged`` beside them: which
    of the images carry a trigger.

    Args:
      answer: `purification.Defended`, or what answers as it does.
      image_shape: (H, W, C).
      class_names: of the K classes.
      host, port: where it listens; port 0: any that is free.
      most_images: of one request.
      asked: how many images the model was asked about so far; None: one for each image.

    Returns:
      The server, and what it counts.

    Raises:
      OSError: nothing can listen there.

    >>> def answer(images):
    ...     outputs = np.zeros((len(images), 2), np.float32)
    ...     return outputs, np.zeros(len(images), bool), outputs
    >>> server, counts = make_server(answer, (8, 8, 3), ["a", "b"])
    >>> server.server_close()
    >>> counts.images
    0
    """
    counts, turn = Counts(), threading.Lock()
    names = list(class_names)
    most_bytes = most_images * (math.prod(image_shape) * _BYTES_A_NUMBER + 4_096)

    def outputs(content: bytes) -> dict[str, JSON]:
        images = _images(content, image_shape, most_images)
        with turn:
            began, before = time.perf_counter(), asked() if asked else 0
            stands, flags, plain = answer(images)
            seconds = time.perf_counter() - began
            queries = asked() - before if asked else len(images)
        given = plain if plain.ndim == 1 else plain.argmax(-1)
        flagged = [names[int(given[k])] for k in np.flatnonzero(flags)]
        counts.answered(len(images), queries, flagged, seconds)
        return {"outputs": stands.tolist(), "flagged": flags.tolist()}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        timeout = SILENCE

        def do_GET(self) -> None:
            if self.path.partition("?")[0].rstrip("/").endswith("/metrics"):
                self.reply(200, counts.metrics().encode(), TEXT)
            else:
                self.say(200, {"image_shape": list(image_shape), "classes": list(names)})

        def do_POST(self) -> None:
            try:
                self.say(200, outputs(self.rfile.read(self.length())))
            except _Refused as error:
                self.close_connection = True  # part of the request may not have been read
                self.say(error.args[0], {"error": error.args[1]})
            except Exception as error:  # the model's: whoever asks is told, and may ask again
                self.say(503, {"error": f"the model did not answer: {error}"})

        def length(self) -> int:
            said = self.headers.get("Content-Length", "")
            if not said.isdecimal():
                raise _Refused(411, "say how long the request is: it needs a Content-Length.")
            if int(said) > most_bytes:
                # Whoever sends it hears of it only once it is sent, unless it is endless.
                left = min(int(said), MOST_DRAINED)
                while left > 0 and (part := self.rfile.read(min(left, 1 << 16))):
                    left -= len(part)
                raise _Refused(413, f"the request is longer than {most_bytes:,} bytes.")
            return int(said)

        def say(self, status: int, said: dict[str, JSON]) -> None:
            self.reply(status, json.dumps(said).encode(), "application/json")

        def reply(self, status: int, content: bytes, kind: str) -> None:
            counts.replied(status)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Says nothing: the counts do."""

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    return server, counts


def _images(content: bytes, shape: tuple[int, int, int], most: int) -> np.ndarray:
    """The images f32[b, H, W, C] of a request."""
    try:
        given = json.loads(content)["images"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _Refused(400, 'a request is JSON of the form {"images": [...]}.') from error
    if not isinstance(given, list) or not given:
        raise _Refused(400, "`images` must be a list of at least one image.")
    if len(given) > most:
        raise _Refused(413, f"at most {most:,} images may be asked about in one request.")
    try:
        images = np.stack([_image(one, shape) for one in given]).astype(np.float32)
    except _Refused:
        raise
    except Exception as error:  # decoders of damaged pictures raise many kinds
        raise _Refused(400, "an image is lists of numbers, or a PNG file in base64.") from error
    _check_shape(images.shape[1:], shape)
    if not (np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
        raise _Refused(400, "the numbers of images must lie in [0, 1].")
    return images


def _image(one: JSON, shape: tuple[int, int, int]) -> np.ndarray:
    if not isinstance(one, str):
        return np.asarray(one, np.float32)
    with Image.open(io.BytesIO(base64.b64decode(one, validate=True)), formats=["PNG"]) as opened:
        # A small file may say that it is of any size, and takes as much memory once it is read.
        _check_shape((opened.height, opened.width, shape[2]), shape)
        picture: Image.Image = opened
        if opened.mode in ("1", "P"):  # of a palette the numbers are no colours
            picture = opened.convert("L" if shape[2] == 1 else "RGB")
        return np.atleast_3d(np.asarray(picture, np.float32) / np.float32(255.0))


def _check_shape(found: tuple[int, ...], shape: tuple[int, int, int]) -> None:
    if found != shape:
        wanted, other = ("x".join(map(str, sizes)) for sizes in (shape, found))
        raise _Refused(400, f"images must be of {wanted} (height, width, channels), not {other}.")


def _label(name: str, value: str) -> str:
    escaped = value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'{{{name}="{escaped}"}}'
