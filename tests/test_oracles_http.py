"""A model behind a URL: right outputs whatever goes wrong, every image counted, nothing told."""

import base64
import contextlib
import gzip
import io
import json
import logging
import random
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
import tracemalloc
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jax.numpy as jnp
import numpy as np
import pytest
from examples_by_hand import example
from PIL import Image

from restore_jax.oracles import ModelError, OutOfQueries, http, messages, open_model
from restore_jax.oracles.options import Description, ModelOptions

SECRET = "Bearer s3cret"
SHAPE = (2, 2, 3)
NAMES = ["red", "green", "blue"]
DESCRIPTION = {"image_shape": list(SHAPE), "classes": NAMES}
GIGABYTE = 1 << 30


class Server(ThreadingHTTPServer):
    """Answers with the three numbers of an image's first pixel, unless told to misbehave.

    `behave(k)` names what becomes of the k-th POST request: "well", or a method of `Handler`.
    """

    request_queue_size = 64

    def __init__(self, behave, description=DESCRIPTION, barrier=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.behave, self.description, self.barrier = behave, description, barrier
        self.over, self.lock = threading.Event(), threading.Lock()
        self.requests = self.images = self.connections = self.in_flight = self.most = 0
        self.arrivals, self.bodies, self.headers, self.paths = [], [], [], []
        self.written = 0
        self.url = f"http://127.0.0.1:{self.server_port}/classify"

    def handle_error(self, request, client_address):
        """Clients hang up; that is what they are here for."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        with self.server.lock:
            self.server.connections += 1

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.headers.append(dict(self.headers))
        described = self.server.description
        if isinstance(described, int):
            return self.reply(b"{}", described)
        if isinstance(described, str):
            return getattr(self, described)()
        return self.reply(json.dumps(described).encode())

    def do_POST(self):
        server = self.server
        arrival = time.monotonic()
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            number, server.requests = server.requests, server.requests + 1
            server.images += len(body["images"])
            server.in_flight += 1
            server.most = max(server.most, server.in_flight)
            server.arrivals.append(arrival)
            server.bodies.append(body)
            server.headers.append(dict(self.headers))
            server.paths.append(self.path)
        try:
            if server.barrier is not None:
                server.barrier.wait(5)
            self.images = body["images"]
            self.rows = [image[0][0] for image in self.images]
            getattr(self, server.behave(number))()
        finally:
            with server.lock:
                server.in_flight -= 1

    def reply(self, content, status=200, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def outputs(self, outputs):
        self.reply(json.dumps({"outputs": outputs}).encode())

    def well(self):
        self.outputs(self.rows)

    def constant(self):
        self.outputs([[0, 0.5, 1] for _ in self.images])

    def labels(self):
        self.outputs([int(np.argmax(row)) for row in self.rows])

    def nested(self):
        self.reply(json.dumps({"result": [{"scores": self.rows}]}).encode())

    def bare(self):
        self.reply(json.dumps(self.rows).encode())

    def broken(self):
        self.reply(b"no", 500)

    def busy(self):
        self.reply(b"no", 429)

    def busy_for_an_hour(self):
        self.reply(b"no", 429, Retry_After="3600")

    def busy_until(self):
        self.reply(b"no", 503, Retry_After=formatdate(time.time() + 3600, usegmt=True))

    def busy_for_nonsense(self):
        self.reply(b"no", 503, Retry_After="9" * 5000 + " o'clock")

    def drop(self):
        self.close_connection = True

    def stall(self):
        self.server.over.wait(5)
        self.close_connection = True

    def truncated(self):
        self.reply(b'{"outputs": [[0.5, 0.25')

    def cut_short(self):
        self.reply(b'{"outputs": [[0.5, 0.25', Content_Length="1000")
        self.close_connection = True

    def not_json(self):
        self.reply(b"<html>")

    def too_deep(self):
        self.reply(b"[" * 100_000)

    def another_key(self):
        self.reply(b'{"error": "no"}')

    def wrong_shape(self):
        self.outputs([[row] for row in self.rows])

    def ragged(self):
        self.outputs([self.rows[0][:2], *self.rows[1:]])

    def words(self):
        self.outputs([list(map(str, row)) for row in self.rows])

    def truths(self):
        self.outputs([[True, 0.0, 0.5] for _ in self.rows])

    def nan(self):
        self.outputs([[float("nan")] * 3 for _ in self.rows])

    def enormous(self):
        self.outputs([[10**400, 0, 0] for _ in self.rows])

    def too_large(self):
        self.outputs([[1e300, 0, 0] for _ in self.rows])

    def extra_class(self):
        self.outputs([[*row, 0.0] for row in self.rows])

    def label_too_large(self):
        self.outputs([3 for _ in self.rows])

    def twice(self):
        self.outputs(self.rows * 2)

    def gigabyte(self):
        self.send_response(200)
        self.send_header("Content-Length", str(GIGABYTE))
        self.end_headers()
        for _ in range(GIGABYTE >> 20):
            self.wfile.write(b" " * (1 << 20))
            self.server.written += 1 << 20

    def endless(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while True:
            self.wfile.write(b"100000\r\n" + b" " * (1 << 20) + b"\r\n")
            self.server.written += 1 << 20

    def drip(self):
        self.send_response(200)
        self.end_headers()
        self._drip(b" ")

    def drip_headers(self):
        self.send_response(200)
        self.flush_headers()
        self._drip(b"x")

    def go_on(self):
        self._drip(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _drip(self, drop):
        while not self.server.over.wait(0.02):
            self.wfile.write(drop)

    def gzip_bomb(self):
        self.reply(gzip.compress(bytes(1 << 24), 1), Content_Encoding="gzip")

    def redirect(self):
        self.reply(b"", 307, Location=f"{self.server.url}/elsewhere")

    def refuse(self):
        self.reply(SECRET.encode(), 401)

    def odd_headers(self):
        self.reply(b"no", 500, **{"": "nameless"})


MISBEHAVIOUR = {
    "broken": "status 500",
    "busy": "status 429",
    "busy_for_an_hour": "status 429",
    "busy_until": "status 503",
    "busy_for_nonsense": "status 503",
    "drop": "a connection that failed",
    "stall": "no complete response within 0.3 s",
    "truncated": "a response that is not JSON",
    "cut_short": "a connection that failed",
    "not_json": "a response that is not JSON",
    "too_deep": "a response that is not JSON",
    "another_key": "`answer`",
    "wrong_shape": "rows of numbers",
    "ragged": "equally long rows",
    "words": "rows of numbers",
    "truths": "rows of numbers",
    "nan": "not finite",
    "enormous": "not finite",
    "too_large": "not finite",
    "extra_class": "4 classes where it has 3",
    "label_too_large": "labels outside 0 to 2",
    "twice": "4 outputs for 2 images",
    "gigabyte": "a response of more than",
    "endless": "a response of more than",
    "drip": "no complete response within 0.3 s",
    "drip_headers": "no complete response within 0.3 s",
    "go_on": "no complete response within 0.3 s",
    "gzip_bomb": "a compressed response",
}


@contextlib.contextmanager
def serving(behave="well", **how):
    server = Server(behave if callable(behave) else lambda _: behave, **how)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def _hasty(monkeypatch):
    monkeypatch.setattr(http, "BACKOFF", 0.005)
    monkeypatch.setattr(messages, "LONGEST_PAUSE", 0.02)
    monkeypatch.delenv(http.AUTHORIZATION, raising=False)


def images_of(number, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).random((number, *shape), np.float32)


def opened(url, **said):
    options = ModelOptions(**{"timeout": 5.0, **said})
    model = http.load(url, options)
    return model, http.describe(model, options)


class Sending:
    """Counts images sent again, up to a limit."""

    def __init__(self, most=10**9):
        self.images, self.most = 0, most

    def __call__(self, number):
        if self.images + number > self.most:
            raise OutOfQueries(f"{number} more are too many.")
        self.images += number


def nothing_again(number):
    raise AssertionError("nothing went wrong")


def one_sentence(error, model):
    said = str(error)
    return said.startswith(model.name) and said.endswith(".") and "\n" not in said


@pytest.mark.parametrize("number", [1, 8, 21])
def test_outputs_come_in_the_order_of_the_images(number):
    images = images_of(number)
    with serving() as server:
        model, said = opened(server.url, batch=4)
        outputs = http.ask(model, images, nothing_again)
        assert said == Description(SHAPE, 3, tuple(NAMES))
        assert outputs.dtype == np.float32
        np.testing.assert_array_equal(outputs, images[:, 0, 0])
        assert server.images == number
        assert model.stats()["requests"] == -(-number // 4)


@pytest.mark.parametrize(
    ("behave", "answer"), [("nested", "result.0.scores"), ("bare", ""), ("well", "outputs")]
)
def test_outputs_are_where_the_answer_path_says(behave, answer):
    images = images_of(3)
    with serving(behave) as server:
        model, _ = opened(server.url, answer=answer)
        np.testing.assert_array_equal(http.ask(model, images, nothing_again), images[:, 0, 0])


def test_labels_are_whole_numbers():
    images = images_of(9)
    with serving("labels") as server:
        model, _ = opened(server.url, batch=4)
        labels = http.ask(model, images, nothing_again)
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(labels, images[:, 0, 0].argmax(-1))


def test_json_gives_back_every_number_exactly():
    bits = np.random.default_rng(0).integers(0, 0x7F7FFFFF, 9_000, dtype=np.uint32)
    some = np.concatenate([bits.view(np.float32), -bits[:1000].view(np.float32)])
    images = np.concatenate([some, images_of(100, (10, 10, 1)).ravel(), np.float32([0, 1, 1e-45])])
    images = np.resize(images, (50, 20, 20, 1))
    with serving("constant") as server:
        model, _ = opened(server.url)
        http.ask(model, images, nothing_again)
    arrived = np.asarray(server.bodies[0]["images"], np.float32)
    np.testing.assert_array_equal(arrived.view(np.uint32), images.view(np.uint32))


def test_channels_come_first_where_the_model_wants_them_so():
    images = images_of(2, (4, 5, 3))
    with serving("constant") as server:
        model, _ = opened(server.url, layout="nchw")
        http.ask(model, images, nothing_again)
    arrived = np.asarray(server.bodies[0]["images"], np.float32)
    np.testing.assert_array_equal(arrived, images.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("value_range", [None, (0.0, 255.0), (-1.0, 1.0)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_png_holds_the_image_rounded_to_eight_bits(channels, value_range):
    images = images_of(3, (5, 4, channels))
    low, high = value_range or (0.0, 1.0)
    with serving("constant") as server:
        model, _ = opened(server.url, send="png", value_range=value_range)
        http.ask(model, images * (high - low) + low, nothing_again)
    for image, sent in zip(images, server.bodies[0]["images"], strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(sent))))
        np.testing.assert_array_equal(pixels.reshape(image.shape), np.rint(image * 255))


def test_a_png_cannot_hold_two_channels():
    with serving() as server:
        model, _ = opened(server.url, send="png")
        with pytest.raises(ModelError, match="2 channels"):
            http.ask(model, images_of(1, (4, 4, 2)), nothing_again)
        assert server.requests == 0


@pytest.mark.parametrize("kind", MISBEHAVIOUR)
def test_a_server_that_always_misbehaves_ends_in_a_sentence(kind):
    sending = Sending()
    with serving(kind) as server:
        model, _ = opened(server.url, timeout=0.3 if "within" in MISBEHAVIOUR[kind] else 5.0)
        model.options = ModelOptions(retries=2, timeout=model.options.timeout)
        began = time.monotonic()
        tracemalloc.start()
        with pytest.raises(ModelError) as caught:
            http.ask(model, images_of(2), sending)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert time.monotonic() - began < 4
        assert one_sentence(caught.value, model)
        assert "3 attempts" in str(caught.value)
        assert MISBEHAVIOUR[kind] in str(caught.value)
        assert peak < 50 << 20
        assert server.written < 100 << 20
        assert sending.images == 4
        # A loaded machine may time out before the server has read a request.
        assert server.images == 6 or (server.images < 6 and "within" in MISBEHAVIOUR[kind])
        assert model.stats()["retries"] == 2
        assert model.stats()["images_resent"] == 4


@pytest.mark.parametrize("seed", [0, 1])
def test_outputs_are_right_where_a_fifth_of_the_requests_misbehave(seed):
    kinds = [kind for kind in MISBEHAVIOUR if kind not in ("drip_headers", "go_on")]
    draw = random.Random(seed)
    script = [draw.choice(kinds) if draw.random() < 0.2 else "well" for _ in range(1000)]
    images, sending = images_of(400), Sending()
    with serving(lambda number: script[number]) as server:
        model, _ = opened(server.url, batch=4, timeout=0.5, concurrency=8, retries=10)
        outputs = http.ask(model, images, sending)
        np.testing.assert_array_equal(outputs, images[:, 0, 0])
        assert set(script[: server.requests]) > {"well"}
        assert server.images <= len(images) + sending.images
        stats = model.stats()
        assert server.requests <= stats["requests"]
        assert stats["images_resent"] == sending.images == 4 * stats["retries"] > 0


@pytest.mark.parametrize(("kind", "words"), [("redirect", "redirect"), ("refuse", "status 401")])
def test_what_is_refused_is_not_sent_again(kind, words):
    with serving(kind) as server:
        model, _ = opened(server.url, batch=1, concurrency=2)
        with pytest.raises(ModelError, match=words) as caught:
            http.ask(model, images_of(50), nothing_again)
        assert one_sentence(caught.value, model)
        assert server.requests <= 4
        assert "/classify/elsewhere" not in server.paths


def test_the_first_error_ends_what_is_under_way():
    with serving(lambda number: "stall" if number < 3 else "refuse") as server:
        model, _ = opened(server.url, batch=1, timeout=30.0)
        began = time.monotonic()
        with pytest.raises(ModelError, match="401"):
            http.ask(model, images_of(50), nothing_again)
        assert time.monotonic() - began < 2
        assert server.requests == 4


def test_a_budget_that_is_spent_ends_the_sending():
    with serving("broken") as server:
        model, _ = opened(server.url, batch=2, retries=100)
        with pytest.raises(OutOfQueries, match="too many"):
            http.ask(model, images_of(40), Sending(10))
        time.sleep(0.2)  # the server counts what was on its way
        at_the_end = server.requests
        assert server.images <= 40 + 10
        assert at_the_end <= 4 + 5
        time.sleep(0.1)
        assert server.requests == at_the_end
        assert model.stats()["images_resent"] == 10


def test_a_retry_after_is_obeyed(monkeypatch):
    monkeypatch.setattr(messages, "LONGEST_PAUSE", 0.3)
    with serving(lambda number: "well" if number else "busy_for_an_hour") as server:
        model, _ = opened(server.url)
        http.ask(model, images_of(1), Sending())
        assert server.arrivals[1] - server.arrivals[0] >= 0.3


def test_requests_keep_to_the_rate():
    with serving(lambda number: "broken" if number % 4 == 1 else "well") as server:
        model, _ = opened(server.url, batch=1, rate=50.0)
        began = time.monotonic()
        http.ask(model, images_of(12), Sending())
        assert server.requests > 12
        for number, arrival in enumerate(sorted(server.arrivals)):
            assert arrival - began >= number / 50


@pytest.mark.parametrize("concurrency", [1, 3])
def test_as_many_requests_are_under_way_as_may_be(concurrency):
    with serving(barrier=threading.Barrier(concurrency)) as server:
        model, _ = opened(server.url, batch=2, concurrency=concurrency)
        http.ask(model, images_of(12 * concurrency), nothing_again)
        assert server.most == concurrency
        assert server.connections <= concurrency  # each is used again


def test_connections_that_were_closed_meanwhile_are_opened_anew():
    with serving() as server:
        model, _ = opened(server.url)
        http.ask(model, images_of(1), nothing_again)
        for line in model._idle:
            line.cut()
        http.ask(model, images_of(1), nothing_again)
        assert server.connections == 2


@pytest.mark.parametrize(
    ("described", "said"),
    [
        (DESCRIPTION, Description(SHAPE, 3, tuple(NAMES))),
        ({"image_shape": [8, 8, 1], "classes": 7}, Description((8, 8, 1), 7)),
        ({"image_shape": [8, 8, 1]}, Description((8, 8, 1))),
        ({"image_shape": [8, 8], "classes": 7}, Description(None, 7)),
        ({"image_shape": [8.0, 8, 1], "classes": True}, Description()),
        ({"image_shape": [0, 8, 1], "classes": 1}, Description()),
        ({"image_shape": [1 << 40, 1, 1], "classes": 1 << 40}, Description()),
        ({"image_shape": [1 << 12, 1 << 12, 3], "classes": -1}, Description()),
        ({"image_shape": "32x32x3", "classes": {"0": "cat"}}, Description()),
        ({"classes": ["cat", 1]}, Description()),
        ({"classes": ["cat", "\x1b[2Jdog"]}, Description()),
        ({"classes": ["cat", "d" * 10_000]}, Description()),
        ({"classes": ["cat"]}, Description()),
        ([1, 2], Description()),
        (404, Description()),
        (500, Description()),
        ("redirect", Description()),
        ("not_json", Description()),
        ("gigabyte", Description()),
        ("gzip_bomb", Description()),
    ],
)
def test_only_what_is_right_in_form_describes_a_model(described, said):
    with serving(description=described) as server:
        model, found = opened(server.url, retries=1)
        assert found == said
        assert server.written < 100 << 20
        assert model.stats()["requests"] == 0


@pytest.mark.parametrize("described", ["stall", "drop", "drip_headers"])
def test_a_model_that_cannot_be_reached_is_a_mistake_unless_all_is_known(described):
    with serving(description=described) as server:
        with pytest.raises(ModelError, match="cannot be reached"):
            opened(server.url, retries=1, timeout=0.2)
        told = {"image_shape": SHAPE, "classes": 3, "timeout": 0.2}
        assert opened(server.url, **told)[1] == Description()


def test_nobody_listens():
    with serving() as server:
        url = server.url
    with pytest.raises(ModelError, match="Connection refused"):
        opened(url, retries=1)
    model, _ = opened(url, retries=1, image_shape=SHAPE, classes=3)
    with pytest.raises(ModelError, match="Connection refused") as caught:
        http.ask(model, images_of(1), Sending())
    assert one_sentence(caught.value, model)


@pytest.mark.parametrize("kind", ["broken", "refuse", "redirect", "odd_headers", "drop"])
def test_what_is_secret_is_sent_and_not_told(kind, monkeypatch, caplog):
    monkeypatch.setenv(http.AUTHORIZATION, SECRET)
    caplog.set_level(logging.DEBUG)
    with serving(kind) as server:
        model, _ = opened(f"{server.url}?key=hush", retries=1)
        with pytest.raises(ModelError) as caught:
            http.ask(model, images_of(1), Sending())
        assert {headers["Authorization"] for headers in server.headers} == {SECRET}
        assert set(server.paths) == {"/classify?key=hush"}
    told = f"{caught.value} {caught.value!r} {model} {model!r} {model.stats()} {caplog.text}"
    assert "s3cret" not in told
    assert "hush" not in told
    assert server.url in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://me:hush@127.0.0.1:1/",
        "http://hush@127.0.0.1:1/",
        "http://127.0.0.1:hush/",
        "http://127.0.0.1:99999/?hush",
        "http:///hush",
        "ftp://127.0.0.1/hush",
        "http://[hush/",
        "hush",
    ],
)
def test_a_url_of_no_use_is_refused_and_not_shown(url):
    with pytest.raises(ModelError) as caught:
        http.load(url, ModelOptions())
    assert "hush" not in str(caught.value)
    assert str(caught.value).endswith(".")
    assert (http.AUTHORIZATION in str(caught.value)) == ("@" in url)


@pytest.mark.parametrize("value", ["Bearer hush\r\nX: y", "hush\x00", "hüsh"])
def test_an_authorization_that_is_no_header_is_refused_and_not_shown(value, monkeypatch):
    monkeypatch.setattr(http.os, "environ", {http.AUTHORIZATION: value})
    with pytest.raises(ModelError, match=http.AUTHORIZATION) as caught:
        http.load("http://127.0.0.1:1/", ModelOptions())
    assert "sh" not in str(caught.value).replace("ASCII", "")


@pytest.mark.parametrize(
    "said",
    [
        {"batch": 0},
        {"concurrency": 0},
        {"rate": 0.0},
        {"timeout": 0.0},
        {"timeout": float("nan")},
        {"retries": -1},
        {"send": "xml"},
        {"send": "png", "mean": (0.5,)},
        {"send": "png", "std": (1.0, 0.5, 1.0)},
    ],
)
def test_options_of_no_use_are_refused(said):
    with pytest.raises(ModelError, match="must be"):
        http.load("http://127.0.0.1:1/", ModelOptions(**said))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl for a certificate")
def test_certificates_are_verified(tmp_path, monkeypatch):
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    made += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    made += ["-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"]
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with serving(lambda number: ("well", "drip_headers")[number]) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = f"https://localhost:{server.server_port}/"
        with pytest.raises(ModelError, match="certificate"):
            opened(url)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        model, said = opened(url, timeout=0.5, retries=0)
        assert said.num_classes == 3
        images = images_of(2)
        np.testing.assert_array_equal(http.ask(model, images, nothing_again), images[:, 0, 0])
        with pytest.raises(ModelError, match="in one attempt, which came to no complete response"):
            http.ask(model, images, nothing_again)


def test_an_interrupt_does_not_wait_for_the_server():
    program = (
        "import signal, sys, numpy as np\n"
        # A program that is started in the background by a script ignores it otherwise.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from restore_jax.oracles import http\n"
        "from restore_jax.oracles.options import ModelOptions\n"
        "model = http.load(sys.argv[1], ModelOptions(timeout=60.0, batch=1))\n"
        "http.ask(model, np.zeros((9, 2, 2, 3), np.float32), lambda n: None)\n"
    )
    with serving("stall") as server:
        child = subprocess.Popen(
            [sys.executable, "-c", program, server.url], stderr=subprocess.PIPE
        )
        while not server.requests and child.poll() is None:
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        began = time.monotonic()
        said = child.communicate(timeout=40)[1].decode()
        assert time.monotonic() - began < 30  # a request takes 60 s
        assert "KeyboardInterrupt" in said


@pytest.fixture(scope="module")
def serve():
    return example("serve")


@pytest.mark.parametrize("access", ["logits", "labels"])
@pytest.mark.parametrize("send", ["json", "png"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_reference_server_answers_as_the_model_does(serve, access, send, channels):
    def mean_colours(images):
        sums = jnp.mean(images, (1, 2))
        scores = jnp.concatenate([sums, 1 - sums[:, :1]], -1)
        return scores.argmax(-1).astype(jnp.int32) if access == "labels" else scores

    names = tuple("abcd"[: channels + 1])
    oracle = open_model(mean_colours, access, image_shape=(4, 5, channels), class_names=names)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 4, 5, channels))
    images = (pixels / 255).astype(np.float32)
    server = serve.make_server(oracle)
    server.RequestHandlerClass.log_message = lambda *_: None
    threading.Thread(target=server.serve_forever, args=(0.01,)).start()
    try:
        model, said = opened(f"http://127.0.0.1:{server.server_port}/", send=send)
        assert said == Description((4, 5, channels), channels + 1, names)
        outputs = http.ask(model, images, nothing_again)
        np.testing.assert_array_equal(outputs, np.asarray(oracle.query(images)))
        with pytest.raises(ModelError, match="status 400"):
            http.ask(model, images[:, :2], nothing_again)
    finally:
        server.shutdown()
        server.server_close()
