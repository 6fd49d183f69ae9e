"""What a model may look like: for each line of the table in docs/models.md a model that is so,
opened with the flags that the line names, and asked about the same images."""

import argparse
import contextlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from restore_jax.cli import inputs, models
from restore_jax.errors import RestoreError
from restore_jax.run import Run

TABLE = Path(__file__).parents[1] / "docs" / "models.md"
SHAPE = (10, 12, 3)
WEIGHTS = np.float32([[9, -6, -3], [-3, 9, -6], [-6, -3, 9], [2, 2, -4]]).T
LEANS = np.float32([0.1, 0.0, 0.3, 0.2])
MEAN, STD = (0.25, 0.5, 0.75), (0.5, 0.25, 0.125)


def logits(images):
    """f32[b, 4], by how red, green and blue images f32[b, H, W, 3] in [0, 1] are."""
    return images.mean((1, 2)) @ WEIGHTS + LEANS


def pictures():
    """f32[64, H, W, 3] of 8 bits, each of a colour of its own, in every class."""
    draw = np.random.default_rng(3)
    colours = draw.integers(0, 200, (64, 1, 1, 3)) + draw.integers(0, 56, (64, *SHAPE))
    return (colours / 255).astype(np.float32)


IMAGES = pictures()
WANTED = logits(IMAGES).argmax(-1)
CLEAR = np.diff(np.sort(logits(IMAGES))[:, -2:])[:, 0] > 0.2
"""The images of which half precision does not change the class."""


class Graph:
    """An ONNX file, operator by operator, that begins with ``x``."""

    def __init__(self, kind="FLOAT", dims=("b", 3, *SHAPE[:2])):
        self.onnx = pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
        kinds = self.onnx.TensorProto
        self.taken = self.onnx.helper.make_tensor_value_info("x", getattr(kinds, kind), dims)
        self.nodes, self.values, self.last, self.given = [], [], "x", []

    def __call__(self, operator, *values, keep=True, **how):
        """Puts an operator behind the last one."""
        names = []
        for value in values:
            names.append(f"v{len(self.values)}")
            array = self.onnx.numpy_helper.from_array(np.asarray(value), names[-1])
            self.values.append(array)
        name = f"n{len(self.nodes)}"
        node = self.onnx.helper.make_node(operator, [self.last, *names], [name], **how)
        self.nodes.append(node)
        if keep:
            self.last = name
        return name

    def classes(self, axes=(2, 3), dtype=np.float32, weights=WEIGHTS, leans=LEANS):
        """The logits of images from 0 to 1."""
        self("ReduceMean", axes=list(axes), keepdims=0)
        self("MatMul", weights.astype(dtype))
        self("Add", leans.astype(dtype))
        return self

    def save(self, path, *outputs):
        """Writes it; outputs are (name, kind, dims), the last operator's if none is named."""
        helper, kinds = self.onnx.helper, self.onnx.TensorProto
        given = []
        for name, kind, dims in outputs or ((self.last, "FLOAT", ("b", 4)),):
            given.append(helper.make_tensor_value_info(name, getattr(kinds, kind), dims))
        graph = helper.make_graph(self.nodes, "g", [self.taken], given, self.values)
        opset = [helper.make_opsetid("", 13)]
        self.onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
        return f"onnx:{path}"


def half(folder):
    return Graph("FLOAT16").classes(dtype=np.float16).save(
        folder / "m.onnx", ("n2", "FLOAT16", ("b", 4))
    )  # fmt: skip


def in_bytes(folder):
    graph = Graph("UINT8")
    graph("Cast", to=graph.onnx.TensorProto.FLOAT)
    graph("Div", np.float32(255))
    return graph.classes().save(folder / "m.onnx")


def to_255(folder):
    graph = Graph()
    graph("Div", np.float32(255))
    return graph.classes().save(folder / "m.onnx")


def from_minus_1(folder):
    graph = Graph()
    graph("Add", np.float32(1))
    graph("Div", np.float32(2))
    return graph.classes().save(folder / "m.onnx")


def normalised(folder):
    graph = Graph()
    graph("Mul", np.float32(STD).reshape(3, 1, 1))
    graph("Add", np.float32(MEAN).reshape(3, 1, 1))
    return graph.classes().save(folder / "m.onnx")


def channels_last(folder):
    return Graph(dims=("b", *SHAPE)).classes((1, 2)).save(folder / "m.onnx")


def open_sizes(folder):
    return Graph(dims=("b", "h", "w", "c")).classes((1, 2)).save(folder / "m.onnx")


def four_at_once(folder):
    return Graph(dims=(4, 3, *SHAPE[:2])).classes().save(
        folder / "m.onnx", ("n2", "FLOAT", (4, 4))
    )  # fmt: skip


def ends_in_softmax(folder):
    graph = Graph().classes()
    graph("Softmax", axis=1)
    return graph.save(folder / "m.onnx")


def one_number(folder, sigmoid):
    weights, leans = np.float32([[7], [-4], [-3]]), np.float32([0.1])
    graph = Graph().classes(weights=weights, leans=leans)
    if sigmoid:
        graph("Sigmoid")
    return graph.save(folder / "m.onnx", (graph.last, "FLOAT", ("b", 1)))


def numbers(folder):
    graph = Graph().classes()
    graph("ArgMax", axis=1, keepdims=0)
    return graph.save(folder / "m.onnx", (graph.last, "INT64", ("b",)))


def several(folder):
    graph = Graph().classes()
    other = graph("Neg", keep=False)
    return graph.save(
        folder / "m.onnx", (other, "FLOAT", ("b", 4)), (graph.last, "FLOAT", ("b", 4))
    )


def background(folder):
    weights = np.concatenate([np.zeros((3, 1), np.float32), WEIGHTS], 1)
    leans = np.concatenate([np.float32([-9]), LEANS])
    graph = Graph().classes(weights=weights, leans=leans)
    return graph.save(folder / "m.onnx", (graph.last, "FLOAT", ("b", 5)))


def plain(folder):
    return Graph().classes().save(folder / "m.onnx")


def function(folder, body):
    """A module with a function ``predict``."""
    (folder / "table_model.py").write_text(
        "import numpy as np\nfrom test_models_table import SHAPE, logits\n\n\n"
        f"def predict(images):\n{body}\n\n\npredict.image_shape = SHAPE\n"
    )
    return "python:table_model:predict"


def bgr(folder):
    return function(
        folder,
        "    def theirs(x):\n        return logits(x[..., ::-1])\n\n"
        "    return theirs(images[..., ::-1])",
    )


def one_at_once(folder):
    return function(folder, "    assert len(images) == 1\n    return logits(images)")


def noise(folder):
    return function(
        folder,
        "    return logits(images) + predict.draw.normal(0, 0.3, (len(images), 4))\n\n\n"
        "predict.draw = np.random.default_rng(5)",
    )


def flags(spec, words):
    """What the commands make of their words."""
    parser = argparse.ArgumentParser()
    inputs.add_arguments(parser, "", limited=False)
    return parser.parse_args(["--model", spec, *words.split()])


def answers(spec, words):
    """The classes of the images, after the first look."""
    oracle = models.open_oracle(flags(spec, words))
    run = Run(oracle, budget=10_000, probes=IMAGES).examine()
    return run, run.labels(IMAGES)


OTHER = "other"
SAME, SAID = "same", "said"
"""What becomes of a model of which nothing is said: it gets the same classes, or a sentence or a
note says that something is wrong; elsewhere its classes are others."""
ROWS = [
    ("half precision", half, "", SAME, None),
    ("bytes (uint8)", in_bytes, "", SAME, None),
    ("floats from 0 to 255", to_255, "--range 0,255", SAID, None),
    ("-1 to 1", from_minus_1, "--range=-1,1", OTHER, None),
    ("a mean and a standard", normalised, "--mean 0.25,0.5,0.75 --std 0.5,0.25,0.125", SAID, None),
    ("a mean and a standard", lambda at: to_255(at),
     "--range 0,255 --mean 0,0,0 --std 1,1,1", SAID, None),
    ("[b, C, H, W]", plain, "", SAME, None),
    ("[b, C, H, W]", channels_last, "", SAME, None),
    ("[b, C, H, W]", open_sizes, "--layout nhwc --image-shape 10x12x3", SAID, None),
    ("BGR", bgr, "", SAME, None),
    ("fixed number of images", four_at_once, "", SAME, None),
    ("fixed number of images", one_at_once, "--batch 1", SAID, None),
    ("in a softmax", ends_in_softmax, "--access probabilities", SAME, None),
    ("one sigmoid", lambda at: one_number(at, True), "--binary", SAID, 2),
    ("one number, a logit", lambda at: one_number(at, False), "--binary", SAID, 2),
    ("number of a class", numbers, "--access labels --classes 4", SAID, None),
    ("several outputs", several, "--output n2", OTHER, None),
    ("several outputs", several, "--output 1", OTHER, None),
    ("a background class", background, "", SAME, 5),
    ("classes with names", plain, "--classes $x_,[red],<b>,=1+1", SAME, None),
    ("answers differently", noise, "--noisy", SAID, None),
]  # fmt: skip


def wanted(classes):
    """The classes that images have to a model of so many."""
    if classes == 2:
        return (IMAGES.mean((1, 2)) @ np.float32([7, -4, -3]) + 0.1 > 0).astype(int)
    return WANTED + (1 if classes == 5 else 0)


@pytest.mark.parametrize(
    ("line", "make", "words", "without", "classes"),
    ROWS,
    ids=[f"{row[0]}-{k}" for k, row in enumerate(ROWS)],
)
def test_a_model_is_asked_rightly_with_what_the_table_says(
    line, make, words, without, classes, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "table_model", raising=False)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    spec = make(tmp_path)
    run, found = answers(spec, words)
    assert run.model.num_classes == (classes or 4)
    assert len(np.unique(found)) >= (2 if classes == 2 else 3)
    right = found == wanted(classes)
    assert right[CLEAR].all() if line != "answers differently" else right.mean() > 0.8
    if "--classes $" in words:
        assert run.model.class_names == ("$x_", "[red]", "<b>", "=1+1")
    if not words:
        return
    # The test would notice if the flag were not needed, or did nothing.
    with contextlib.suppress(RestoreError):
        run, bare = answers(spec, "")
        same = (bare == wanted(classes))[CLEAR].all()
        assert run.notes or without != SAID
        assert without in (SAID, SAME if same else OTHER)
        return
    assert without == SAID


@pytest.mark.slow
def test_half_precision_of_pytorch_is_two_kinds(tmp_path):
    torch = pytest.importorskip("torch")
    import warnings

    class Module(torch.nn.Module):
        def __init__(self, dtype):
            super().__init__()
            self.weights = torch.nn.Parameter(torch.tensor(WEIGHTS).to(dtype))
            self.leans = torch.nn.Parameter(torch.tensor(LEANS).to(dtype))

        def forward(self, x):
            return x.mean((2, 3)) @ self.weights + self.leans

    for dtype in (torch.float16, torch.bfloat16):
        shown = torch.zeros(2, 3, *SHAPE[:2], dtype=dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.trace(Module(dtype).eval(), shown).save(str(tmp_path / "m.ts"))
        dim = torch.export.Dim("b", min=1, max=4096)
        exported = torch.export.export(Module(dtype).eval(), (shown,), dynamic_shapes=({0: dim},))
        torch.export.save(exported, tmp_path / "m.pt2")
        for name, words in (("m.ts", "--image-shape 10x12x3"), ("m.pt2", "")):
            _, found = answers(f"torch:{tmp_path / name}", words)
            assert (found == WANTED)[CLEAR].mean() > 0.95


def test_every_line_of_the_table_is_tried():
    text = TABLE.read_text()
    part = text[text.index("### What a model may look like") : text.index("### The first look")]
    lines = re.findall(r"^\| (?!the model|---)(.+?) \|", part, re.MULTILINE)
    assert len(lines) >= 15
    tried = {row[0] for row in ROWS}
    for line in lines:
        assert [name for name in tried if name in line], line
    for name in tried:
        assert [line for line in lines if name in line], name
