"""A folder in the Hugging Face layout is asked as its own pipeline asks it, and runs no code."""

import contextlib
import json
import pickle
import re
import shutil
import socket
import sys

import numpy as np
import pytest

from restore_jax.cli.models import _digest
from restore_jax.oracles import ModelError, ModelOptions, hf, open_model
from restore_jax.recovery import Settings, recover

NAMES = ["cat", "crane", "crane", "tench, Tinca tinca"]
RNG = np.random.default_rng(0)


def save(folder, model, processor):
    """Writes a model whose random logits are far enough apart to be compared."""
    for parameter in model.classifier.parameters():
        parameter.data *= 100
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def labels(names):
    back = {name: k for k, name in enumerate(names)}
    return {"id2label": dict(enumerate(names)), "label2id": back}


def tiny_vit(transformers, **more):
    told = {"image_size": 32, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2}
    told |= {"num_attention_heads": 2, "intermediate_size": 32, **labels(NAMES), **more}
    return transformers.ViTForImageClassification(transformers.ViTConfig(**told))


def settled(model):
    """The model, whose norms know a few images, so that its logits differ from image to image."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(pixel_values=torch.randn(8, 3, 40, 40))
    return model.eval()


def small_mobilenet(transformers):
    told = transformers.MobileNetV2Config(
        image_size=40, depth_multiplier=0.1, min_depth=4, **labels(list("abcde"))
    )
    return settled(transformers.MobileNetV2ForImageClassification(told))


def small_resnet(transformers):
    told = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **labels("xyz")
    )
    return settled(transformers.ResNetForImageClassification(told))


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("torch").manual_seed(21)
    return pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def vit(transformers, tmp_path_factory):
    model = tiny_vit(transformers)
    processor = transformers.ViTImageProcessorPil(
        size={"height": 32, "width": 32}, image_mean=[0.5, 0.4, 0.3], image_std=[0.5, 0.25, 0.2]
    )
    return save(tmp_path_factory.mktemp("hf") / "vit", model, processor)


@pytest.fixture
def copy(vit, tmp_path):
    """Makes a copy of the transformer, to be damaged."""
    return shutil.copytree(vit, tmp_path / "copy")


def rewrite(path, **more):
    """Writes an object of JSON with other values; None leaves one out."""
    said = json.loads(path.read_text()) | more
    path.write_text(json.dumps({key: value for key, value in said.items() if value is not None}))


def refusal(folder, **options):
    """The one sentence with which a folder is refused."""
    with pytest.raises(ModelError) as caught:
        open_model(f"hf:{folder}", options=ModelOptions(**options))
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert not re.search(r"\.\s", message)
    return message


def by_pipeline(transformers, folder, images):
    """Logits by Transformers' own pipeline, of images uint8[b, H, W, C]."""
    from PIL import Image

    ask = transformers.pipeline("image-classification", str(folder))
    number = ask.model.config.num_labels
    found = ask(
        [Image.fromarray(image.squeeze()) for image in images], top_k=number,
        function_to_apply="none",
    )  # fmt: skip
    order = [{each["label"]: each["score"] for each in one} for one in found]
    names = [ask.model.config.id2label[k] for k in range(number)]
    return np.array([[one[name] for name in names] for one in order], np.float32)


PREPARED = {
    "vit": (40, slice(None), None),
    # Cut out of the middle, after an enlargement by 1: what is left goes into the network.
    "mobilenet": (48, slice(4, 44), {"size": {"shortest_edge": 48}, "crop_size": 40}),
    "resnet": (64, slice(4, 60), {"size": {"shortest_edge": 56}, "crop_pct": 0.875}),
    "flipped": (40, slice(None), {"do_flip_channel_order": True, "crop_size": 40}),
    "bytes": (32, slice(None), {"do_rescale": False, "size": {"height": 32, "width": 32}}),
    "offset": (32, slice(None), {"rescale_offset": True, "rescale_factor": 1 / 127.5}),
}


def prepared(transformers, kind, folder):
    """Writes a model with a processor of a kind."""
    more = PREPARED[kind][2]
    if kind == "mobilenet":
        processor = transformers.MobileNetV2ImageProcessorPil(**more)
        return save(folder, small_mobilenet(transformers), processor)
    if kind == "resnet":
        processor = transformers.ConvNextImageProcessorPil(**more)
        return save(folder, small_resnet(transformers), processor)
    if kind == "flipped":
        more |= {"size": {"shortest_edge": 40}}
        processor = transformers.MobileViTImageProcessorPil(**more)
        return save(folder, small_mobilenet(transformers), processor)
    if kind == "bytes":
        more |= {"image_mean": [99.0] * 3, "image_std": [50.0] * 3}
        processor = transformers.ViTImageProcessorPil(**more)
    else:
        more |= {"size": {"height": 32, "width": 32}, "image_mean": [0.1, 0.2, 0.3]}
        processor = transformers.EfficientNetImageProcessorPil(**more)
    return save(folder, tiny_vit(transformers, **labels("pqrs")), processor)


@pytest.mark.parametrize("kind", ["mobilenet", "resnet", "flipped", "bytes", "offset"])
def test_logits_are_those_of_the_pipeline(kind, transformers, tmp_path):
    folder = prepared(transformers, kind, tmp_path / "model")
    side, inner, _ = PREPARED[kind]
    images = RNG.integers(0, 256, (3, side, side, 3), np.uint8)
    oracle = open_model(f"hf:{folder}")
    shown = images[:, inner, inner].astype(np.float32) / 255
    assert oracle.image_shape == shown.shape[1:]
    expected = by_pipeline(transformers, folder, images)
    assert np.ptp(expected, axis=0).min() > 0.1, "a wrong preprocessing would do"
    np.testing.assert_allclose(oracle.query(shown), expected, atol=2e-3, rtol=1e-4)


def test_a_transformer_brings_its_preprocessing_and_its_names(vit, transformers, tmp_path):
    # The pipeline tells classes by their names, so there it has others.
    other = shutil.copytree(vit, tmp_path / "other")
    rewrite(other / "config.json", id2label=dict(enumerate("pqrs")))
    images = RNG.integers(0, 256, (5, 32, 32, 3), np.uint8)
    expected = by_pipeline(transformers, other, images)
    oracle = open_model(f"hf:{vit}")
    assert oracle.image_shape == (32, 32, 3)
    assert oracle.class_names == ("cat", "crane (1)", "crane (2)", "tench, Tinca tinca")
    assert oracle.options == {}
    assert oracle.asked == 0
    shown = images.astype(np.float32) / 255
    assert np.ptp(expected, axis=0).min() > 0.1
    np.testing.assert_allclose(oracle.query(shown), expected, atol=1e-4, rtol=1e-4)
    assert open_model(f"hf:{vit}", "labels").query(shown).tolist() == expected.argmax(1).tolist()
    # What is said goes before what the files say.
    bare = np.asarray(open_model(f"hf:{vit}", value_range=(0.0, 1.0)).query(shown))
    mean, std = np.float32([0.5, 0.4, 0.3]), np.float32([0.5, 0.25, 0.2])
    np.testing.assert_allclose(bare, oracle.query(shown * std + mean), atol=1e-4)
    same = open_model(f"hf:{vit}", value_range=(0.0, 255.0), mean=mean * 255, std=std * 255)
    np.testing.assert_allclose(same.query(shown), expected, atol=1e-4, rtol=1e-4)
    moved = open_model(f"hf:{vit}", mean=(0.0, 0.0, 0.0))
    np.testing.assert_allclose(
        moved.query(shown / 2), oracle.query(shown / 2 + mean), atol=1e-4, rtol=1e-4
    )
    options = ModelOptions(classes=("a", "b", "c", "d"), resize=(16, 16))
    told = open_model(f"hf:{vit}", options=options)
    assert (told.class_names, told.image_shape) == (("a", "b", "c", "d"), (16, 16, 3))
    assert "has 4 classes, not 3" in refusal(vit, classes=3)


def test_a_convolutional_network_takes_another_size(transformers, tmp_path):
    folder = prepared(transformers, "mobilenet", tmp_path / "model")
    oracle = open_model(f"hf:{folder}", image_shape=(64, 48, 3))
    assert oracle.query(np.zeros((2, 64, 48, 3), np.float32)).shape == (2, 5)


def test_a_transformer_does_not(vit):
    oracle = open_model(f"hf:{vit}", image_shape=(64, 64, 3))
    with pytest.raises(ModelError, match="doesn't match model"):
        oracle.query(np.zeros((1, 64, 64, 3), np.float32))


def test_a_recovery_is_that_of_the_network_itself(vit, transformers):
    import torch

    network = transformers.AutoModelForImageClassification.from_pretrained(vit).eval()
    mean, std = np.float32([0.5, 0.4, 0.3]), np.float32([0.5, 0.25, 0.2])

    def by_hand(images):
        shown = torch.from_numpy(((np.asarray(images) - mean) / std).transpose(0, 3, 1, 2).copy())
        with torch.inference_mode():
            return network(pixel_values=shown).logits.numpy()

    settings = Settings(num_probes=4, num_particles=16, options={"max_size": 6})
    of_folder, of_function = (
        recover(model, target=1, seed=3, settings=settings, budget=1_000)
        for model in (f"hf:{vit}", open_model(by_hand, class_names=("a", "b", "c", "d")))
    )
    assert of_folder.queries == of_function.queries > 300
    np.testing.assert_array_equal(of_folder.trigger.pattern, of_function.trigger.pattern)
    np.testing.assert_allclose(of_folder.scores, of_function.scores, rtol=1e-4)


def test_a_run_resumes_with_the_same_folder_alone(vit, copy):
    same = _digest(f"hf:{vit}")
    assert same == _digest(f"hf:{copy}")
    assert same is not None
    content = bytearray((copy / hf.WEIGHTS).read_bytes())
    content[-1] ^= 1
    (copy / hf.WEIGHTS).write_bytes(content)
    assert _digest(f"hf:{copy}") != same


def test_nothing_is_fetched(vit, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    constants = pytest.importorskip("huggingface_hub.constants")
    assert open_model(f"hf:{vit}").num_classes == 4
    assert not constants.HF_HUB_OFFLINE, "others may use it again"
    assert "there is no folder google/vit-base-patch16-224" in refusal(
        "google/vit-base-patch16-224"
    )


def test_missing_files_are_named(copy, transformers):
    (copy / "preprocessor_config.json").rename(copy / "away.json")
    assert refusal(copy) == f"there is no preprocessor_config.json in {copy}."
    (copy / "away.json").rename(copy / "preprocessor_config.json")
    (copy / hf.WEIGHTS).rename(copy / "away")
    assert refusal(copy) == f"there is no model.safetensors in {copy}."
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps(print))
    assert "has its weights in pytorch_model.bin, a pickle" in refusal(copy)
    (copy / "config.json").unlink()
    assert refusal(copy) == f"there is no config.json in {copy}."


def test_weights_in_several_files(copy, transformers):
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / hf.WEIGHTS)
    before = np.asarray(open_model(f"hf:{copy}").query(np.ones((1, 32, 32, 3), np.float32)))
    (copy / hf.WEIGHTS).unlink()
    names = sorted(weights)
    where = {name: f"model-{1 + k % 2:05}-of-00002.safetensors" for k, name in enumerate(names)}
    for file in set(where.values()):
        some = {name: weights[name] for name in names if where[name] == file}
        save_file(some, copy / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (copy / hf.INDEX).write_text(json.dumps(index))
    after = open_model(f"hf:{copy}").query(np.ones((1, 32, 32, 3), np.float32))
    np.testing.assert_allclose(after, before, rtol=1e-5)
    (copy / file).unlink()
    assert refusal(copy) == f"there is no {file} in {copy}, which {hf.INDEX} names."
    index["weight_map"][names[0]] = "../elsewhere.safetensors"
    (copy / hf.INDEX).write_text(json.dumps(index))
    assert "names '../elsewhere.safetensors', which is no file" in refusal(copy)


def test_damaged_weights_are_refused(copy, transformers):
    whole = (copy / hf.WEIGHTS).read_bytes()
    for content in (
        b"",
        whole[:100],
        whole[:-50],
        b"\xff" * 64,
        whole[:8] + b"x" * (len(whole) - 8),
    ):
        (copy / hf.WEIGHTS).write_bytes(content)
        assert f"Transformers does not open {copy}" in refusal(copy)


def test_damaged_json_is_refused(copy, transformers):
    for name in ("config.json", "preprocessor_config.json"):
        whole = (copy / name).read_text()
        for content in ("", whole[: len(whole) // 2], "[1]", "\x00"):
            (copy / name).write_text(content)
            assert str(copy / name) in refusal(copy)
        (copy / name).write_text(whole)


def test_a_head_that_is_not_there_is_not_drawn_at_random(copy, transformers):
    tiny_vit(transformers).vit.save_pretrained(copy)
    assert "holds ViTModel, which is no image classifier" in refusal(copy)
    rewrite(copy / "config.json", architectures=None)
    assert "lacks 2 of the weights of a ViTForImageClassification" in refusal(copy)


def test_other_kinds_of_models_are_refused(copy, transformers):
    config = copy / "config.json"
    rewrite(config, architectures=["BertForSequenceClassification"], model_type="bert")
    assert "holds BertForSequenceClassification, which is no image" in refusal(copy)
    rewrite(config, architectures=None)
    assert "model of type bert, of which Transformers makes no image classifier" in refusal(copy)
    rewrite(config, model_type=None)
    assert "says no model_type" in refusal(copy)
    rewrite(config, model_type="never_heard_of")
    assert "holds a model of type never_heard_of, which Transformers" in refusal(copy)


def test_code_of_the_folder_is_not_run(copy, transformers, tmp_path):
    ran = tmp_path / "ran"
    (copy / "own.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    own = {"AutoConfig": "own.Config", "AutoModelForImageClassification": "own.Model"}
    rewrite(copy / "config.json", auto_map=own)
    # Transformers knows this type itself.
    assert open_model(f"hf:{copy}").num_classes == 4
    rewrite(copy / "config.json", model_type="never_heard_of")
    assert "needs code of its own (config.json says auto_map), which is not run" in refusal(copy)
    rewrite(copy / "config.json", model_type="vit", _attn_implementation="somebody/kernel")
    assert "names 'somebody/kernel' to compute attention with" in refusal(copy)
    rewrite(copy / "config.json", _attn_implementation=None)
    rewrite(
        copy / "preprocessor_config.json",
        auto_map={"AutoImageProcessor": "own.Processor"}, image_processor_type="Unheard",
    )  # fmt: skip
    with contextlib.suppress(ModelError):
        open_model(f"hf:{copy}")
    assert not ran.exists()


def test_an_adapter_is_refused(copy, transformers):
    (copy / "adapter_config.json").write_text('{"base_model_name_or_path": "a/b"}')
    assert "holds an adapter to another model" in refusal(copy)


def test_sizes_out_of_all_proportion_are_refused(copy, transformers):
    rewrite(copy / "preprocessor_config.json", size={"height": 10**6, "width": 10**6})
    assert "asks for images of 1000000x1000000: sides may be 1 to 4096" in refusal(copy)


def test_a_folder_without_its_scheme_is_told_it(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for given in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(ModelError, match=re.escape(f"write hf:{tmp_path}.")):
            open_model(str(given))


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert refusal("model") == "hf: models need Transformers: pip install 'restore-jax[hf]'."
