"""What requests and responses over HTTP hold; see ``docs/http.md``."""

import base64
import email.utils
import functools
import io
import json
import math
import time

import numpy as np
from PIL import Image

from restore_jax.oracles.options import ModelOptions
from restore_jax.oracles.types import ModelError
from restore_jax.types import JSON

LONGEST_PAUSE = 60.0
"""Seconds for which a Retry-After is obeyed."""
MOST_CLASSES = 100_000
MOST_NUMBERS = 1 << 24
PNG_CHANNELS = (1, 3, 4)


def body(images: np.ndarray, options: ModelOptions) -> bytes:
    """A request's body: images f32[b, H, W, C] as ``options`` say."""
    if options.send == "png":
        return json.dumps({"images": _pngs(images, options.value_range or (0.0, 1.0))}).encode()
    if options.layout == "nchw":
        images = images.transpose(0, 3, 1, 2)
    template = _template(images.shape[1:])
    written = ",".join([template % tuple(image.ravel().tolist()) for image in images])
    return b'{"images":[' + written.encode() + b"]}"


@functools.cache
def _template(shape: tuple[int, ...]) -> str:
    """An image as JSON, to be filled in; nine digits give back every float32 exactly."""
    inner = _template(shape[1:]) if len(shape) > 1 else "%.9g"
    return "[" + ",".join([inner] * shape[0]) + "]"


def _pngs(images: np.ndarray, value_range: tuple[float, float]) -> list[str]:
    """Images as base64 of PNG files, each number rounded to the nearest of 256."""
    low, high = value_range
    if images.shape[-1] not in PNG_CHANNELS:
        raise ModelError(f'send must be "json" where images have {images.shape[-1]} channels.')
    pixels = np.rint(np.clip((images - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    written = []
    for image in pixels:
        file = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(
            file, "PNG", compress_level=1
        )
        written.append(base64.b64encode(file.getvalue()).decode())
    return written


def pause(retry_after: str | None) -> float:
    """Seconds to wait for, from a Retry-After header: seconds, or a date."""
    if retry_after is None:
        return 0.0
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError, OSError):
            return 0.0
    return min(max(0.0, seconds), LONGEST_PAUSE)


def within(said: JSON, path: str) -> JSON:
    """What lies at a dotted path; None if nothing does."""
    for part in path.split(".") if path else ():
        if isinstance(said, dict):
            said = said.get(part)
        elif isinstance(said, list) and part.isdecimal() and int(part) < len(said):
            said = said[int(part)]
        else:
            return None
    return said


def kind(found: JSON) -> str:
    """What something in a response is, in words."""
    names = {dict: "an object", str: "a string", type(None): "nothing"}
    return names.get(type(found), "a number")


def whole_number(said: JSON, least: int, most: int) -> int | None:
    """A whole number in its range, or None."""
    return said if type(said) is int and least <= said <= most else None


def class_names(said: JSON) -> tuple[str, ...] | None:
    """Names that can be shown on a terminal, if they are all that."""
    if not isinstance(said, list) or not 2 <= len(said) <= MOST_CLASSES:
        return None
    fit = all(isinstance(name, str) and len(name) <= 200 and name.isprintable() for name in said)
    return tuple(said) if fit else None


def image_shape(said: JSON) -> tuple[int, int, int] | None:
    """(H, W, C) of images that fit into memory, or None."""
    if not isinstance(said, list) or len(said) != 3:
        return None
    if any(whole_number(size, 1, MOST_NUMBERS) is None for size in said):
        return None
    return tuple(said) if math.prod(said) <= MOST_NUMBERS else None
