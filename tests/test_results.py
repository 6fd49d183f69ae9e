"""Results are typed: what a user reads of one, and that the page on its JSON is right."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from test_report import a_recovery

import restore_jax
from restore_jax.recovery import Attempt, Other, Recovery
from restore_jax.report import recovery_content
from restore_jax.run import Cost, Provenance

PAGE = (Path(__file__).parents[1] / "docs" / "results.md").read_text()
ROWS = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \|$", PAGE, re.M)
NESTED = {
    "spaces_tried": Attempt("patch", 10, None, None, 0.5, False),
    "others": Other(1, "b", False, None, (None, -3.0), 10),
    "levels": a_recovery().levels[0],
    "truth": a_recovery().truth,
}


def a_full_recovery():
    """With everything that may be left out."""
    recovery = a_recovery()
    return dataclasses.replace(
        recovery,
        cost=dataclasses.replace(
            recovery.cost,
            asking={"images": 3, "calls": 1, "images_sent_again": 0, "cost": 0.0},
            price=1.5,
            limit="dollars",
        ),
        provenance=dataclasses.replace(recovery.provenance, notes=("it ends in a softmax",)),
        spaces_tried=(NESTED["spaces_tried"],),
        others=(NESTED["others"],),
        source=2,
        source_name="c",
    )


def test_the_page_names_every_key_and_no_other():
    content = recovery_content(a_full_recovery())
    assert {key for key, *_ in ROWS} == set(content)
    optional = {key for key, _, kind, _ in ROWS if "optional" in kind}
    assert set(content) - optional == set(recovery_content(a_recovery()))


def test_the_page_names_attributes_that_there_are():
    kinds = {"cost": Cost, "provenance": Provenance}
    for _, attributes, *_ in ROWS:
        for path in re.findall(r"`([\w.]+)`", attributes):
            first, _, rest = path.partition(".")
            owner, name = (kinds[first], rest) if rest else (Recovery, first)
            known = {field.name for field in dataclasses.fields(owner)} | set(dir(owner))
            assert name in known, path


def test_the_page_names_what_is_inside():
    for key, example in NESTED.items():
        said = next(text for name, *_, text in ROWS if name == key)
        inside = set(re.findall(r"`(\w+)`", said.split(":")[-1]))
        wanted = {"log10_prob_interval" if name == "interval" else name for name in example._fields}
        assert inside == wanted, key


def test_null_stands_only_where_the_page_allows_it():
    content = recovery_content(a_recovery())
    for key, _, kind, _ in ROWS:
        if key in content and content[key] is None:
            assert "null" in kind, key


def test_a_result_is_saved_and_read_back(tmp_path):
    recovery = a_full_recovery()
    recovery.save(tmp_path)
    again = restore_jax.load_recovery(tmp_path)
    for field in dataclasses.fields(recovery):
        mine, yours = getattr(recovery, field.name), getattr(again, field.name)
        if field.name in ("particles", "trigger", "planted_trigger"):
            continue
        if isinstance(mine, np.ndarray):
            np.testing.assert_array_equal(mine, yours)
        else:
            assert json.dumps(mine, default=str) == json.dumps(yours, default=str), field.name


def test_a_result_is_read_on_a_screen_and_drawn_in_a_notebook():
    recovery = a_recovery()
    assert "\n" not in repr(recovery)
    assert len(repr(recovery)) < 200
    assert "log10_prob=-0.60" in repr(recovery)
    assert recovery.summary().startswith("found: a trigger")
    assert isinstance(recovery.plot(), Figure)
    assert recovery._repr_html_().startswith('<img src="data:image/png;base64,')
