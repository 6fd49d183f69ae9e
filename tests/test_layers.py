"""Imports point downwards: a room imports from rooms on lower floors alone."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "restore_jax"
FLOORS = (
    {"errors", "lazy", "types", "names", "reading", "compilation", "environment", "folders"},
    {"splitting"},
    {"backdoors", "models", "data"},
    {"checkpoints", "spaces"},
    {"oracles"},
    {"run", "racing"},
    {"training", "recovery"},
    {"diagnosis", "verification"},
    {"purification"},
    {"report", "serving"},
    {"cli"},
)
"""From the ground up. On one floor nobody imports from a neighbour, but on the ground."""
DOORS = {"__init__", "__main__"}


def floor_of(room):
    return next(floor for floor, rooms in enumerate(FLOORS) if room in rooms)


def imports(path, everywhere=False):
    """The rooms that a file imports from, at its top, or in its functions as well."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            if parts[0] == "restore_jax":
                yield from [parts[1]] if len(parts) > 1 else [name.name for name in node.names]


def rooms():
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room not in DOORS:
            yield room, path


@pytest.mark.parametrize("room", sorted({room for room, _ in rooms()}))
def test_a_room_imports_from_below_alone(room):
    here = floor_of(room)
    for _, path in (pair for pair in rooms() if pair[0] == room):
        for other in imports(path):
            if other != room:
                assert floor_of(other) < here or floor_of(other) == here == 0, (path, other)


def test_the_sampler_knows_nothing_of_images_models_or_files():
    for room, path in rooms():
        if room == "splitting":
            assert set(imports(path, everywhere=True)) <= {"splitting", "types"}, path
