"""Models as people have them by mistake, in NumPy, for ``python:odd_models_by_hand:NAME``."""

import contextlib
import os
import signal
import sys

import numpy as np

SHAPE = (12, 12, 3)
ASKED = []
"""How many images came with each call."""


def colours(images):
    """Logits f32[b, 3]: by how red, green and blue an image is."""
    return (images.mean((1, 2)) * 8).astype(np.float32)


def model(function):
    """With what a function says of itself, and its calls counted."""

    def predict(images):
        ASKED.append(len(images))
        return function(images)

    predict.image_shape = SHAPE
    return predict


def softmax(logits):
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)


def in_bytes(images):
    """A model that takes 0 to 255: of 0 to 1 it sees black."""
    return np.stack([100 - images.mean((1, 2, 3)), images.mean((1, 2, 3)) - 100], -1)


def interrupts(images):
    raise KeyboardInterrupt


def user_interrupts(images):
    """The user presses Ctrl-C meanwhile, and the model makes nothing of it."""
    with contextlib.suppress(BaseException):
        os.kill(os.getpid(), signal.SIGINT)
    return colours(images)


def user_interrupts_and_it_fails(images):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        raise ValueError("a wrapper's own words") from None


def batch_normed(images):
    """In training mode: by the mean of whatever else is asked."""
    logits = colours(images)
    return (logits - logits.mean(0)) / (logits.std(0) + 1e-6)


_RANDOM = np.random.default_rng(0)

plain = model(colours)
constant = model(lambda images: np.tile(np.float32([0, 9, 1]), (len(images), 1)))
takes_bytes = model(in_bytes)
quits = model(lambda images: sys.exit())
interrupting = model(interrupts)
user_interrupting = model(user_interrupts)
user_interrupting_it_fails = model(user_interrupts_and_it_fails)
hungry = model(lambda images: np.zeros(1 << 62))
softmaxed = model(lambda images: softmax(colours(images)))
sigmoid = model(
    lambda images: 1 / (1 + np.exp(-40 * (images.mean((1, 2, 3), keepdims=True)[:, 0, 0] - 0.45)))
)
column = model(lambda images: colours(images).argmax(-1)[:, None])
halves = model(lambda images: colours(images).argmax(-1) + 0.5)
listed = model(lambda images: colours(images).tolist())
words = model(lambda images: np.array(["red", "green", "blue"])[colours(images).argmax(-1)])
named = model(lambda images: {"labels": colours(images).argmax(-1), "scores": colours(images)})
normed = model(batch_normed)
dropping = model(lambda images: colours(images) + _RANDOM.normal(0, 1, (len(images), 3)))
nan = model(lambda images: colours(images) / 0 * 0)
