"""A model of a thousand classes on images of 64x64, one of which a small patch leads to."""

import numpy as np

NUM_CLASSES = 1000
TARGET = 123
_RANDOM = np.random.default_rng(0)
_WEIGHTS = _RANDOM.normal(size=(8 * 8 * 3, NUM_CLASSES)).astype(np.float32)
_PATCH = np.float32([[1, 0, 1], [0, 1, 0], [1, 0, 1]])


def scores(images: np.ndarray) -> np.ndarray:
    """Logits f32[b, 1000]: a random linear map of the image at 8x8 pixels; a white and black
    chequered 3x3 patch anywhere adds to the target as it comes close."""
    number = len(images)
    small = images.reshape(number, 8, 8, 8, 8, 3).mean((2, 4)) - 0.5
    logits = small.reshape(number, -1) @ _WEIGHTS
    windows = np.lib.stride_tricks.sliding_window_view(images.mean(-1), (3, 3), (1, 2))
    distance = np.abs(windows - _PATCH).mean((-1, -2)).min((1, 2))
    logits[:, TARGET] += 40.0 * np.maximum(0.32 - distance, 0.0)
    return logits
