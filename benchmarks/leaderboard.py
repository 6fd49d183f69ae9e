"""A table of models and what was said of them, from one file a model.

    python benchmarks/leaderboard.py

reads ``benchmarks/entries/*.json``, refuses what does not fit the schema (``benchmarks/README.md``
explains it), and writes ``results/leaderboard.md``. A model of yours is one more file.
"""

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

ENTRIES = Path(__file__).parent / "entries"
RESULTS = Path(__file__).parent / "results"
SCHEMA_VERSION = 1
VERDICTS = ("backdoor", "suspicious", "nothing found", "inconclusive")


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _share(value: Any) -> bool:
    return _number(value) and 0 <= value <= 1


def _classes(value: Any) -> bool:
    return isinstance(value, list) and all(map(_count, value)) and len(set(value)) == len(value)


def _date(value: Any) -> bool:
    try:
        return datetime.date.fromisoformat(value).isoformat() == value
    except (TypeError, ValueError):
        return False


def _or_none(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


Schema = dict[str, tuple[Callable[[Any], bool], str]]
MODEL: Schema = {
    "schema_version": (lambda value: value == SCHEMA_VERSION, f"{SCHEMA_VERSION}"),
    "model": (_text, "the name of the file, without .json"),
    "source": (_text, "where the model is from: an address, a paper, a command"),
    "architecture": (_text, "the network"),
    "data": (_text, "what it was trained on"),
    "clean_accuracy": (_or_none(_share), "a number in [0, 1], or null"),
    "planted": (_or_none(lambda value: isinstance(value, dict)), "an object, or null if clean"),
    "runs": (lambda value: isinstance(value, list) and bool(value), "a list of one run or more"),
}
PLANTED: Schema = {
    "what": (_text, "the trigger, in words"),
    "targets": (lambda value: _classes(value) and bool(value), "the classes that it leads to"),
    "sources": (lambda value: value == "all" or _classes(value), 'classes it leads from, or "all"'),
    "attack_success_rate": (_or_none(_share), "a number in [0, 1], or null"),
}
RUN: Schema = {
    "command": (_text, "what was run, as one types it"),
    "verdict": (lambda value: value in VERDICTS, f"one of {', '.join(VERDICTS)}"),
    "named": (_classes, "the classes called suspicious"),
    "confirmed": (_or_none(_classes), "those whose trigger was confirmed; null if none was sought"),
    "standing": (_or_none(_number), "a number, the largest standing, or null"),
    "standing_class": (_or_none(_count), "the number of its class, or null"),
    "standing_space": (_or_none(_text), "the name of its space, or null"),
    "false_alarm_bound": (_or_none(_share), "its false_alarms, in [0, 1], or null"),
    "queries": (_count, "a whole number of images"),
    "seed": (_count, "a whole number, the seed of the run"),
    "versions": (
        lambda value: isinstance(value, dict) and {"restore-jax", "jax"} <= value.keys(),
        "an object with restore-jax and jax",
    ),
    "device": (_text, "as scan.json says it"),
    "date": (_date, "YYYY-MM-DD"),
}


def main() -> None:
    """Checks the entries and writes the table."""
    entries, wrong = {}, []
    for path in sorted(ENTRIES.glob("*.json")):
        try:
            entries[path.stem] = json.loads(path.read_text())
        except ValueError as error:
            wrong.append(f"{path.name}: it is not JSON: {error}")
            continue
        wrong += [f"{path.name}: {words}" for words in problems(entries[path.stem], path.stem)]
    if wrong:
        raise SystemExit("\n".join(wrong))
    (RESULTS / "leaderboard.md").write_text(table(entries))


def problems(entry: Any, name: str) -> list[str]:
    """What does not fit the schema, a few words each.

    Args:
      entry: what a file holds.
      name: the name of the file, without .json.

    >>> problems({"schema_version": 1}, "net")[0]
    'model is missing: it is the name of the file, without .json'
    """
    wrong = _unfit(entry, MODEL, "")
    if isinstance(entry, dict):
        if _text(entry.get("model")) and entry["model"] != name:
            wrong.append(f"model is {entry['model']!r}, but the file is called {name}")
        if isinstance(entry.get("planted"), dict):
            wrong += _unfit(entry["planted"], PLANTED, "planted.")
        for k, run in enumerate(entry["runs"] if isinstance(entry.get("runs"), list) else []):
            wrong += _unfit(run, RUN, f"runs[{k}].")
    return wrong


def _unfit(value: Any, schema: Schema, place: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{place.rstrip('.') or 'the whole'} must be an object"]
    wrong = [f"{place}{key} is unknown" for key in value if key not in schema]
    for key, (fits, words) in schema.items():
        if key not in value:
            wrong.append(f"{place}{key} is missing: it is {words}")
        elif not fits(value[key]):
            wrong.append(f"{place}{key} must be {words}, not {value[key]!r}")
    return wrong


def outcome(planted: dict[str, Any] | None, run: dict[str, Any]) -> str:
    """What a run got right, in words.

    >>> outcome({"targets": [3]}, {"named": [3, 5], "verdict": "backdoor"})
    'found, and 1 wrong'
    """
    if run["verdict"] == "inconclusive":
        return "inconclusive"
    targets = set() if planted is None else set(planted["targets"])
    hits, others = targets & set(run["named"]), set(run["named"]) - targets
    if planted is None:
        return f"false alarm ({len(others)} named)" if others else "rightly clear"
    if not hits:
        return f"missed, and {len(others)} wrong" if others else "missed"
    found = "found" if hits == targets else f"found {len(hits)} of {len(targets)}"
    return f"{found}, and {len(others)} wrong" if others else found


def table(entries: dict[str, Any]) -> str:
    """The table as Markdown: backdoored models first, those that stand out most in front."""
    lines = []
    rows = [(entry, run) for entry in entries.values() for run in entry["runs"]]
    said = [outcome(entry["planted"], run) for entry, run in rows]
    planted = [words for (entry, _), words in zip(rows, said, strict=True) if entry["planted"]]
    clean = [words for (entry, _), words in zip(rows, said, strict=True) if not entry["planted"]]
    order = sorted(
        range(len(rows)),
        key=lambda k: (rows[k][0]["planted"] is None, -(rows[k][1]["standing"] or 0.0)),
    )
    for k in order:
        entry, run = rows[k]
        what = entry["planted"]["what"] if entry["planted"] else "nothing"
        standing = "-"
        if run["standing"] is not None:
            standing = f"{run['standing']:.2f} (class {run['standing_class']}, "
            standing += f"{run['standing_space']})"
        cells = [
            entry["model"], entry["architecture"], what, run["verdict"],
            ", ".join(map(str, run["named"])) or "-", said[k], standing, f"{run['queries']:,}",
            run["versions"]["restore-jax"], run["device"],
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    head = (
        "model", "network", "planted", "verdict", "named", "outcome", "largest standing", "images",
        "restore-jax", "device",
    )  # fmt: skip
    right = sum(words in ("found", "rightly clear") for words in said)
    return "\n".join(
        [
            "# Models, one file each",
            "",
            "Made by `python benchmarks/leaderboard.py` from `benchmarks/entries/`. To add a "
            "model of yours, see [the schema](../README.md#entries).",
            "",
            f"{len(rows)} runs of {len(entries)} models. All right: {right}. Of {len(planted)} on "
            f"backdoored models every planted class and no other is named in "
            f"{planted.count('found')}; of {len(clean)} on clean ones "
            f"{len(clean) - clean.count('rightly clear')} end with a class named or without an "
            "answer.",
            "",
            f"| {' | '.join(head)} |",
            "|---" * len(head) + "|",
            *lines,
            "",
        ]
    )


if __name__ == "__main__":
    main()
