"""docs/extending.md shows what the tests run."""

import re
import sys
import types
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from commands_by_hand import call

from restore_jax import recover, stamp
from restore_jax.cli.main import COMMANDS
from restore_jax.spaces import SPACES

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)


def test_the_space_on_the_page_is_the_one_that_is_registered():
    assert BLOCKS[1] == (ROOT / "tests" / "toy_space_by_hand.py").read_text()


@pytest.fixture
def frame(monkeypatch):
    """The space that the page makes from nothing, registered for one test."""
    monkeypatch.setitem(SPACES, "frame", None)
    names: dict = {"__name__": "frames"}
    exec(BLOCKS[0], names)
    return names["frame"]


def test_the_frame_on_the_page_is_stamped_as_its_trigger_says(frame):
    space = frame((8, 10, 3), max_width=2)
    images = np.random.default_rng(0).random((2, 8, 10, 3), np.float32)
    for number, wide in ((0.1, 1), (0.9, 2)):
        particle = np.array([number, 0.25, 0.5, 0.75], np.float32)
        trigger = space.trigger(particle, 1)
        stamped = np.asarray(space.stamp(particle, images))
        np.testing.assert_allclose(stamped, stamp(trigger, images))
        inside = (slice(None), slice(wide, -wide), slice(wide, -wide))
        np.testing.assert_array_equal(stamped[inside], images[inside])
        assert int(trigger.pixels) == 80 - (8 - 2 * wide) * (10 - 2 * wide)


def test_the_commands_know_the_frame_on_the_page(frame):
    assert "gaussian, frame" in " ".join(call("recover", "--help")[1].split())


@pytest.mark.slow
def test_the_frame_on_the_page_is_found(frame):
    def framed(images):
        red, _, blue = jnp.moveaxis(images.mean((1, 2)), -1, 0)
        rows = images[:, 0].mean(1)  # of the first row of each image, f32[b, 3]
        return jnp.stack([red - blue, blue - red, 2 * (rows[:, 0] - rows[:, 2]) - 1], -1)

    found = recover(framed, 2, image_shape=(8, 8, 3), space="frame", stop="first_hit")
    assert found.found
    red, _, blue = np.asarray(found.trigger.pattern)[0, 0]
    assert red > blue + 0.5


def test_the_format_on_the_page_opens_a_model(tmp_path, monkeypatch):
    from restore_jax.oracles import formats, open_model

    (tmp_path / "dice.py").write_text(BLOCKS[2])
    monkeypatch.syspath_prepend(tmp_path)
    names: dict = {}
    exec(BLOCKS[2], names)
    monkeypatch.setitem(formats.FORMATS, "dice", None)
    formats.register(names["ENTRY"])
    assert open_model("dice:6").num_classes == 6


def test_the_attack_on_the_page_is_planted(monkeypatch):
    from restore_jax.backdoors import KINDS, planted_from_json
    from restore_jax.cli import planting

    monkeypatch.setitem(KINDS, "frame", None)
    exec(BLOCKS[3], {"__name__": "framed"})
    (planted,) = planting.planted_from_specs(["frame:target=1,width=3"], (32, 32, 3), 10)
    trigger = planted.trigger((8, 10, 3))
    assert (planted.target, int(trigger.target)) == (1, 1)
    assert int(trigger.pixels) == 80 - 2 * 4
    assert planted_from_json(planted.to_json()) == planted


def test_the_command_on_the_page_runs(monkeypatch):
    module = types.ModuleType("restore_jax.cli.spaces")
    exec(BLOCKS[4], vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(COMMANDS, "spaces", "print the search spaces")
    code, out, _ = call("spaces", "--word", "sinusoid")
    assert (code, out) == (0, "stripes: a sinusoid\n")
    assert "--word TEXT" in call("spaces", "--help")[1]


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#:]+)\)", PAGE))))
def test_every_file_that_the_page_links_to_is_there(link):
    assert (ROOT / "docs" / link).exists()
