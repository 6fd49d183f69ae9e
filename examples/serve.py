"""A model behind a URL, as docs/http.md describes it: something to try `--model http://...` with.

python examples/serve.py --model shipped --port 8000
"""

import argparse
import base64
import io
import json
import math
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

from restore_jax import Oracle, open_model


class Gate:
    """Says no to more than `rate` requests a second, and to more than `quota` images in all."""

    def __init__(self, rate: float = math.inf, quota: float = math.inf):
        self.rate, self.left, self.next, self.lock = rate, quota, 0.0, threading.Lock()

    def refuses(self, images: int) -> tuple[int, dict, dict] | None:
        """Status, headers and JSON of a refusal; None if the images are let in, and paid for."""
        with self.lock:
            wait = self.next - time.monotonic()
            if wait > 0:
                return 429, {"Retry-After": str(math.ceil(wait))}, {"error": "too many requests"}
            if images > self.left:
                return 402, {}, {"error": "the quota is used up"}
            self.left -= images
            self.next = time.monotonic() + 1 / self.rate
            return None


def make_server(
    oracle: Oracle, port: int = 0, gate: Gate | None = None, latency: float = 0.0
) -> ThreadingHTTPServer:
    """Answers GET with a description of the model, and POST with its outputs, `latency` seconds
    later than it could."""
    gate = gate or Gate()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self.reply(200, {"image_shape": oracle.image_shape, "classes": oracle.class_names})

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                images = np.stack([decode(image) for image in json.loads(content)["images"]])
                refusal = gate.refuses(len(images))
                if refusal is not None:
                    status, headers, said = refusal
                    return self.reply(status, said, headers)
                time.sleep(latency)
                self.reply(200, {"outputs": np.asarray(oracle.query(images)).tolist()})
            except (ValueError, TypeError, KeyError, OSError) as error:
                self.reply(400, {"error": str(error)})

        def reply(self, status: int, said: dict, headers: dict | None = None) -> None:
            content = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    def decode(image: str | list) -> np.ndarray:
        if isinstance(image, str):
            image = np.asarray(Image.open(io.BytesIO(base64.b64decode(image))), np.float32) / 255
        return np.atleast_3d(np.asarray(image, np.float32))

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("model", "shipped"), ("access", "logits"), ("port", 8000)):
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--rate", type=float, default=math.inf, help="requests a second, at most")
    parser.add_argument("--quota", type=float, default=math.inf, help="images in all, at most")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    given = parser.parse_args()
    gate = Gate(given.rate, given.quota)
    server = make_server(open_model(given.model, given.access), given.port, gate, given.latency)
    print(f"http://127.0.0.1:{server.server_port}/", flush=True)
    server.serve_forever()
