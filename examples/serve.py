"""A model behind a URL, as docs/http.md describes it: something to try `--model http://...` with.

python examples/serve.py --model shipped --port 8000
"""

import argparse
import base64
import io
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

from restore_jax import Oracle, open_model


def make_server(oracle: Oracle, port: int = 0) -> ThreadingHTTPServer:
    """Answers GET with a description of the model, and POST with its outputs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self.reply(200, {"image_shape": oracle.image_shape, "classes": oracle.class_names})

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                images = np.stack([decode(image) for image in json.loads(content)["images"]])
                self.reply(200, {"outputs": np.asarray(oracle.query(images)).tolist()})
            except (ValueError, TypeError, KeyError, OSError) as error:
                self.reply(400, {"error": str(error)})

        def reply(self, status: int, said: dict) -> None:
            content = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
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
    given = parser.parse_args()
    server = make_server(open_model(given.model, given.access), given.port)
    print(f"http://127.0.0.1:{server.server_port}/", flush=True)
    server.serve_forever()
