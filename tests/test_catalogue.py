"""One entry is all that the commands, `recover` and `scan` need to know of a space or a format."""

import subprocess
import sys
from pathlib import Path

import pytest
import toy_space_by_hand
from commands_by_hand import call
from models_by_hand import IMAGE_SHAPE, TARGET, backdoored

from restore_jax import recover, scan
from restore_jax.diagnosis import ScanSettings
from restore_jax.errors import InputError
from restore_jax.oracles import formats, open_model
from restore_jax.spaces import SPACES, catalogue, register

pytestmark = pytest.mark.usefixtures("hardly_optimised")

ROOT = Path(__file__).parents[1]


@pytest.fixture
def squares(monkeypatch):
    monkeypatch.setattr(catalogue, "SPACES", SPACES)
    monkeypatch.setitem(SPACES, "squares", None)  # taken out again afterwards
    register(toy_space_by_hand.ENTRY)


@pytest.fixture(scope="module")
def oracle():
    return open_model(backdoored, image_shape=IMAGE_SHAPE, class_names=tuple("abcd"))


@pytest.mark.parametrize("command", ["recover", "scan"])
def test_the_help_names_a_space_that_is_registered(command, squares):
    code, out, _ = call(command, "--help")
    assert code == 0
    assert "squares" in out
    code, _, err = call(command, "--space", "circles")
    assert code == 2
    assert "invalid choice: 'circles'" in err


def test_recover_searches_a_space_that_is_registered(squares, oracle):
    found = recover(oracle, TARGET, space="squares", stop="first_hit")
    assert found.found
    assert (found.space, found.cost.budget) == ("squares", 4_000)
    assert found.settings["num_particles"] == 32


@pytest.mark.slow
def test_scan_looks_through_a_space_that_is_registered(squares, oracle):
    settings = ScanSettings(num_probes=4, num_draws=64, num_particles=16, num_moves=3, max_levels=1)
    found = scan(oracle, space="squares", settings=settings, budget=8_000)
    assert found.spaces["squares"].prior["space"] == "squares"
    assert found.spaces["squares"].classes[TARGET].curve


def test_recover_takes_a_space_that_nobody_registered(oracle):
    space = toy_space_by_hand.squares(IMAGE_SHAPE)
    settings = toy_space_by_hand.SETTINGS
    found = recover(oracle, TARGET, space=space, settings=settings, stop="first_hit", budget=4_000)
    assert found.found
    assert found.prior == {"space": "squares", "side": 2}


def test_a_format_that_is_registered_opens_models(monkeypatch, tmp_path):
    (tmp_path / "dice.py").write_text(
        "import numpy as np\n"
        "from restore_jax.oracles.options import Description\n"
        "def load(place, options): return int(place)\n"
        "def describe(model, options): return Description((8, 8, 3), model)\n"
        "def ask(model, images, sending):\n"
        "    return np.eye(model, dtype=np.float32)[images.sum((1, 2, 3)).astype(int) % model]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(formats, "FORMATS", formats.FORMATS)
    monkeypatch.setitem(formats.FORMATS, "dice", formats.Format("dice", "dice", "dice:SIDES"))
    assert open_model("dice:6").num_classes == 6
    assert open_model("dice:3", class_names=["one", "two", "three"]).class_names[2] == "three"
    with pytest.raises(InputError, match="has 6 classes, not 2: leave out `class_names`"):
        open_model("dice:6", class_names=["one", "two"])
    assert "dice:SIDES" in call("recover", "--help")[1].replace("\n", "")


def test_an_unknown_space_is_refused_with_the_names_of_those_there_are(oracle):
    with pytest.raises(InputError, match="it may be auto, patch, stripes"):
        recover(oracle, TARGET, space="spiral")


def test_the_catalogue_needs_no_jax():
    code = (
        "import sys, restore_jax.cli.recover, restore_jax.cli.scan, restore_jax.oracles.formats\n"
        "print({'jax', 'flax', 'orbax'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.split() == ["set()"]
