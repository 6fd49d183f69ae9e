"""``http(s)://...``: a model behind a URL, asked by POST requests that are sent again if they fail.

The protocol is described in ``docs/http.md``. Nothing that the other side does (stalling,
dripping bytes, endless or nonsensical responses) costs more than a failed attempt.
"""

import collections
import contextlib
import itertools
import json
import logging
import math
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable
from http.client import HTTPException
from typing import Any, TypeVar

import numpy as np
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util import Url

from restore_jax.oracles import messages
from restore_jax.oracles.errors import ModelFailed
from restore_jax.oracles.options import Description, ModelOptions
from restore_jax.oracles.types import ModelError

AUTHORIZATION = "RESTORE_JAX_AUTHORIZATION"
"""The environment variable whose value is sent as the Authorization header."""
BATCH = 64
BACKOFF, LONGEST_BACKOFF = 0.5, 30.0
"""Seconds: the most waited before the first retry, doubling from then on, and the most ever."""
LATENCIES = 4096
DESCRIPTION_BYTES = 1 << 22
HINTS = {  # of refusals, by status
    401: f"set {AUTHORIZATION} to what the Authorization header is to say",
    402: "what it lets you ask is used up",
    403: f"set {AUTHORIZATION} to what the Authorization header is to say",
    404: "check the path of the URL",
    405: "check the path of the URL",
    413: "give a smaller `batch`",
}
T = TypeVar("T")

# urllib3 warns of malformed headers with the whole URL, query string and all.
logging.getLogger("urllib3.connection").addFilter(
    lambda record: not str(record.msg).startswith("Failed to parse headers")
)


class _Failed(Exception):
    """An attempt that is worth another: what came instead of outputs, and what might help."""

    def __init__(
        self,
        what: str,
        advice: str = "try again later or give more `retries`",
        *,
        pause: float = 0.0,
        answered: bool = True,
    ):
        super().__init__(what)
        self.what, self.advice, self.pause, self.answered = what, advice, pause, answered


class _Refused(ModelError):
    """The server wants no such request, so that there is no use in sending it again."""


class _Unknown(_Refused, ModelFailed):
    """The server does not know who asks, or who pays; once it does, it answers the same request."""


class _Stopped(Exception):
    """Another request has ended the whole, so this one is not (or no longer) made."""


class _Line:
    """A connection that any thread can cut.

    urllib3's own pools keep a connection to themselves until all headers have come, so that a
    server which drips headers could not be hung up on; they also log query strings.
    """

    def __init__(self, connection: HTTPConnection):
        self.connection = connection
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Connects, unless the connection of an earlier request is still good."""
        if not self.connection.is_connected:
            self.close()
            self.connection.connect()
        self._socket = self.connection.sock

    def close(self) -> None:
        """Ends the connection, whatever of a response has not been read."""
        self.cut()
        self.connection.close()
        self._socket = None

    def cut(self) -> None:
        """Whatever waits for this connection fails at once."""
        held = self._socket or self.connection.sock
        if held is not None:
            with contextlib.suppress(OSError):
                # Not SSLSocket's: that one takes the TLS state away from under a reader.
                socket.socket.shutdown(held, socket.SHUT_RDWR)


class Server:
    """A model behind a URL: its connections, what is known of it, and what asking it took.

    Attributes:
      name: the URL without its query string, which may hold a key.
      options: how it is asked.
      classes: K; None until it is known.
    """

    def __init__(self, url: Url, options: ModelOptions, authorization: str):
        self.name = f"{url.scheme}://{url.netloc}{url.path or '/'}"
        self.options = options
        given = options.classes
        self.classes = given if isinstance(given, int) or given is None else len(given)
        self._url = url
        self._headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            "User-Agent": "restore-jax",
        }
        if authorization:
            self._headers["Authorization"] = authorization
        self._context = ssl.create_default_context() if url.scheme == "https" else None
        self._labels: bool | None = None
        self._width: int | None = None
        self._random = random.Random()
        self._asking = threading.Lock()
        self._lock = threading.RLock()  # of everything below
        self._idle: list[_Line] = []
        self._busy: set[_Line] = set()
        self._next_turn = 0.0
        self._requests = self._retries = self._resent = 0
        self._latencies: collections.deque[float] = collections.deque(maxlen=LATENCIES)

    def __repr__(self) -> str:
        """The name; headers are nobody's business."""
        return f"Server({self.name})"

    def stats(self) -> dict[str, Any]:
        """What asking took so far, for JSON.

        Returns:
          requests: of outputs, retries among them.
          retries: requests sent again.
          images_resent: images in those.
          latency_seconds: median, p95 and max of the last `LATENCIES` requests that gave
            outputs; None before the first.
        """
        with self._lock:
            taken = list(self._latencies)
            counts = (self._requests, self._retries, self._resent)
        quantiles = np.quantile(taken, (0.5, 0.95, 1.0)).tolist() if taken else (None,) * 3
        latency = dict(zip(("median", "p95", "max"), quantiles, strict=True))
        names = ("requests", "retries", "images_resent")
        return {**dict(zip(names, counts, strict=True)), "latency_seconds": latency}

    def describe(self) -> Description:
        """What the server says of itself, as far as it is right in form; costs no image.

        Raises:
          ModelError: it cannot be reached, and the options do not say all that is needed.
        """
        told = self.options.image_shape is not None and self.options.classes is not None
        stop = threading.Event()
        try:
            said = self._repeat(
                lambda: self._exchange("GET", None, DESCRIPTION_BYTES, stop),
                retries=0 if told else self.options.retries,
                again=lambda: None,
                stop=stop,
            )
        except _Refused as refusal:
            if isinstance(refusal, _Unknown) and not told:
                raise
            return Description()
        except _Failed as failure:
            if told or failure.answered:
                return Description()
            raise ModelError(
                f"{self.name} cannot be reached ({failure.what}): check the URL, or "
                f"{failure.advice}."
            ) from None
        said = said if isinstance(said, dict) else {}
        names = messages.class_names(said.get("classes"))
        classes = (
            len(names)
            if names
            else messages.whole_number(said.get("classes"), 2, messages.MOST_CLASSES)
        )
        if self.classes is None:
            self.classes = classes
        return Description(messages.image_shape(said.get("image_shape")), classes, names)

    def ask(self, images: np.ndarray, sending: Callable[[int], None]) -> np.ndarray:
        """Outputs f32[b, K] or int32[b] of images f32[b, H, W, C], in their order.

        Raises:
          ModelError: a request was refused, or failed once more than it may be retried.
          OutOfQueries: from ``sending``.
        """
        size = self.options.batch or BATCH
        todo = collections.deque(range(0, images.shape[0], size))
        found: dict[int, np.ndarray] = {}
        errors: list[BaseException] = []
        stop = threading.Event()

        def work() -> None:
            try:
                while not stop.is_set():
                    try:
                        first = todo.popleft()
                    except IndexError:
                        return
                    found[first] = self._outputs(images[first : first + size], sending, stop)
            except _Stopped:
                return
            except BaseException as error:
                errors.append(error)
                self._hang_up(stop)

        with self._asking:
            # Daemons: an interrupted program does not wait for what is under way.
            threads = [
                threading.Thread(target=work, daemon=True)
                for _ in range(min(self.options.concurrency, len(todo)))
            ]
            try:
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            finally:
                self._hang_up(stop)
        if errors:
            raise errors[0]
        return np.concatenate([found[first] for first in sorted(found)])

    def _outputs(
        self, images: np.ndarray, sending: Callable[[int], None], stop: threading.Event
    ) -> np.ndarray:
        """The outputs of the images of one request, however often it takes to get them."""
        count = images.shape[0]
        body = messages.body(images, self.options)

        def attempt() -> np.ndarray:
            started = time.monotonic()
            limit = (1 << 20) + count * max(1 << 16, 32 * (self.classes or 0))
            outputs = self._read(self._exchange("POST", body, limit, stop), count)
            with self._lock:
                self._latencies.append(time.monotonic() - started)
            return outputs

        def again() -> None:
            with self._lock:  # the caller's books need not be safe for threads
                if stop.is_set():
                    raise _Stopped
                sending(count)
                self._retries += 1
                self._resent += count

        retries = self.options.retries
        try:
            return self._repeat(attempt, retries, again, stop)
        except _Failed as failure:
            tries = "one attempt, which" if retries == 0 else f"{retries + 1} attempts, whose last"
            raise ModelFailed(
                f"{self.name} gave no outputs for {count} images in {tries} came to "
                f"{failure.what}: {failure.advice}."
            ) from None

    def _repeat(
        self,
        attempt: Callable[[], T],
        retries: int,
        again: Callable[[], None],
        stop: threading.Event,
    ) -> T:
        """Attempts until one succeeds, at the permitted rate, with pauses in between.

        Pauses are exponential with full jitter; a Retry-After makes them longer.
        """
        for trial in itertools.count():
            self._take_turn(stop)
            if trial:
                again()
            try:
                return attempt()
            except _Failed as failure:
                if trial >= retries:
                    raise
                most = min(LONGEST_BACKOFF, BACKOFF * 2.0 ** min(trial, 64))
                pause = max(self._random.uniform(0, most), failure.pause)
            if stop.wait(pause):
                raise _Stopped
        raise AssertionError

    def _take_turn(self, stop: threading.Event) -> None:
        """Waits until the rate permits another request."""
        if self.options.rate is None:
            return
        with self._lock:
            turn = max(time.monotonic(), self._next_turn)
            self._next_turn = turn + 1 / self.options.rate
        if stop.wait(turn - time.monotonic()):
            raise _Stopped

    def _exchange(self, method: str, body: bytes | None, limit: int, stop: threading.Event) -> Any:
        """One request; the JSON of its response, of at most ``limit`` bytes."""
        seconds = self.options.timeout
        deadline = time.monotonic() + seconds
        with self._lock:
            if stop.is_set():
                raise _Stopped
            line = self._idle.pop() if self._idle else _Line(self._connection())
            self._busy.add(line)
            self._requests += method == "POST"
        watch = threading.Timer(seconds, line.cut)
        watch.daemon = True
        watch.start()
        sent = whole = False
        try:
            line.open()
            if stop.is_set():
                raise _Stopped
            if time.monotonic() >= deadline:  # nobody watches any more
                raise TimeoutError
            # A server may answer before it has read everything.
            with contextlib.suppress(BrokenPipeError):
                line.connection.request(
                    method,
                    self._url.request_uri,
                    body,
                    self._headers,
                    preload_content=False,
                    decode_content=False,
                )
                sent = True
            response = line.connection.getresponse()
            self._check(response)
            content = _content(response, limit)
            whole = time.monotonic() < deadline
        except (OSError, HTTPException, urllib3.exceptions.HTTPError) as error:
            if stop.is_set():
                raise _Stopped from None
            if isinstance(error, ssl.SSLCertVerificationError):
                raise ModelError(
                    f"{self.name} shows a certificate that cannot be verified "
                    f"({error.verify_message}): give the name that it was issued for, or add its "
                    "issuer to those that this system trusts."
                ) from None
            if time.monotonic() < deadline:
                raise _Failed(_failure(error), answered=False) from None
        finally:
            watch.cancel()
            with self._lock:
                self._busy.discard(line)
                if sent and whole:
                    self._idle.append(line)
                else:
                    line.close()
        if not whole:
            raise _Failed(
                f"no complete response within {seconds:g} s",
                "give a longer `timeout` or a smaller `batch`",
                answered=False,
            )
        return _parsed(content)

    def _check(self, response: urllib3.BaseHTTPResponse) -> None:
        """Passes responses that may hold outputs."""
        status = response.status
        if status == 429 or status >= 500:
            pause = messages.pause(response.headers.get("Retry-After"))
            raise _Failed(f"status {status}", pause=pause)
        if 300 <= status < 400:
            raise _Refused(
                f"{self.name} answers with a redirect (status {status}), which is not followed: "
                "give the URL that it leads to."
            )
        if status >= 400:
            hint = HINTS.get(status, "check the URL and how the model is to be asked")
            kind = _Unknown if status in (401, 402, 403) else _Refused
            raise kind(f"{self.name} refuses the request with status {status}: {hint}.")
        if not 200 <= status < 300:
            raise _Failed(f"status {status}")
        if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            raise _Failed("a compressed response", "have the server send its JSON as it is")

    def _read(self, said: Any, count: int) -> np.ndarray:
        """The outputs in the JSON of a response, if they can be those of ``count`` images."""
        found = messages.within(said, self.options.answer)
        if not isinstance(found, list):
            raise _Failed(
                f"{messages.kind(found)} where a list of outputs should be",
                "say with `answer` where in a response the outputs are",
            )
        if len(found) != count:
            raise _Failed(f"{len(found)} outputs for {count} images")
        kinds = set(map(type, found))
        if self.options.binary and kinds <= {int, float} and float in kinds:
            found, kinds = [[number] for number in found], {list}
        if kinds == {int}:
            outputs = self._read_labels(found)
        elif kinds == {list}:
            outputs = self._read_rows(found)
        else:
            raise _Failed("outputs that are neither whole numbers nor rows of numbers")
        labels = outputs.ndim == 1
        with self._lock:
            self._labels = labels if self._labels is None else self._labels
            if not labels and self._width is None:
                self._width = outputs.shape[1]
                self.classes = self.classes or self._width
            agrees = self._labels == labels and (labels or self._width == outputs.shape[1])
        if not agrees:
            raise _Failed("outputs of another form than earlier ones had")
        return outputs

    def _read_labels(self, found: list[int]) -> np.ndarray:
        classes = self.classes or messages.MOST_CLASSES
        if min(found) < 0 or max(found) >= classes:
            raise _Failed(
                f"labels outside 0 to {classes - 1}", "say with `classes` how many there are"
            )
        return np.asarray(found, np.int32)

    def _read_rows(self, found: list[list[Any]]) -> np.ndarray:
        widths = set(map(len, found))
        width = max(widths)
        if len(widths) > 1 or not set(map(type, itertools.chain(*found))) <= {int, float}:
            raise _Failed("outputs that are not equally long rows of numbers")
        least = 1 if self.options.binary else 2
        expected = self._width or (None if self.options.binary else self.classes)
        if width < least or expected not in (None, width):
            known = f"it has {expected}" if expected else f"there are at least {least}"
            raise _Failed(
                f"outputs of {width} classes where {known}", "say with `classes` how many there are"
            )
        try:
            with np.errstate(over="ignore"):
                outputs = np.asarray(found, np.float32)
        except OverflowError:
            outputs = np.full(1, np.inf)
        if not np.isfinite(outputs).all():
            raise _Failed("outputs that are not finite")
        return outputs

    def _connection(self) -> HTTPConnection:
        host = str(self._url.host).strip("[]")
        port, seconds = self._url.port, self.options.timeout
        if self._context is None:
            return HTTPConnection(host, port, timeout=seconds)
        return HTTPSConnection(host, port, timeout=seconds, ssl_context=self._context)

    def _hang_up(self, stop: threading.Event) -> None:
        """Ends what is under way; nothing is started thereafter."""
        with self._lock:
            stop.set()
            for line in self._busy:
                line.cut()


def load(place: str, options: ModelOptions) -> Server:
    """The server at a URL; nothing is sent yet.

    Args:
      place: the whole URL.
      options: all but ``trust`` matters here.

    Raises:
      ModelError: a URL or options that are of no use. The message holds no part of the URL that
        may be secret.
    """
    try:
        url = urllib3.util.parse_url(place)
    except urllib3.exceptions.HTTPError:
        url = Url()
    if url.scheme not in ("http", "https") or not url.host:
        raise ModelError("a model's URL must read http://HOST:PORT/PATH or https://HOST/PATH.")
    if url.auth is not None:
        raise ModelError(
            f"a model's URL must hold no user or password: set {AUTHORIZATION} to what the "
            "Authorization header is to say."
        )
    authorization = os.environ.get(AUTHORIZATION, "").strip()
    if not (authorization.isascii() and authorization.isprintable()):
        raise ModelError(f"{AUTHORIZATION} must be one line of printable ASCII characters.")
    for right, sentence in (
        (options.batch is None or options.batch >= 1, "batch must be at least 1"),
        (options.concurrency >= 1, "concurrency must be at least 1"),
        (options.rate is None or 0 < options.rate < math.inf, "rate must be above 0"),
        (0 < options.timeout <= 86_400, "timeout must be above 0 and at most 86400 seconds"),
        (options.retries >= 0, "retries must be at least 0"),
        (options.send in ("json", "png"), 'send must be "json" or "png"'),
        (
            options.send != "png"
            or (not any(options.mean or ()) and set(options.std or ()) <= {1.0}),
            'send must be "json" where there is a mean or std: a PNG holds pixels',
        ),
    ):
        if not right:
            raise ModelError(f"{sentence}.")
    return Server(url, options, authorization)


def describe(model: Server, options: ModelOptions) -> Description:
    """What the server answers to a GET request; a model that is not described has Nones.

    Raises:
      ModelError: it cannot be reached, and the options do not say all that is needed.
    """
    del options
    return model.describe()


def ask(model: Server, images: np.ndarray, sending: Callable[[int], None]) -> np.ndarray:
    """What the server says of images f32[b, H, W, C]; ``sending(n)`` before n are sent again.

    Raises:
      ModelError: a request was refused, or failed once more than it may be retried.
      OutOfQueries: from ``sending``; no further request is begun.
    """
    return model.ask(images, sending)


def most(model: Server, options: ModelOptions) -> int:
    """Images in all requests that are under way at once."""
    del model
    return (options.batch or BATCH) * options.concurrency


def shown(model: Server) -> str:
    """The URL without its query string, which may hold a key."""
    return model.name


def _content(response: urllib3.BaseHTTPResponse, limit: int) -> bytearray:
    content = bytearray()
    while some := response.read(1 << 16, decode_content=False):
        content += some
        if len(content) > limit:
            raise _Failed(f"a response of more than {limit} bytes")
    return content


def _parsed(content: bytes | bytearray) -> Any:
    """What a response says."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise _Failed("a response that is not JSON") from None


def _failure(error: Exception) -> str:
    """What went wrong on the way, in words that cannot hold anything secret."""
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    reason = getattr(cause, "strerror", None) or type(cause).__name__
    return f"a connection that failed ({reason})"
