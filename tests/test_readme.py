"""The Python of the README and of docs/sampler.md runs as it stands."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def the_block(text, word):
    return next(b for b in re.findall(r"```python\n(.*?)```", text, re.S) if word in b)


def test_the_sampler_example_gives_the_probability_it_says():
    names: dict = {}
    exec(the_block(README, "standard_normal"), names)
    assert float(names["result"].log_prob / jnp.log(10)) == pytest.approx(-6.54, abs=0.5)
    assert "the event was reached" in names["result"].summary()


def test_the_example_on_somebody_elses_function_is_short_and_right():
    block = the_block((ROOT / "docs" / "sampler.md").read_text(), "mapped")
    lines = [line for line in block.splitlines() if line.strip()]
    assert len(lines) < 20
    names: dict = {}
    exec(block, names)
    low, high = names["result"].interval(0.999)
    # Plain draws of the same two lognormal strengths and Gumbel load.
    draw = np.random.default_rng(0)
    strength = np.exp(draw.normal([4.3, 4.4], 0.1, (4_000_000, 2))).min(1)
    share = np.mean(draw.gumbel(40, 4, 4_000_000) > strength)
    assert low < np.log(share) < high


def test_every_file_the_readme_links_to_is_there():
    links = re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(r'src="([^":]+)"', README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link
