"""What a user says of a model that does not say it itself."""

import dataclasses
from typing import Any, NamedTuple


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """How a foreign model is to be asked. What is None is read from the model.

    Attributes:
      image_shape: (H, W, C) of what the model takes.
      classes: their number, or their names.
      value_range: what 0 and 1 of an image become, before ``mean`` and ``std``.
      mean, std: one number, or one per channel: the model is shown (x - mean) / std. None: 0
        and 1, or what the model says of itself; where ``value_range`` is given, 0 and 1.
      resize: (H, W) of probes and triggers, if they are not to be of the model's own size:
        images are then resized, bilinearly, to what the model takes.
      layout: "nchw" or "nhwc", of models that take arrays.
      binary: whether the model gives one number an image, that of the second of two classes.
      output: the name, or the number, of the output to read where the model has several.
      noisy: go on with a model whose answers depend on chance or on the batch: every image is
        asked about several times, all counted, and the answers are averaged.
      batch: the most images in one call or request.
      trust: whether what a model file brings along may be run.
      concurrency: requests under way at once, >= 1.
      rate: the most requests per second.
      timeout: seconds for one request, from the first byte sent to the last received.
      retries: how often a request that failed is sent again, >= 0.
      send: "json" (numbers, exact) or "png" (base64, 8 bits).
      answer: where in the JSON of a response the outputs are, as keys and indices with dots
        between: "predictions", "result.0.scores"; "" is the whole of it.
    """

    image_shape: tuple[int, int, int] | None = None
    classes: int | tuple[str, ...] | None = None
    value_range: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: tuple[int, int] | None = None
    layout: str | None = None
    binary: bool = False
    output: str | None = None
    noisy: bool = False
    batch: int | None = None
    trust: bool = False
    concurrency: int = 4
    rate: float | None = None
    timeout: float = 30.0
    retries: int = 5
    send: str = "json"
    answer: str = "outputs"

    def to_json(self) -> dict[str, Any]:
        """A dict that JSON can hold: what was said, and nothing of what was not."""
        given = dataclasses.asdict(self)
        return {
            field.name: given[field.name]
            for field in dataclasses.fields(self)
            if given[field.name] != field.default
        }


class Description(NamedTuple):
    """What a foreign model says of itself; None where it does not.

    Attributes:
      image_shape: (H, W, C) of what it takes.
      num_classes: K.
      class_names: K names.
      value_range: of the numbers that it takes, (0, 255) if they are bytes.
      batch: the only number of images it takes at once.
      mean, std: of the numbers that it takes, one number or one per channel.
    """

    image_shape: tuple[int, int, int] | None = None
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    value_range: tuple[float, float] | None = None
    batch: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
