"""Models of other frameworks answer as ours do, and what could run code is refused, not run."""

import functools
import importlib.util
import io
import json
import os
import pickle
import re
import struct
import sys
import zipfile
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from examples_by_hand import example

from restore_jax import checkpoints
from restore_jax.models import make_network
from restore_jax.oracles import ModelError, open_model
from restore_jax.oracles.options import Description, ModelOptions
from restore_jax.recovery import Settings, recover

PACKAGES = {
    "onnx": ("onnx", "onnxruntime"),
    "torch": ("torch",),
    "keras": ("keras", "h5py"),
}
RNG = np.random.default_rng(0)


def oracle(scheme):
    return importlib.import_module(f"restore_jax.oracles.{scheme}")


def needs(scheme):
    os.environ.setdefault("KERAS_BACKEND", "jax")
    first, *_ = (pytest.importorskip(package) for package in PACKAGES[scheme])
    return first


def opened(scheme, path, **options):
    """The description, and a function of NumPy images."""
    module, options = oracle(scheme), ModelOptions(**options)
    model = module.load(str(path), options)
    return module.describe(model, options), lambda images: module.ask(model, images, None)


def refusal(scheme, path, **options):
    """The one sentence with which a file is refused."""
    with pytest.raises(ModelError) as caught:
        opened(scheme, path, **options)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert not re.search(r"\.\s", message)
    return message


@pytest.fixture(scope="module")
def convert():
    return example("convert")


@pytest.fixture(scope="module")
def shipped(convert):
    checkpoint = checkpoints.load(checkpoints.PACKAGED["shipped"])
    images = RNG.random((64, 32, 32, 3), np.float32)
    folded = checkpoint.network.fold(checkpoint.params, checkpoint.batch_stats)
    logits = jax.jit(checkpoint.network.apply_folded)(folded, images)
    return convert.layers_of(checkpoint), images, np.asarray(logits)


@pytest.fixture(scope="module")
def written(convert, shipped, tmp_path_factory):
    """Writes the packaged network in a format, once."""
    folder = tmp_path_factory.mktemp("converted")

    @functools.cache
    def write(ending):
        needs(convert.FORMATS[ending].scheme)
        path = folder / f"model.{ending}"
        convert.FORMATS[ending].write(shipped[0], (32, 32, 3), path)
        return path

    return write


@pytest.mark.parametrize("ending", ["onnx", "ts", "pt2", "keras", "h5"])
def test_every_format_gives_the_logits_of_the_network(ending, convert, shipped, written):
    path, (_, images, logits) = written(ending), shipped
    says, ask = opened(convert.FORMATS[ending].scheme, path)
    known = ending != "ts"
    assert says == Description((32, 32, 3) if known else None, 10 if known else None)
    np.testing.assert_allclose(ask(images), logits, atol=1e-4)
    np.testing.assert_allclose(ask(images[:3]), logits[:3], atol=1e-4)


def test_onnx_gets_few_large_images_at_once(written):
    module, options = oracle("onnx"), ModelOptions()
    model = module.load(str(written("onnx")), options)
    assert module.most(model, options) is None
    large = model._replace(images=model.images._replace(dims=(None, 224, 224, 3)))
    assert module.most(large, options) == 27
    assert module.most(large, ModelOptions(batch=4)) == 4
    fixed = model._replace(images=model.images._replace(dims=(64, 224, 224, 3)))
    assert module.most(fixed, options) is None


@pytest.fixture(scope="module")
def whole_numbers(convert):
    """A network of whole numbers, as layers and as a function of JAX arrays."""
    draw = np.random.default_rng(36)
    kernel = draw.integers(-2, 3, (3, 3, 3, 6)).astype(np.float32)
    head = draw.integers(-3, 4, (6, 4)).astype(np.float32)
    bias = np.float32([0, 3, 1, -2])
    pads, zeros = ((1, 1), (1, 1)), np.zeros(6, np.float32)
    layers = [
        convert.Layer("conv", (-1,), (kernel, zeros), pads=pads),
        convert.Layer("relu", (0,)),
        convert.Layer("max", (1,)),
        convert.Layer("linear", (2,), (head, bias)),
    ]

    def network(images):
        layout = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(images, kernel, (1, 1), pads, dimension_numbers=layout)
        return jnp.maximum(x, 0).max((1, 2)) @ head + bias

    return layers, network


@pytest.fixture(scope="module")
def recovered(tmp_path_factory):
    """Recovers a model on probes whose arithmetic is exact."""
    probes = tmp_path_factory.mktemp("exact") / "probes.npy"
    images = np.random.default_rng(8).integers(0, 257, (400, 12, 12, 3)) / 256
    np.save(probes, images.astype(np.float32))
    settings = Settings(num_probes=8, num_particles=32, options={"max_size": 3, "levels": 3})
    return functools.partial(
        recover, target=2, seed=3, settings=settings, budget=6000, probes=str(probes)
    )


@pytest.fixture(scope="module")
def expected(whole_numbers, recovered):
    """What is recovered of the network as a function of JAX arrays."""
    return recovered(open_model(whole_numbers[1], image_shape=(12, 12, 3)))


@pytest.mark.parametrize("ending", ["onnx", "ts", "pt2", "keras", "h5"])
def test_a_score_in_exact_arithmetic_is_the_same_bits(
    ending, convert, whole_numbers, recovered, expected, tmp_path
):
    scheme = convert.FORMATS[ending].scheme
    needs(scheme)
    path, shape = tmp_path / f"model.{ending}", (12, 12, 3)
    convert.FORMATS[ending].write(whole_numbers[0], shape, path)
    options = ModelOptions(image_shape=shape, classes=4)
    found = recovered(open_model(f"{scheme}:{path}", options=options))
    assert len(expected.levels) > 1
    same = (found.particles, found.scores, found.trigger, found.levels)
    like = (expected.particles, expected.scores, expected.trigger, expected.levels)
    chex.assert_trees_all_equal(same, like)


@pytest.mark.parametrize(("scheme", "ending"), [("onnx", "onnx"), ("torch", "pt2")])
def test_a_model_has_the_name_that_opens_it(scheme, ending, written):
    spec = f"{scheme}:{written(ending)}"
    assert open_model(spec).name == spec


def test_pytorch_on_a_cpu_gets_few_images_at_a_time(shipped, written):
    torch, (_, images, logits) = needs("torch"), shipped
    if torch.cuda.is_available():
        pytest.skip("PyTorch sees a GPU")
    spec, many = f"torch:{written('pt2')}", np.concatenate([images, images[:9]])
    for options, calls in ((None, 2), (ModelOptions(batch=30), 3)):
        answers = open_model(spec, options=options).answers
        np.testing.assert_allclose(answers(many)[:64], logits, atol=1e-4)
        assert answers.statistics()["calls"] == calls


def any_checkpoint(architecture, folder):
    """A checkpoint with scales of both signs and statistics that matter, images, its logits."""
    said = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
    network = make_network(architecture, num_classes=7, image_shape=(16, 12, 3), **said)
    params, stats = network.init(jax.random.key(0))
    params, stats = jax.tree.map(
        lambda leaf: leaf + 0.2 * RNG.standard_normal(leaf.shape, np.float32), (params, stats)
    )
    stats = jax.tree.map(abs, stats)
    metadata = {
        "architecture": architecture,
        "class_names": list("abcdefg"),
        "image_shape": [16, 12, 3],
        "normalisation": said,
    }
    images = RNG.random((5, 16, 12, 3), np.float32)
    logits = jax.jit(network.apply_folded)(network.fold(params, stats), images)
    checkpoint = checkpoints.Checkpoint(network, params, stats, metadata, folder)
    return checkpoint, images, np.asarray(logits)


@pytest.mark.parametrize(
    "architecture",
    [
        "resnet8_small",
        "resnet8_mean",
        pytest.param("resnet20", marks=pytest.mark.slow),
        pytest.param("resnet18", marks=[pytest.mark.slow, pytest.mark.full]),
        "mobilenet",
        "vit_patch4",
    ],
)
def test_the_example_converts_every_architecture(architecture, convert, tmp_path):
    needs("onnx")
    checkpoint, images, logits = any_checkpoint(architecture, tmp_path)
    convert.write_onnx(convert.layers_of(checkpoint), (16, 12, 3), tmp_path / "model.onnx")
    says, ask = opened("onnx", tmp_path / "model.onnx")
    assert says == Description((16, 12, 3), 7)
    np.testing.assert_allclose(ask(images), logits, atol=1e-5 * abs(logits).max())


@pytest.mark.parametrize("architecture", ["mobilenet", "vit_patch4"])
@pytest.mark.parametrize(
    "ending",
    [
        *("ts", "pt2"),
        *(pytest.param(e, marks=[pytest.mark.slow, pytest.mark.full]) for e in ("keras", "h5")),
    ],
)
def test_depthwise_convolutions_and_attention_in_every_format(
    ending, architecture, convert, tmp_path
):
    scheme, path = convert.FORMATS[ending].scheme, tmp_path / f"model.{ending}"
    needs(scheme)
    checkpoint, images, logits = any_checkpoint(architecture, tmp_path)
    convert.FORMATS[ending].write(convert.layers_of(checkpoint), (16, 12, 3), path)
    _, ask = opened(scheme, path)
    np.testing.assert_allclose(ask(images), logits, atol=1e-5 * abs(logits).max())


@pytest.mark.parametrize("architecture", ["mobilenet", "vit_patch4"])
def test_a_checkpoint_of_any_architecture_is_opened(architecture, tmp_path):
    checkpoint, images, logits = any_checkpoint(architecture, tmp_path)
    checkpoints.export(checkpoint, tmp_path / "model")
    oracle = open_model(tmp_path / "model")
    assert (oracle.image_shape, oracle.num_classes) == ((16, 12, 3), 7)
    np.testing.assert_allclose(oracle.query(images), logits, atol=1e-5 * abs(logits).max())


def test_a_checkpoint_that_describes_no_network_is_refused_in_a_sentence(tmp_path):
    checkpoint, _, _ = any_checkpoint("vit_patch4", tmp_path)
    checkpoint.metadata["image_shape"] = [16, 14, 3]
    checkpoints.export(checkpoint, tmp_path / "model")
    with pytest.raises(checkpoints.CheckpointError, match=r"^[^\n]*multiples of 4, not 16x14\.$"):
        checkpoints.load(tmp_path / "model")


def test_a_keras_model_is_traced_with_its_weights_as_arguments(shipped, written):
    path, (_, images, logits) = written("keras"), shipped
    module, options = oracle("keras"), ModelOptions()
    weights, function = module.traced(module.load(str(path), options), options)
    traced = jax.jit(function)
    np.testing.assert_allclose(traced(weights, images), logits, atol=1e-4)
    other = jax.tree.map(lambda leaf: 0 * leaf, weights)
    np.testing.assert_array_equal(traced(other, images), 0 * logits)
    baked = jax.make_jaxpr(function)(weights, images[:2]).consts
    assert sum(constant.size for constant in baked) < 1000  # signs and normalisation


def test_a_keras_models_convolutions_of_each_channel_are_traced_as_sums(tmp_path):
    keras = needs("keras")
    layers = [
        keras.Input((12, 14, 3)),
        keras.layers.DepthwiseConv2D(3, strides=2, padding="same", activation="relu6"),
        keras.layers.SeparableConv2D(4, 5, padding="same", activation="silu"),
        keras.layers.GlobalAveragePooling2D(),
    ]
    model = keras.Sequential(layers)
    model.save(tmp_path / "model.keras")
    module, options = oracle("keras"), ModelOptions()
    opened = module.load(str(tmp_path / "model.keras"), options)
    weights, function = module.traced(opened, options)
    images = RNG.random((2, 12, 14, 3), np.float32)
    traced = str(jax.make_jaxpr(function)(weights, images))
    assert "feature_group_count=3" not in traced
    assert traced.count("= conv_general_dilated") == 1  # that which mixes channels
    found = np.asarray(jax.jit(function)(weights, images))
    # Keras itself gives its variables' memory away.
    usual = module.ask(opened, images, lambda number: None)
    np.testing.assert_allclose(found, usual, atol=1e-5)


def channel_means(path, shape, dtype="FLOAT", axes=(2, 3), extra=None, labels=False):
    """An ONNX file that answers with the mean of each channel, or which of them is largest."""
    from onnx import TensorProto, helper, save

    kind = getattr(TensorProto, dtype)
    nodes = [
        helper.make_node("Cast", ["x"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["cast"], ["means"], axes=list(axes), keepdims=0),
        helper.make_node("ArgMax", ["means"], ["best"], axis=1, keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info("x", kind, shape)]
    inputs += [helper.make_tensor_value_info(extra, kind, [1])] if extra else []
    channels = next(size for axis, size in enumerate(shape) if axis and axis not in axes)
    means = helper.make_tensor_value_info("means", TensorProto.FLOAT, [shape[0], channels])
    best = helper.make_tensor_value_info("best", TensorProto.INT64, [shape[0]])
    graph = helper.make_graph(
        nodes if labels else nodes[:2], "means", inputs, [best if labels else means]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    save(model, path)
    return path


IMAGES = RNG.random((4, 6, 5, 3), np.float32)
MEANS = IMAGES.mean((1, 2))
SHAPE = (6, 5, 3)


@pytest.mark.parametrize(
    ("shape", "axes", "options", "says"),
    [
        (["b", 3, 6, 5], (2, 3), {}, Description(SHAPE, 3)),
        (["b", 6, 5, 3], (1, 2), {}, Description(SHAPE, 3)),
        ([4, 3, 6, 5], (2, 3), {}, Description(SHAPE, 3, batch=4)),
        ([4, 6, 5, 3], (1, 2), {}, Description(SHAPE, 3, batch=4)),
        (["b", 3, "h", "w"], (2, 3), {}, Description(None, 3)),
        (["b", 3, "h", "w"], (2, 3), {"image_shape": SHAPE}, Description(SHAPE, 3)),
        (["b", "h", "w", 3], (1, 2), {"image_shape": SHAPE}, Description(SHAPE, 3)),
        ([None, None, None, None], (2, 3), {"layout": "nchw"}, Description()),
        (["b", "c", 6, "w"], (2, 3), {"image_shape": SHAPE}, Description(SHAPE)),
        (["b", 3, "h", "w"], (2, 3), {"layout": "nchw"}, Description(None, 3)),
    ],
)
def test_onnx_layouts_and_sizes(shape, axes, options, says, tmp_path):
    needs("onnx")
    path = channel_means(tmp_path / "means.onnx", shape, axes=axes)
    found, ask = opened("onnx", path, **options)
    assert found == says
    np.testing.assert_allclose(ask(IMAGES), MEANS, atol=1e-6)


@pytest.mark.parametrize("dtype", ["FLOAT16", "DOUBLE", "UINT8", "INT64"])
def test_onnx_dtypes(dtype, tmp_path):
    needs("onnx")
    path = channel_means(tmp_path / "means.onnx", ["b", 3, 6, 5], dtype)
    says, ask = opened("onnx", path)
    if "INT" in dtype:
        assert says.value_range == (0.0, 255.0)
        images = 300 * IMAGES - 20  # rounded to the nearest; a byte does not wrap around
        expected = np.rint(images).clip(*(0, 255) if dtype == "UINT8" else (-99, 999))
        np.testing.assert_allclose(ask(images), expected.mean((1, 2)), rtol=1e-6)
    else:
        assert says.value_range is None
        np.testing.assert_allclose(ask(IMAGES), MEANS, atol=1e-3)


def test_onnx_labels(tmp_path):
    needs("onnx")
    says, ask = opened("onnx", channel_means(tmp_path / "m.onnx", ["b", 3, 6, 5], labels=True))
    assert says == Description(SHAPE)
    answers = ask(IMAGES)
    assert np.issubdtype(answers.dtype, np.integer)
    np.testing.assert_array_equal(answers, MEANS.argmax(-1))


def test_onnx_inputs_that_are_no_images(tmp_path):
    needs("onnx")
    path = channel_means(tmp_path / "two.onnx", ["b", 3, 6, 5], extra="y")
    assert "y tensor(float)[1]" in refusal("onnx", path)
    path = channel_means(tmp_path / "flat.onnx", ["b", 3, 30], axes=(2,))
    assert "four dimensions" in refusal("onnx", path)
    path = channel_means(tmp_path / "small.onnx", ["b", 3, 6, 5], "INT8")
    assert "int8" in refusal("onnx", path)
    path = channel_means(tmp_path / "truths.onnx", ["b", 3, 6, 5], "BOOL")
    assert "tensor(bool)" in refusal("onnx", path)
    path = channel_means(tmp_path / "free.onnx", [None, None, None, None])
    assert "`layout`" in refusal("onnx", path)


def weights_elsewhere(path, location, where="initializer"):
    """An ONNX file that adds a weight kept in another file."""
    from onnx import TensorProto, helper, save

    weight = helper.make_tensor("weight", TensorProto.FLOAT, [], [0.0])
    weight.ClearField("float_data")
    weight.data_location = TensorProto.EXTERNAL
    entry = weight.external_data.add()
    entry.key, entry.value = "location", location
    images = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 3, 2, 2])
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 3, 2, 2])]
    nodes = [helper.make_node("Add", ["x", "weight"], ["y"])]
    if where == "subgraph":
        constant = helper.make_node("Constant", [], ["y"], value=weight)
        branch = helper.make_graph([constant], "branch", [], outputs)
        nodes.append(helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch))
    graph = helper.make_graph(nodes, "elsewhere", [images], outputs)
    if where == "initializer":
        graph.initializer.append(weight)
    elif where == "sparse":
        graph.sparse_initializer.add().values.CopyFrom(weight)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    if where == "function":
        constant = helper.make_node("Constant", [], ["y"], value=weight)
        opsets = model.opset_import
        model.functions.append(helper.make_function("d", "f", [], ["y"], [constant], opsets))
    save(model, path)
    return path


def test_onnx_weights_beside_the_file_are_read(tmp_path):
    needs("onnx")
    np.float32(2.5).tofile(tmp_path / "weights.bin")
    _, ask = opened("onnx", weights_elsewhere(tmp_path / "model.onnx", "weights.bin"))
    np.testing.assert_array_equal(
        ask(np.ones((1, 2, 2, 3), np.float32)), np.full((1, 3, 2, 2), 3.5)
    )


@pytest.mark.parametrize("where", ["initializer", "subgraph", "sparse", "function"])
@pytest.mark.parametrize("how", ["absolute", "above", "link"])
def test_onnx_weights_outside_its_folder_are_refused(how, where, tmp_path):
    needs("onnx")
    inside = tmp_path / "inside"
    inside.mkdir()
    np.float32(2.5).tofile(tmp_path / "secret")
    (inside / "link").symlink_to(tmp_path / "secret")
    location = {"absolute": str(tmp_path / "secret"), "above": "../secret", "link": "link"}[how]
    path = weights_elsewhere(inside / "model.onnx", location, where)
    assert "outside its own folder" in refusal("onnx", path)


def test_onnx_weights_in_memory_or_missing_are_refused(tmp_path):
    needs("onnx")
    path = weights_elsewhere(tmp_path / "model.onnx", "*/_ORT_MEM_ADDR_/*")
    assert "not there" in refusal("onnx", path)


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def torch_means(torch, contiguous=False, axes=(2, 3)):
    """A module that answers with the mean of each channel."""

    class Means(torch.nn.Module):
        def forward(self, x):
            x = x.float()
            if contiguous:
                return x.view(x.shape[0], x.shape[1], -1).mean(-1)
            return x.mean(axes)

    return Means().eval()


@pytest.mark.slow
def test_the_export_on_the_page_on_models_gives_a_file_that_is_read(tmp_path, monkeypatch):
    torch = needs("torch")
    needs("onnx")
    pytest.importorskip("onnxscript")
    page = (Path(__file__).parents[1] / "docs" / "models.md").read_text()
    monkeypatch.chdir(tmp_path)
    exec(re.findall(r"```python\n(.*?)```", page, re.S)[0], {"net": torch_means(torch)})
    oracle = open_model("onnx:model.onnx")
    images = RNG.random((5, 32, 32, 3), np.float32)
    np.testing.assert_allclose(oracle.query(images), images.mean((1, 2)), rtol=1e-5)


@pytest.mark.parametrize("how", ["nchw", "nhwc", "free sizes", "fixed batch", "uint8", "view"])
def test_exported_programs_say_what_they_take(how, tmp_path):
    torch = needs("torch")
    shape, axes = ((4, 6, 5, 3), (1, 2)) if how == "nhwc" else ((4, 3, 6, 5), (2, 3))
    example = torch.zeros(shape, dtype=torch.uint8 if how == "uint8" else torch.float32)
    free = {0: torch.export.Dim("b")}
    if how == "free sizes":
        free |= {2: torch.export.Dim("h"), 3: torch.export.Dim("w")}
    program = torch.export.export(
        torch_means(torch, contiguous=how == "view", axes=axes),
        (example,),
        dynamic_shapes=({} if how == "fixed batch" else free,),
    )
    torch.export.save(program, tmp_path / "means.pt2")
    says, ask = opened("torch", tmp_path / "means.pt2")
    assert says == Description(
        None if how == "free sizes" else SHAPE,
        3,
        value_range=(0.0, 255.0) if how == "uint8" else None,
        batch=4 if how == "fixed batch" else None,
    )
    images = np.rint(255 * IMAGES) if how == "uint8" else IMAGES
    for _ in range(2):
        np.testing.assert_allclose(ask(images), images.mean((1, 2)), rtol=1e-5)


def test_exported_programs_of_many_kinds_of_nodes(tmp_path):
    torch = needs("torch")

    class Mixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 8, 3, padding="same")
            self.norm = torch.nn.BatchNorm2d(8)
            self.linear = torch.nn.Linear(8 * 16, 5)
            self.dropout = torch.nn.Dropout()
            self.register_buffer("mean", torch.full((3, 1, 1), 0.5), persistent=False)

        def forward(self, x):
            x = torch.relu_(self.norm(self.conv(x - self.mean)))
            x = torch.nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear")
            x = torch.nn.functional.adaptive_avg_pool2d(x, (4, 4))
            first, second = x.chunk(2, 1)
            x = torch.cat([first, second.clamp(max=float("inf"))], 1)
            x = x.view(x.shape[0], -1) + torch.zeros(x.shape[0] * 2, 1, device=x.device)[::2]
            return {"logits": self.linear(self.dropout(x)) * torch.tensor(2.0), "features": x}

    module, images = Mixed().eval(), RNG.random((4, 8, 8, 3), np.float32)
    shown = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    program = torch.export.export(module, (shown,), dynamic_shapes=({0: torch.export.Dim("b")},))
    expected = module(shown)["logits"].detach().numpy()
    for each in (program, program.run_decompositions()):
        torch.export.save(each, tmp_path / "mixed.pt2")
        says, ask = opened("torch", tmp_path / "mixed.pt2")
        assert says == Description((8, 8, 3), 5)
        np.testing.assert_allclose(ask(images), expected, atol=1e-5)
        np.testing.assert_allclose(ask(images[:1]), expected[:1], atol=1e-5)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_torchscript_of_other_layouts_and_dtypes(tmp_path):
    torch = needs("torch")
    for contiguous in (False, True):
        example = torch.zeros(2, 3, 6, 5)
        torch.jit.trace(torch_means(torch, contiguous), example).save(tmp_path / "means.ts")
        says, ask = opened("torch", tmp_path / "means.ts", image_shape=SHAPE)
        assert says == Description(SHAPE)
        np.testing.assert_allclose(ask(IMAGES), MEANS, atol=1e-6)
    path = tmp_path / "nhwc.ts"
    torch.jit.trace(torch_means(torch, axes=(1, 2)), torch.zeros(1, 6, 5, 3)).save(path)
    np.testing.assert_allclose(opened("torch", path, layout="nhwc")[1](IMAGES), MEANS, atol=1e-6)
    torch.jit.script(torch.nn.Conv2d(3, 2, 1).double()).save(tmp_path / "double.ts")
    assert opened("torch", tmp_path / "double.ts")[1](IMAGES).shape == (4, 2, 6, 5)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_torchscript_that_writes_files_is_refused(tmp_path):
    torch = needs("torch")
    source = tmp_path / "writes.py"
    source.write_text(
        "import torch\n\n"
        "class Writes(torch.nn.Module):\n"
        "    def forward(self, x: torch.Tensor):\n"
        "        torch.save(x, 'written')\n"
        "        return x.mean((2, 3))\n"
    )
    spec = importlib.util.spec_from_file_location("writes", source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.jit.script(module.Writes()).save(tmp_path / "writes.ts")
    assert "writes files" in refusal("torch", tmp_path / "writes.ts")
    with zipfile.ZipFile(tmp_path / "writes.ts") as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(tmp_path / "twice.ts", "w") as new:
        for name, data in entries.items():
            new.writestr(name, data)
            if name.endswith(".py"):  # PyTorch finds the first of two entries, Python the last
                with pytest.warns(UserWarning, match="Duplicate name"):
                    new.writestr(name, b"")
    assert "two parts of one name" in refusal("torch", tmp_path / "twice.ts")


def test_pickles_are_refused_unread(tmp_path):
    torch = needs("torch")
    network = torch.nn.Conv2d(3, 2, 1)
    torch.save(network, tmp_path / "module.pt")
    torch.save(network.state_dict(), tmp_path / "state.pt")
    torch.save(network, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save(Bomb(tmp_path / "made"), tmp_path / "bomb.pt")
    (tmp_path / "bomb.pkl").write_bytes(pickle.dumps(Bomb(tmp_path / "made")))
    for name in ("module.pt", "state.pt", "old.pt", "bomb.pt", "bomb.pkl"):
        assert "is a pickle" in refusal("torch", tmp_path / name)
    assert not (tmp_path / "made").exists()


def rewritten(source, path, edit):
    """A .pt2 file whose entries ``edit`` has changed: ``(name, JSON or bytes) -> the same``."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith(".json"):
                data = json.dumps(edit(name, json.loads(data)))
            else:
                data = edit(name, data)
            new.writestr(name, data)
    return path


def test_malicious_programs_run_nothing(written, shipped, tmp_path):
    path, (_, images, logits), made = written("pt2"), shipped, tmp_path / "made"
    torch = needs("torch")
    code, pickled = f"__import__('os').mkdir({str(made)!r})", io.BytesIO()
    torch.save((Bomb(made),), pickled)

    def graph(edit):
        def edited(name, entry):
            if "/models/" in name:
                edit(entry["graph_module"]["graph"], entry)
            return entry

        return edited

    def size(graph, _):
        graph["tensor_values"]["images"]["sizes"][0]["as_expr"]["expr_str"] = code

    def guard(_, program):
        program["guards_code"] = [code]

    def example(name, entry):
        return pickled.getvalue() if "/sample_inputs/" in name else entry

    for edit in (graph(size), graph(guard), example):
        says, ask = opened("torch", rewritten(path, tmp_path / "edited.pt2", edit))
        assert says == Description((32, 32, 3), 10)
        np.testing.assert_allclose(ask(images[:2]), logits[:2], atol=1e-4)

    def weight(name, entry):
        if name.endswith("weights_config.json"):
            next(iter(entry["config"].values()))["use_pickle"] = True
        return pickled.getvalue() if name.endswith("/weight_0") else entry

    assert "pickled" in refusal("torch", rewritten(path, tmp_path / "edited.pt2", weight))
    for target in (
        "torch.serialization.os.mkdir",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.save.default",
        "torch.ops.aten.relu.__init__",
        "_operator.methodcaller",
    ):

        def calls(graph, _, target=target):
            given = [{"name": "", "arg": {"as_string": str(made)}, "kind": 1}]
            node = {"target": target, "inputs": given, "outputs": [], "metadata": {}}
            graph["nodes"].insert(0, node)

        file = rewritten(path, tmp_path / "edited.pt2", graph(calls))
        assert target in refusal("torch", file)
    assert not made.exists()


def test_programs_that_cannot_be_asked_are_refused(tmp_path):
    torch = needs("torch")
    path, images = tmp_path / "model.pt2", torch.zeros(2, 3, 6, 5)
    torch.export.save(torch.export.export(torch.nn.Dropout2d().train(), (images,)), path)
    assert "model.eval()" in refusal("torch", path)

    class Two(torch.nn.Module):
        def forward(self, x, y):
            return (x + y).mean((2, 3))

    torch.export.save(torch.export.export(Two(), (images, images)), path)
    assert "one tensor" in refusal("torch", path)

    class WithoutGradients(torch.nn.Module):
        def forward(self, x):
            with torch.no_grad():
                return x.mean((2, 3))

    program = torch.export.export(WithoutGradients(), (images,))
    torch.export.save(program, path)
    assert "run_decompositions()" in refusal("torch", path)
    torch.export.save(program.run_decompositions(), path)
    assert opened("torch", path)[0] == Description(SHAPE, 3, batch=2)
    rewritten(path, tmp_path / "broken.pt2", lambda name, entry: {} if ".json" in name else entry)
    assert "damaged" in refusal("torch", tmp_path / "broken.pt2")


def keras_model(keras, *layers, dtype="float32", batch=None):
    inputs = keras.Input(SHAPE, batch_size=batch, dtype=dtype)
    x = keras.layers.Rescaling(1.0)(inputs)
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))


@pytest.mark.parametrize("ending", ["keras", "h5"])
@pytest.mark.parametrize("how", ["plain", "nested", "wrapped"])
def test_keras_lambdas_run_only_when_trusted(how, ending, tmp_path):
    keras = needs("keras")
    path, double = tmp_path / f"model.{ending}", keras.layers.Lambda(lambda x: 2.0 * x)
    if how == "nested":
        double = keras.Sequential([keras.Input(SHAPE), double])
    elif how == "wrapped":
        double = keras.layers.TimeDistributed(double)
    keras_model(keras, double).save(path)
    assert "`trust`" in refusal("keras", path)
    says, ask = opened("keras", path, trust=True)
    assert says == Description(SHAPE, 3)
    np.testing.assert_allclose(ask(IMAGES), 2 * MEANS, rtol=1e-5)


def test_keras_configurations_that_import_modules_are_refused(tmp_path):
    keras = needs("keras")
    keras_model(keras).save(tmp_path / "model.keras")

    def edit(name, entry):
        if name == "config.json":
            entry["config"]["layers"][1]["module"] = "antigravity"
        return entry

    path = rewritten(tmp_path / "model.keras", tmp_path / "edited.keras", edit)
    assert "Rescaling of antigravity" in refusal("keras", path)


@pytest.mark.parametrize("ending", ["h5", "keras"])
def test_keras_files_that_hdf5_would_read_for_ever_are_refused(ending, tmp_path, monkeypatch):
    keras = needs("keras")
    monkeypatch.setattr(oracle("keras"), "SECONDS", 3.0)
    whole, broken = tmp_path / f"whole.{ending}", tmp_path / f"broken.{ending}"
    keras_model(keras, keras.layers.Conv2D(3, 1)).save(whole)

    def endless(content):
        # The first object of a heap says that it takes so many bytes that the next is at its place.
        place = content.index(b"GCOL") + 16 + 8
        return content[:place] + struct.pack("<Q", 2**64 - 16) + content[place + 8 :]

    if ending == "h5":
        broken.write_bytes(endless(whole.read_bytes()))
    else:
        with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(broken, "w") as other:
            for name in archive.namelist():
                content = archive.read(name)
                there = b"GCOL" in content
                assert there == (name == "model.weights.h5")
                other.writestr(name, endless(content) if there else content)
    assert "reading it would not end" in refusal("keras", broken)


def test_keras_inputs(tmp_path):
    keras = needs("keras")
    module, path = oracle("keras"), tmp_path / "model.keras"
    keras_model(keras, dtype="uint8", batch=4).save(path)
    says, ask = opened("keras", path)
    assert says == Description(SHAPE, 3, value_range=(0.0, 255.0), batch=4)
    np.testing.assert_allclose(ask(255 * IMAGES), np.rint(255 * IMAGES).mean((1, 2)), rtol=1e-5)
    assert module.traced(module.load(str(path), ModelOptions()), ModelOptions()) is None
    inputs = keras.Input((3, None, None))
    pooled = keras.layers.GlobalAveragePooling2D(data_format="channels_first")(inputs)
    keras.Model(inputs, pooled).save(path)
    assert opened("keras", path)[0] == Description(None, 3)
    says, ask = opened("keras", path, image_shape=SHAPE)
    assert says == Description(SHAPE, 3)
    np.testing.assert_allclose(ask(IMAGES), MEANS, atol=1e-6)
    model = module.load(str(path), ModelOptions())
    weights, function = module.traced(model, ModelOptions())
    np.testing.assert_allclose(jax.jit(function)(weights, IMAGES), MEANS, atol=1e-6)


@pytest.mark.parametrize(
    ("scheme", "endings"),
    [("onnx", ["onnx"]), ("torch", ["ts", "pt2"]), ("keras", ["keras", "h5", "txt"])],
)
def test_files_that_are_none(scheme, endings, tmp_path):
    needs(scheme)
    for ending in endings:
        path = tmp_path / f"model.{ending}"
        assert refusal(scheme, path) == f"there is no file {path}."
        assert "there is no file" in refusal(scheme, tmp_path)
        for content in (b"", b"Not a model at all, but words\n"):
            path.write_bytes(content)
            assert str(path) in refusal(scheme, path)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("words", "Not a model at all")
        assert str(path) in refusal(scheme, path)


@pytest.mark.parametrize(
    ("scheme", "package", "name"),
    [
        ("onnx", "onnxruntime", "ONNX Runtime"),
        ("torch", "torch", "PyTorch"),
        ("keras", "keras", "Keras 3"),
    ],
)
def test_a_missing_package_is_named(scheme, package, name, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    message = refusal(scheme, "model")
    assert message.startswith(f"{scheme}: models need {name}")
    assert message.endswith(f"pip install 'restore-jax[{scheme}]'.")
