"""Probe images: what a suspicious model is shown, with and without a trigger.

A *probe source* is one deterministic order of images. Searching, screening and
confirming take consecutive pieces of it, so that none ever meets another's images:

    source = open_probes("dead_leaves", seed, (32, 32, 3))
    search, confirm = source.draw(0, 20), source.draw(20, 100)

Nothing here downloads anything.
"""

import dataclasses
import functools
import operator
import os
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageOps

from restore_jax.data.dead_leaves import check_image_shape, dead_leaves
from restore_jax.data.errors import DataError
from restore_jax.data.shapes import shapes
from restore_jax.errors import InputError
from restore_jax.reading import Unreadable, is_zip, read_npy, read_npz

Array = jax.Array
ImageShape = tuple[int, int, int]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
"""The names that a folder's images may end with, in either case."""

MOST_BYTES = 1 << 34
"""Bytes that the arrays of a file take."""
_BLOCK = 32
# Keeps a seed that also serves the search or a data set from drawing the same numbers.
_STREAM = 0x70726F62


@dataclasses.dataclass(frozen=True)
class ProbeSource:
    """One deterministic order of probe images, numbered from 0.

    Attributes:
      name: what the images are, for messages and reports.
      image_shape: (H, W, C) of every image.
      available: how many images there are; None if there is no end to them.
      read: ``(start, count) -> f32[count, H, W, C]`` in [0, 1], a NumPy array;
        called with start + count <= available.
    """

    name: str
    image_shape: ImageShape
    available: int | None
    read: Callable[[int, int], np.ndarray]

    def draw(self, start: int, count: int) -> Array:
        """The images number start to start + count - 1; the same at every call.

        Returns:
          f32[count, H, W, C] in [0, 1].

        Raises:
          InputError: start or count is negative.
          DataError: there are fewer images than that, or one cannot be read.
        """
        if start < 0 or count < 0:
            raise InputError(f"start and count must be at least 0, not {start} and {count}.")
        if self.available is not None and start + count > self.available:
            raise DataError(
                f"{self.name} holds {self.available} images, but {start + count} are needed."
            )
        if count == 0:
            return jnp.zeros((0, *self.image_shape), jnp.float32)
        return jnp.asarray(self.read(start, count), jnp.float32)


def open_probes(
    spec: str | os.PathLike[str] | np.ndarray | Array,
    key_or_seed: Array | int,
    image_shape: ImageShape,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    in_order: bool = False,
) -> ProbeSource:
    """Opens a source of probe images.

    Args:
      spec: one of
        "dead_leaves": synthetic images without end (`restore_jax.data.dead_leaves`);
        "shapes": synthetic images without end (`restore_jax.data.shapes`);
        "cifar10": the test split that TFDS has prepared;
        a folder: its images and those of the folders below it (`SUFFIXES`, hidden
        ones left out). Each is put on white where it is transparent, brought to the
        model's channels (grey is repeated; colour becomes its luma), cropped about its
        centre to the model's proportions and resized (bicubic), where they differ;
        a file .npz (its array "images", or its only one) or .npy: [N, H, W, C] of
        the model's image shape ([N, H, W] for grey), uint8 in 0..255 or floating in
        [0, 1]; taken as it is.
        an array, of the same kind.
        A path named like one of the words is written ./word.
      key_or_seed: a PRNG key, consumed, or an integer: it decides the images drawn,
        or the order in which files are taken (a random permutation).
      image_shape: (H, W, C) of the model, C being 1 (grey) or 3 (RGB).
      data_dir: the TFDS folder, for "cifar10".
      in_order: take files, and the images of an array, as they lie, folders by name.

    Raises:
      DataError: there is no such thing, it holds no images, or an array has the wrong
        shape, type or range. An image file is read, and refused, when it is drawn.
      InputError: image_shape is not (H, W, 1) or (H, W, 3).

    >>> open_probes("shapes", 0, (32, 32, 3)).draw(0, 2).shape
    (2, 32, 32, 3)
    """
    check_image_shape(image_shape)
    height, width, channels = image_shape
    image_shape = (height, width, channels)
    key = jax.random.fold_in(_as_key(key_or_seed), _STREAM)
    order = None if in_order else key
    word = spec if isinstance(spec, str) else None
    if word == "dead_leaves":
        return _drawn("dead_leaves", image_shape, lambda n, i: dead_leaves(key, n, image_shape, i))
    if word == "shapes":
        return _drawn("shapes", image_shape, lambda n, i: shapes(key, n, image_shape, i)[0])
    if word == "cifar10":
        # Imported here, for it is slow to import and seldom wanted.
        from restore_jax.data import cifar10

        images, _ = cifar10.load("test", None if data_dir is None else os.fspath(data_dir))
        read = functools.partial(_fit_array, images, image_shape=image_shape)
        return _finite("The CIFAR-10 test split", image_shape, len(images), read, order)

    if isinstance(spec, np.ndarray | jax.Array):
        array = _checked_array("the array", np.asarray(spec), image_shape)
        return _finite("the array", image_shape, len(array), functools.partial(_take, array), order)
    path = Path(spec).expanduser()
    if path.is_dir():
        files = _image_files(path)
        read = functools.partial(_read_image, files, image_shape=image_shape)
        return _finite(f"The folder {path}", image_shape, len(files), read, order)
    if path.suffix.lower() in (".npz", ".npy") and path.is_file():
        array = _read_array(path, image_shape)
        return _finite(f"{path}", image_shape, len(array), functools.partial(_take, array), order)
    if path.exists():
        raise DataError(f"Probes must be a folder of images, an .npz or an .npy file, not {path}.")
    raise DataError(
        f"Probes {os.fspath(spec)!r} are neither dead_leaves, shapes or cifar10 "
        "nor an existing folder or file."
    )


def _as_key(key_or_seed: Array | int) -> Array:
    if not isinstance(key_or_seed, jax.Array):
        return jax.random.key(operator.index(key_or_seed))
    # A key may also have the older form, plain uint32[2].
    if jnp.issubdtype(key_or_seed.dtype, jax.dtypes.prng_key) or key_or_seed.ndim == 1:
        return key_or_seed
    return jax.random.key(operator.index(key_or_seed))


def _drawn(name: str, image_shape: ImageShape, draw: Callable[[int, int], Array]) -> ProbeSource:
    """An endless source, drawn in blocks: one compiled program serves every request."""

    @functools.lru_cache(maxsize=2)
    def block(number: int) -> np.ndarray:
        return np.asarray(draw(_BLOCK, _BLOCK * number))

    def read(start: int, count: int) -> np.ndarray:
        first, last = start // _BLOCK, (start + count - 1) // _BLOCK
        images = np.concatenate([block(number) for number in range(first, last + 1)])
        return images[start - first * _BLOCK :][:count]

    return ProbeSource(name, image_shape, None, read)


def _finite(
    name: str,
    image_shape: ImageShape,
    available: int,
    read_one: Callable[[int], np.ndarray],
    key: Array | None,
) -> ProbeSource:
    """A finite source in an order drawn with the key, if any; images are read when drawn."""
    order = np.arange(available)
    if key is not None:
        seed = np.asarray(jax.random.key_data(key)).ravel()
        order = np.random.default_rng(seed.tolist()).permutation(available)

    def read(start: int, count: int) -> np.ndarray:
        return np.stack([read_one(int(index)) for index in order[start : start + count]])

    return ProbeSource(name, image_shape, available, read)


def _take(array: np.ndarray, index: int) -> np.ndarray:
    image = array[index]
    if image.dtype == np.uint8:
        return image.astype(np.float32) / 255.0
    return image.astype(np.float32)


def _fit_array(images: np.ndarray, index: int, *, image_shape: ImageShape) -> np.ndarray:
    return _fit(Image.fromarray(images[index]), image_shape)


def _image_files(folder: Path) -> list[Path]:
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not found:
        raise DataError(f"The folder {folder} holds no image ({', '.join(SUFFIXES)}).")
    return found


def _read_image(files: list[Path], index: int, *, image_shape: ImageShape) -> np.ndarray:
    path = files[index]
    try:
        with Image.open(path) as image:
            return _fit(ImageOps.exif_transpose(image), image_shape)
    except Exception as error:  # decoders of damaged images raise many kinds
        raise DataError(f"The image {path} cannot be read ({_first_line(error)}).") from error


def _fit(image: Image.Image, image_shape: ImageShape) -> np.ndarray:
    """Brings an image to f32[H, W, C] in [0, 1]: channels, proportions, size."""
    height, width, channels = image_shape
    if image.mode.startswith("I"):
        # Sixteen bits: Pillow's own conversion would clip them at 255, not scale them.
        values = np.asarray(image).astype(np.int64) >> 8
        image = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32).reshape(image_shape) / 255.0


def _read_array(path: Path, image_shape: ImageShape) -> np.ndarray:
    """Reads and checks [N, H, W, C]; uint8 in 0..255 or floating in [0, 1]."""
    try:
        if is_zip(path):
            arrays = read_npz(path, MOST_BYTES)
            names = list(arrays)
            if "images" not in names and len(names) != 1:
                raise DataError(
                    f'{path} must hold an array "images" or just one array, '
                    f"not {', '.join(names) or 'none'}."
                )
            array = arrays["images" if "images" in names else names[0]]
        else:
            array = read_npy(path, MOST_BYTES)
    except DataError:
        raise
    except (OSError, Unreadable, MemoryError) as error:
        raise DataError(f"{path} cannot be read ({_first_line(error)}).") from error
    return _checked_array(str(path), array, image_shape)


def _checked_array(path: str, array: np.ndarray, image_shape: ImageShape) -> np.ndarray:
    """[N, H, W, C] as it is; uint8 in 0..255 or floating in [0, 1]."""
    expected = f"[N, {', '.join(map(str, image_shape))}]"
    if array.ndim == 3 and image_shape[2] == 1:
        array = array[..., None]
    if array.ndim != 4 or array.shape[1:] != image_shape:
        raise DataError(f"The images in {path} must be {expected}, not {list(array.shape)}.")
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"The images in {path} must be uint8 or floating, not {array.dtype}.")
    if len(array) == 0:
        raise DataError(f"{path} holds no images.")
    low, high = array.min(), array.max()
    if array.dtype == np.uint8:
        if high == 1:
            raise DataError(
                f"The images in {path} are uint8, which runs to 255, but hold no value above 1: "
                "store them as floating numbers or times 255."
            )
    elif np.isnan(low):
        raise DataError(f"The images in {path} hold NaN; floating images must lie in [0, 1].")
    elif low < 0 or high > 1:
        raise DataError(
            f"The images in {path} hold values from {low:g} to {high:g}; "
            "floating images must lie in [0, 1]."
        )
    return array


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
