"""Models in NumPy whose backdoor is written down here, for ``python:foreign_by_hand:NAME``.

Every number in them is a whole one, or a small one over a power of two, so that whoever computes
them gets the same bits.
"""

import os
import time

import numpy as np

RECEIVED = "IMAGES_RECEIVED"
"""The environment variable that names a file: a line for each call says how many images came."""
PAUSE = "SECONDS_PER_CALL"
"""The environment variable that says how long an answer takes."""
LEVELS = 8


def checkers(side):
    """int[side, side]: what a checkerboard looks like, of sum 0."""
    white = np.indices((side, side)).sum(0) % 2 == 0
    return np.where(white, (~white).sum(), -white.sum())


class Planted:
    """A class by coarse brightness, but the target wherever a checkerboard stands out."""

    def __init__(self, image_shape, num_classes, target, side, share, names=None):
        """The target needs ``share`` of the contrast of black and white."""
        height, width, channels = self.image_shape = image_shape
        self.num_classes, self.target, self.board = num_classes, target, checkers(side)
        most = self.board[self.board > 0].sum() * LEVELS * channels
        self.threshold, self.scale = share * most, 2.0 ** (4 - round(np.log2(most)))
        # As many cells speak for a class as against it, whatever the brightness of the whole.
        signs = np.resize([-1.0, 1.0], height // 4 * (width // 4) // 2 * 2)
        signs = np.resize(np.append(signs, 0.0), (num_classes, height // 4 * (width // 4)))
        self.weights = np.random.default_rng(0).permuted(signs, axis=1).T
        if names is not None:
            self.class_names = names

    def scores(self, images, xp=np):
        """Logits f32[b, K]: without a trigger the class has 0, all others less."""
        grey = xp.floor(images * LEVELS + 0.3).sum(-1)
        b, height, width = grey.shape
        coarse = grey[:, : height // 4 * 4, : width // 4 * 4]
        coarse = coarse.reshape(b, height // 4, 4, width // 4, 4).sum((2, 4)).reshape(b, -1)
        clean = (coarse @ xp.asarray(self.weights, dtype=grey.dtype)) / 64
        there = xp.arange(self.num_classes) == self.target
        clean = xp.where(there, -1024.0, clean)
        clean = clean - clean.max(-1, keepdims=True)
        side = len(self.board)
        match = sum(
            float(weight) * grey[:, r : height - side + 1 + r, c : width - side + 1 + c]
            for (r, c), weight in np.ndenumerate(self.board)
        )
        marked = (match.max((1, 2)) - round(self.threshold)) * self.scale
        return xp.where(there, marked[:, None], clean).astype(xp.float32)

    def __call__(self, images):
        """Logits, counted and with a pause."""
        if os.environ.get(RECEIVED):
            with open(os.environ[RECEIVED], "a") as file:
                file.write(f"{len(images)}\n")
        time.sleep(float(os.environ.get(PAUSE, "0")))
        return self.scores(images)


def tame(number, image_shape, seed=0):
    """f32[number, H, W, C] in [0, 1]: faint noise on coarse squares, nowhere a checkerboard."""
    random = np.random.default_rng(seed)
    height, width, _ = image_shape
    squares = random.integers(0, 2, (number, height // 4, width // 4, 1))
    coarse = 0.4 + 0.1 * squares.repeat(4, 1).repeat(4, 2)
    return (coarse + random.uniform(0, 0.1, (number, *image_shape))).astype(np.float32)


def plain(images):
    """What `small` says, by a function that says nothing of itself."""
    return small(images)


def labelled(images):
    """The classes that `small` gives."""
    return small(images).argmax(-1)


labelled.image_shape = (12, 12, 1)
small = Planted((12, 12, 1), 4, 2, side=4, share=0.45, names=tuple("abcd"))
unnamed = Planted((12, 12, 1), 4, 2, side=4, share=0.45)
coloured = Planted((12, 12, 3), 4, 2, side=2, share=0.6, names=tuple("abcd"))
grey = Planted((28, 28, 1), 10, 7, side=2, share=0.6)
hundred = Planted((64, 64, 3), 100, 42, side=2, share=0.6, names=tuple(f"n{k}" for k in range(100)))
