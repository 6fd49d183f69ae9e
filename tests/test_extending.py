"""docs/extending.md shows what the tests run."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)


def test_the_space_on_the_page_is_the_one_that_is_registered():
    assert BLOCKS[0] == (ROOT / "tests" / "toy_space_by_hand.py").read_text()


def test_the_format_on_the_page_opens_a_model(tmp_path, monkeypatch):
    from restore_jax.oracles import formats, open_model

    (tmp_path / "dice.py").write_text(BLOCKS[1])
    monkeypatch.syspath_prepend(tmp_path)
    names: dict = {}
    exec(BLOCKS[1], names)
    monkeypatch.setitem(formats.FORMATS, "dice", None)
    formats.register(names["ENTRY"])
    assert open_model("dice:6").num_classes == 6


def test_an_attack_that_is_registered_is_planted(monkeypatch):
    from restore_jax.backdoors import KINDS, Kind, PlantedStripes, planted_from_json, register
    from restore_jax.backdoors.stripes import OPTIONS
    from restore_jax.cli import planting

    monkeypatch.setitem(KINDS, "waves", None)
    register("waves", Kind(PlantedStripes, OPTIONS))
    (planted,) = planting.planted_from_specs(["waves:target=1"], (32, 32, 3), 10)
    assert planted.target == 1
    assert planted_from_json(planted.to_json() | {"kind": "waves"}) == planted


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#:]+)\)", PAGE))))
def test_every_file_that_the_page_links_to_is_there(link):
    assert (ROOT / "docs" / link).exists()
