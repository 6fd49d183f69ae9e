"""Purified answers behind a URL: as --model reads them, counted, and no request breaks it."""

import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
from commands_by_hand import call
from PIL import Image

from restore_jax import open_model
from restore_jax.purification import Defended, defences
from restore_jax.recovery import recover
from restore_jax.run import Run
from restore_jax.serving import make_server

pytestmark = pytest.mark.usefixtures("hardly_optimised")

SHAPE, NAMES = (6, 5, 3), ["dark", 'bri"ght']


def answer(images):
    """Class 1 by brightness; what has a white first pixel is flagged, and stands as class 0."""
    if images.shape[0] == 13:
        raise RuntimeError("out of luck")
    plain = np.stack([1 - images.mean((1, 2, 3)), images.mean((1, 2, 3))], -1)
    flags = images[:, 0, 0].min(-1) == 1
    return np.where(flags[:, None], [1.0, 0.0], plain), flags, plain


def picture(size, colour="red", mode="P"):
    """A PNG as text."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).convert(mode).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture
def there():
    server, counts = make_server(answer, SHAPE, NAMES, most_images=20)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", counts
    server.shutdown()
    server.server_close()
    thread.join()


def ask(url, content=None, **headers):
    """Status and body."""
    request = urllib.request.Request(url, content, headers)
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def body(images):
    return json.dumps({"images": images}).encode()


def png(image):
    file = io.BytesIO()
    Image.fromarray((image * 255).astype(np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_it_says_what_it_takes_and_answers_numbers_and_pictures(there):
    url, _ = there
    assert json.loads(ask(url)[1]) == {"image_shape": list(SHAPE), "classes": NAMES}
    white = np.ones(SHAPE, np.float32)
    dark = np.zeros(SHAPE, np.float32)
    for images in ([white.tolist(), dark.tolist()], [png(white), png(dark)]):
        status, said = ask(url, body(images))
        assert status == 200
        assert json.loads(said) == {"outputs": [[1.0, 0.0], [1.0, 0.0]], "flagged": [True, False]}


def test_it_counts(there):
    url, counts = there
    white = np.ones(SHAPE).tolist()
    ask(url, body([white, white, np.zeros(SHAPE).tolist()]))
    ask(url, b"nonsense")
    said = ask(f"{url}/metrics")[1]
    assert "restore_jax_images_total 3\n" in said
    assert 'restore_jax_flagged_total{class="bri\\"ght"} 2\n' in said
    assert 'restore_jax_requests_total{status="400"} 1\n' in said
    assert counts.content()["flagged_by_class"] == {'bri"ght': 2}
    for line in said.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) .*|\w+(\{\w+="([^"\\]|\\.)*"\})? [\d.e+-]+', line), line


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"{", 400, "JSON"),
        (b"[" * 100_000, 400, "JSON"),
        (b'{"pictures": []}', 400, "images"),
        (body([]), 400, "at least one"),
        (body([[1, 2]]), 400, "6x5x3"),
        (body([[[[0.5] * 3] * 5] * 6, [[1]]]), 400, "lists of numbers"),
        (body(["no picture"]), 400, "PNG"),
        (body([picture((3_000, 2_000))]), 400, "6x5x3 (height, width, channels), not 2000x3000x3"),
        (body([picture((6, 5))]), 400, "not 5x6x3"),
        (body([[[[10**400] * 3] * 5] * 6]), 400, "lists of numbers"),
        (body([[[[1.5] * 3] * 5] * 6]), 400, "[0, 1]"),
        (body([[[[float("nan")] * 3] * 5] * 6]), 400, "[0, 1]"),
        (body([[[[0.5] * 3] * 5] * 6] * 21), 413, "at most 20"),
        (b" " * 10_000_000, 413, "longer"),
        (body([[[[0.5] * 3] * 5] * 6] * 13), 503, "out of luck"),
    ],
)
def test_a_request_that_cannot_be_answered_is_told_why_and_the_next_is_answered(
    there, content, status, words
):
    url, _ = there
    found, said = ask(url, content)
    assert found == status
    assert words in json.loads(said)["error"]
    assert ask(url, body([np.zeros(SHAPE).tolist()]))[0] == 200


def test_colours_of_a_palette_are_colours(there):
    url, _ = there
    plain, indexed = (picture((5, 6), "red", mode) for mode in ("RGB", "P"))
    outputs = json.loads(ask(url, body([plain, indexed]))[1])["outputs"]
    assert outputs[0] == outputs[1]
    assert outputs[0][1] == pytest.approx(1 / 3)


def test_many_at_once_are_answered_one_after_the_other(there):
    url, counts = there
    found = []
    asks = [
        threading.Thread(target=lambda: found.append(ask(url, body([np.ones(SHAPE).tolist()]))[0]))
        for _ in range(16)
    ]
    for one in asks:
        one.start()
    for one in asks:
        one.join()
    assert found == [200] * 16
    assert counts.images == 16


def test_what_serving_cannot_keep_to_is_no_flag_of_it():
    for words in (["--dry-run"], ["--seconds", "5"], ["--price", "1"]):
        code, _, err = call("serve", "--recovery", "found", *words)
        assert code == 2
        assert "unrecognized arguments" in err


@pytest.mark.slow
def test_a_served_model_is_the_defended_one_to_whoever_asks_over_http():
    model = open_model("python:foreign_by_hand:small", class_names=tuple("abcd"))
    recovery = recover(model, 2, stop="first_hit", seed=0)
    assert recovery.found
    run = Run(model, budget=1 << 40).examine()
    defended = Defended(run, defences(run, recovery), 32)
    server, counts = make_server(
        defended, model.image_shape, model.class_names, asked=lambda: defended.queries
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    images = np.random.default_rng(0).random((30, *model.image_shape), np.float32)
    stamped = np.asarray(recovery.trigger.pattern * recovery.trigger.mask)
    images[:10] = images[:10] * (1 - np.asarray(recovery.trigger.mask)) + stamped
    seen = open_model(f"http://127.0.0.1:{server.server_port}/").query(images)
    stands, flags, _ = defended(images)
    np.testing.assert_array_equal(np.asarray(seen).argmax(-1), np.asarray(stands).argmax(-1))
    assert counts.content()["flagged"] == flags.sum() > 0
    assert counts.queries >= counts.images
    server.shutdown()
    server.server_close()


@pytest.mark.slow
@pytest.mark.full
def test_the_command_serves_until_it_is_told_to_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = ("--model", "python:foreign_by_hand:small")
    assert call("recover", *spec, "--target", "c", "--stop", "first_hit", "--out", "found")[0] == 0
    words = [sys.executable, "-m", "restore_jax", "serve", *spec, "--recovery", "found"]
    words += ["--port", "0", "--json", "--out", "counts"]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    try:
        said = ""
        while "serving" not in said:
            said = process.stderr.readline()
            assert said or process.poll() is None
        url = re.search(r"http://[\d.:]+/", said)[0]
        shape = json.loads(ask(url)[1])["image_shape"]
        assert ask(url, body([np.full(shape, 0.5).tolist()]))[0] == 200
    finally:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["images"] == 1
    assert json.loads((tmp_path / "counts" / "serving.json").read_text()) == json.loads(out)
