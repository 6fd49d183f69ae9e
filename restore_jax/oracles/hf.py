"""``hf:FOLDER``: a classifier in the Hugging Face layout, built by ``transformers``.

The folder holds ``config.json``, weights in safetensors and ``preprocessor_config.json``. Nothing
in it is unpickled, no code of its own is run, and nothing is fetched from elsewhere.
"""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from restore_jax.oracles import torch as pytorch
from restore_jax.oracles.arrays import ArrayInput
from restore_jax.oracles.errors import cause
from restore_jax.oracles.foreign import foreign
from restore_jax.oracles.options import Description, ModelOptions
from restore_jax.oracles.types import ModelError
from restore_jax.reading import Unreadable, read_json
from restore_jax.types import JSON

CONFIG, PREPROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
"""Says which file holds which weights where there are several."""
MOST_SIDE, MOST_CHANNELS, MOST_CLASSES = 4096, 64, 100_000
"""Of what a folder may ask for."""
_CLASSIFIERS = ("ForImageClassification", "ForImageClassificationWithTeacher")
_ATTENTION = (None, "eager", "sdpa")
"""Ways to compute attention that PyTorch has itself; others may be fetched from elsewhere."""
_TOLERANCE = 1e-4


@dataclasses.dataclass
class HfModel:
    """An open model.

    Attributes:
      network: how PyTorch asks it.
      says: what the folder says of it.
      reverses: whether it takes BGR.
    """

    network: pytorch.TorchModel
    says: Description
    reverses: bool


def load(place: str, options: ModelOptions) -> HfModel:
    """Opens the folder, on a GPU if PyTorch sees one.

    Raises:
      ModelError: transformers or PyTorch is missing, a file is missing or damaged, the folder
        holds another kind of model, or it needs code of its own.
    """
    try:
        import safetensors
        import torch
        import transformers
    except ImportError as error:
        raise ModelError("hf: models need Transformers: pip install 'restore-jax[hf]'.") from error
    del safetensors
    folder = Path(place)
    said = _checked(folder)
    with _quietly_offline(transformers):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = _model(folder, said, device)
        processor = _processor(folder)
        channels = _channels(folder, model.config)
        scale, shift, reverses = _pointwise(folder, processor, channels)
        shape = options.image_shape or _image_shape(folder, processor, channels)
    names = _class_names(folder, model.config)

    def run(pixels: Any) -> dict[str, Any]:
        return dict(model(pixel_values=pixels, return_dict=True))

    pixels = ArrayInput((None,) * 4, "nchw", np.dtype(np.float32))
    network = pytorch.TorchModel(
        run, pixels, len(names), torch.float32, device, True, place, options.output or "logits"
    )
    says = Description(
        image_shape=shape,
        num_classes=len(names),
        class_names=None if options.classes is not None else names,
        mean=tuple(float(each) for each in -shift / scale),
        std=tuple(float(each) for each in 1 / scale),
    )
    return HfModel(network, says, reverses)


def describe(model: HfModel, options: ModelOptions) -> Description:
    """Image size, classes, mean and standard deviation, all from the folder's files."""
    del options
    return model.says


def ask(model: HfModel, images: np.ndarray, sending: Callable[[int], None]) -> np.ndarray:
    """The logits, or the output that was named, for images f32[b, H, W, C]."""
    shown = images[..., ::-1] if model.reverses else images
    return pytorch.ask(model.network, shown, sending)


def most(model: HfModel, options: ModelOptions) -> int | None:
    """The most images that it is best given at once; None: any number."""
    return pytorch.most(model.network, options)


def outputs(model: HfModel) -> tuple[str, ...]:
    """What it is read from, in words."""
    return (f"{model.network.output} (?, {model.network.num_classes})",)


def _checked(folder: Path) -> dict[str, JSON]:
    """What ``config.json`` says, of a folder that `transformers` may read.

    Raises:
      ModelError: it may not.
    """
    if not folder.is_dir():
        raise ModelError(
            f"there is no folder {folder}: hf: takes one that holds {CONFIG}, {WEIGHTS} and "
            f"{PREPROCESSOR}."
        )
    said, preprocessor = _json(folder, CONFIG), _json(folder, PREPROCESSOR)
    shards = _shards(folder)
    if not shards:
        pickled = next((path.name for path in sorted(folder.glob("pytorch_model*.bin"))), None)
        if pickled is not None:
            raise ModelError(
                f"{folder} has its weights in {pickled}, a pickle, which may run anything when it "
                f"is read: save the model with save_pretrained, which writes {WEIGHTS}."
            )
        raise ModelError(f"there is no {WEIGHTS} in {folder}.")
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        raise ModelError(f"there is no {missing[0]} in {folder}, which {INDEX} names.")
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{folder} holds an adapter to another model: merge the two and save the result with "
            "save_pretrained."
        )
    kinds = said.get("architectures")
    kinds = [str(kind) for kind in kinds] if isinstance(kinds, list) else []
    if kinds and not any(kind.endswith(_CLASSIFIERS) for kind in kinds):
        raise ModelError(
            f"{folder} holds {', '.join(kinds)}, which is no image classifier: give a model "
            f"saved as one of ...{_CLASSIFIERS[0]}."
        )
    if not isinstance(said.get("model_type"), str):
        raise ModelError(f"{folder / CONFIG} says no model_type: save it with save_pretrained.")
    for content in (said, preprocessor):
        for name, value in _entries(content):
            if name.endswith("attn_implementation") and value not in _ATTENTION:
                raise ModelError(
                    f"{folder / CONFIG} names {value!r} to compute attention with, which may be "
                    f"code from elsewhere: take {name} out of it."
                )
    return said


def _json(folder: Path, name: str) -> dict[str, JSON]:
    """An object of JSON in the folder."""
    path = folder / name
    if not path.is_file():
        raise ModelError(f"there is no {name} in {folder}.")
    try:
        found = read_json(path)
    except (Unreadable, OSError) as error:
        raise ModelError(f"{path} cannot be read: {cause(error)}.") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} must hold an object of JSON.")
    return found


def _entries(value: JSON) -> Iterator[tuple[str, JSON]]:
    """Every key and its value, however deep."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _entries(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _entries(inner)


def _shards(folder: Path) -> list[str]:
    """The files of weights, in the folder itself."""
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if not (folder / INDEX).is_file():
        return []
    listed = _json(folder, INDEX).get("weight_map")
    names = sorted({str(name) for name in listed.values()}) if isinstance(listed, dict) else []
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(
                f"{folder / INDEX} names {name!r}, which is no file of safetensors in that folder: "
                "save the model again with save_pretrained."
            )
    return names


@contextlib.contextmanager
def _quietly_offline(transformers: Any) -> Iterator[None]:
    """A context in which Transformers asks no server, draws no bars and warns of nothing."""
    from huggingface_hub import constants

    logging = transformers.utils.logging
    offline, bars = constants.HF_HUB_OFFLINE, logging.is_progress_bar_enabled()
    verbosity = logging.get_verbosity()
    constants.HF_HUB_OFFLINE = True
    logging.disable_progress_bar()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _model(folder: Path, said: dict[str, JSON], device: str) -> Any:
    """The network, with every weight from the folder."""
    import torch
    import transformers

    safely = {"local_files_only": True, "trust_remote_code": False}

    def not_opened(error: BaseException) -> ModelError:
        return ModelError(f"Transformers does not open {folder}: {cause(error)}.")

    if said["model_type"] not in transformers.CONFIG_MAPPING:
        if "auto_map" in said:
            raise ModelError(
                f"{folder} needs code of its own ({CONFIG} says auto_map), which is not run: wrap "
                "the model as python:MODULE:FUNCTION."
            )
        raise ModelError(
            f"{folder} holds a model of type {said['model_type']}, which Transformers "
            f"{transformers.__version__} does not know: install a later one."
        )
    with foreign(not_opened):
        config = transformers.AutoConfig.from_pretrained(folder, **safely)
    if type(config) not in transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise ModelError(
            f"{folder} holds a model of type {said['model_type']}, of which Transformers makes no "
            "image classifier: give another, or wrap it as python:MODULE:FUNCTION."
        )
    with foreign(not_opened):
        model, told = transformers.AutoModelForImageClassification.from_pretrained(
            folder, config=config, use_safetensors=True, dtype=torch.float32,
            output_loading_info=True, **safely,
        )  # fmt: skip
    missing = sorted(str(name) for name in told.get("missing_keys", ()))
    if missing:
        # Transformers would draw them at random, and go on.
        raise ModelError(
            f"{folder} lacks {len(missing)} of the weights of a {type(model).__name__}, as "
            f"{missing[0]}: give one that was trained as an image classifier."
        )
    return model.eval().to(device)


def _processor(folder: Path) -> Any:
    """What prepares images."""
    import transformers

    with foreign(
        lambda error: ModelError(
            f"Transformers does not understand {folder / PREPROCESSOR}: {cause(error)}."
        )
    ):
        return transformers.AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, backend="pil"
        )


def _channels(folder: Path, config: Any) -> int:
    channels = getattr(config, "num_channels", 3)
    if not isinstance(channels, int) or not 0 < channels <= MOST_CHANNELS:
        raise ModelError(
            f"{folder / CONFIG} must say from 1 to {MOST_CHANNELS} num_channels, not {channels}."
        )
    return channels


def _pointwise(folder: Path, processor: Any, channels: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """What is done to each number of an image: ``scale x + shift``, x from 0 to 1.

    It is measured, not read: processors differ in how they name it.

    Returns:
      scale and shift, f64[C], and whether channels come out in reverse.

    Raises:
      ModelError: something else is done.
    """
    drawn = np.random.default_rng(0).integers(0, 256, (8, 8, channels), np.uint8)
    shown = np.stack([np.zeros_like(drawn), np.full_like(drawn, 255), drawn])
    found = _processed(folder, processor, shown, do_resize=False, do_center_crop=False)
    if found.shape == (3, channels, 8, 8) and np.isfinite(found).all():
        found = found.transpose(0, 2, 3, 1).astype(np.float64)
        for reverses in (False, True):
            low, high, some = found[..., ::-1] if reverses else found
            shift, scale = low[0, 0], high[0, 0] - low[0, 0]
            error = np.abs(scale * (drawn / 255) + shift - some).max()
            if scale.all() and error <= _TOLERANCE * np.abs(scale).max():
                return scale, shift, reverses
    raise ModelError(
        f"{folder / PREPROCESSOR} does more to pixels than to scale and shift them: wrap the model "
        "as python:MODULE:FUNCTION."
    )


def _processed(folder: Path, processor: Any, images: np.ndarray, **how: Any) -> np.ndarray:
    """What the processor makes of images uint8[b, H, W, C]: f32[b, C, H, W]."""
    with foreign(
        lambda error: ModelError(
            f"Transformers does not prepare images as {folder / PREPROCESSOR} says: {cause(error)}."
        )
    ):
        found = processor(
            images=list(images), input_data_format="channels_last", return_tensors="np", **how
        )
        return np.asarray(found["pixel_values"])


def _image_shape(folder: Path, processor: Any, channels: int) -> tuple[int, int, int] | None:
    """(H, W, C) of what comes out of the processor, and goes into the network."""
    size = None
    if getattr(processor, "do_resize", False):
        size = _sides(getattr(processor, "size", None))
    if getattr(processor, "do_center_crop", False):
        size = _sides(getattr(processor, "crop_size", None)) or size
    if size is None:
        return None
    if not all(0 < side <= MOST_SIDE for side in size):
        raise ModelError(
            f"{folder / PREPROCESSOR} asks for images of {size[0]}x{size[1]}: sides may be 1 to "
            f"{MOST_SIDE}."
        )
    return (*size, channels)


def _sides(size: Any) -> tuple[int, int] | None:
    """(H, W) of what a processor calls a size; of one side, a square."""
    if isinstance(size, int):
        return size, size
    try:
        given = dict(size)
    except (TypeError, ValueError):
        return None
    if given.get("height") and given.get("width"):
        return int(given["height"]), int(given["width"])
    side = given.get("shortest_edge")
    return (int(side), int(side)) if side else None


def _class_names(folder: Path, config: Any) -> tuple[str, ...]:
    """The names of the classes, in order; those of one name get their numbers behind them."""
    found = config.id2label
    if not 0 < len(found) <= MOST_CLASSES or sorted(found) != list(range(len(found))):
        raise ModelError(
            f"{folder / CONFIG} must name classes 0 to K - 1 in id2label, K at most {MOST_CLASSES}."
        )
    names = [" ".join(str(found[k]).split()) for k in range(len(found))]
    times = Counter(names)
    return tuple(f"{name} ({k})" if times[name] > 1 else name for k, name in enumerate(names))
