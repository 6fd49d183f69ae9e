"""The examples start, and docs/models.md shows flags and files that there are."""

import argparse
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from restore_jax.cli import models

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "models.md").read_text()


@pytest.mark.parametrize("name", ["convert.py", "serve.py"])
def test_an_example_says_how_it_is_used(name):
    command = [sys.executable, str(ROOT / "examples" / name), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "--model" in done.stdout


def test_the_commands_on_the_page_on_models_are_understood():
    shown = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.S)).replace("\\\n", "")
    commands = [line for line in shown.splitlines() if line.startswith("restore-jax ")]
    assert len(commands) > 5
    for line in commands:
        _, name, *words = shlex.split(line)
        parser = argparse.ArgumentParser(exit_on_error=False)
        importlib.import_module(f"restore_jax.cli.{name}").add_arguments(parser)
        models.check(parser.parse_args(words))


def test_every_file_that_the_page_on_models_links_to_is_there():
    links = re.findall(r"\]\(([^)#:]+)\)", PAGE)
    assert links
    for link in links:
        assert (ROOT / "docs" / link).exists(), link
