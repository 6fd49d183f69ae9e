"""The README's Python runs as it stands."""

import re
from pathlib import Path

import jax.numpy as jnp
import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_sampler_example_gives_the_probability_it_says():
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    block = next(block for block in blocks if "standard_normal" in block)
    names: dict = {}
    exec(block, names)
    assert float(names["result"].log_prob / jnp.log(10)) == pytest.approx(-6.54, abs=0.5)
    assert "the event was reached" in names["result"].summary()


def test_every_file_the_readme_links_to_is_there():
    root = Path(__file__).parents[1]
    links = re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(r'src="([^":]+)"', README)
    assert links
    for link in links:
        assert (root / link).exists(), link
