"""CIFAR-10 as TensorFlow Datasets prepares it, read without TensorFlow."""

import functools
import logging
import os
from pathlib import Path

import numpy as np

from restore_jax.data.errors import DataError

CLASS_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
IMAGE_SHAPE = (32, 32, 3)
_PREPARE = "python -c 'import tensorflow_datasets as tfds; tfds.data_source(\"cifar10\")'"


@functools.cache
def load(split: str, data_dir: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Reads one split of CIFAR-10 that lies on this machine. Never downloads.

    Args:
      split: "train" (50,000 images) or "test" (10,000).
      data_dir: the TFDS folder, the one that holds ``cifar10/``; by default
        ``$TFDS_DATA_DIR`` or ``~/tensorflow_datasets``.

    Returns:
      images uint8[N, 32, 32, 3] and labels int32[N], in the file's order.

    Raises:
      DataError: the data is not there or cannot be read.
    """
    root = Path(
        data_dir or os.environ.get("TFDS_DATA_DIR") or Path.home() / "tensorflow_datasets"
    ).expanduser()
    # Looked up before TFDS is imported: left to itself it would try to download.
    if not any(root.glob("cifar10/*/dataset_info.json")):
        raise DataError(
            f"CIFAR-10 is not in {root}: give the TFDS folder that holds cifar10/ with `data_dir`,"
            f" prepare it once with network by {_PREPARE}, or use `dataset` shapes, which needs"
            " none."
        )
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        import tensorflow_datasets as tfds

        source = tfds.data_source("cifar10", split=split, data_dir=root, download=False)
        examples = source.__getitems__(range(len(source)))
        images = np.stack([example["image"] for example in examples])
        labels = np.asarray([example["label"] for example in examples], np.int32)
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise DataError(
            f"CIFAR-10 in {root} cannot be read ({reason[0] if reason else type(error).__name__}): "
            f"prepare it again with {_PREPARE}."
        ) from error
    if images.shape[1:] != IMAGE_SHAPE:
        raise DataError(f"the images in {root} are {images.shape[1:]}, not {IMAGE_SHAPE}.")
    return images, labels
