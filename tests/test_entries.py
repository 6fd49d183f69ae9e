"""The entries of the benchmark fit their schema, and the table is the one made from them."""

import copy
import json
import re
from pathlib import Path

import pytest
from test_site import module_at

ROOT = Path(__file__).parents[1]
PATHS = sorted((ROOT / "benchmarks" / "entries").glob("*.json"))
leaderboard = module_at("benchmarks/leaderboard.py")


@pytest.fixture(scope="module")
def entries():
    return {path.stem: json.loads(path.read_text()) for path in PATHS}


def test_every_entry_fits_and_the_table_is_made_from_them(entries):
    assert len(entries) >= 40
    assert [words for name in entries for words in leaderboard.problems(entries[name], name)] == []
    path = ROOT / "benchmarks" / "results" / "leaderboard.md"
    assert path.read_text() == leaderboard.table(entries)


def test_the_example_in_the_readme_fits():
    text = (ROOT / "benchmarks" / "README.md").read_text()
    entry = json.loads(re.search(r"```json\n(.*?)```", text, re.S)[1])
    assert leaderboard.problems(entry, "my-model") == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clean_accuracy": 91}, "clean_accuracy must be a number in [0, 1], or null, not 91"),
        ({"model": "other"}, "model is 'other', but the file is called patch-2x2"),
        ({"colour": 1}, "colour is unknown"),
        ({"planted": {"what": "a patch"}}, "planted.targets is missing"),
        ({"runs": []}, "runs must be a list of one run or more, not []"),
    ],
)
def test_what_does_not_fit_is_refused(entries, change, words):
    entry = copy.deepcopy(entries["patch-2x2"]) | change
    assert any(one.startswith(words) for one in leaderboard.problems(entry, "patch-2x2"))


def test_a_file_that_is_no_json_is_refused_with_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "net.json").write_text('{"schema')
    monkeypatch.setattr(leaderboard, "ENTRIES", tmp_path)
    with pytest.raises(SystemExit, match=r"^net\.json: it is not JSON: "):
        leaderboard.main()


@pytest.mark.parametrize(
    ("targets", "named", "words"),
    [
        ([3], [3], "found"),
        ([3, 4], [3], "found 1 of 2"),
        ([3], [5], "missed, and 1 wrong"),
        ([3], [], "missed"),
        (None, [], "rightly clear"),
        (None, [1], "false alarm (1 named)"),
    ],
)
def test_an_outcome_is_read_off_what_was_planted(targets, named, words):
    planted = None if targets is None else {"targets": targets}
    run = {"verdict": "suspicious" if named else "nothing found", "named": named}
    assert leaderboard.outcome(planted, run) == words
