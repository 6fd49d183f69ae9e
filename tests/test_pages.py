"""Reports for a person: one file each, the same figures as the JSON, and words that stay words."""

import dataclasses
import html.parser
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from commands_by_hand import call
from test_report import a_recovery, an_oracle
from test_results import a_full_recovery

from restore_jax.cli.main import Parser
from restore_jax.diagnosis import (
    BACKDOOR,
    INCONCLUSIVE,
    NOTHING,
    SUSPICIOUS,
    ClassFinding,
    ClassLook,
    Scan,
    ScanSettings,
    SpaceLook,
)
from restore_jax.errors import Note
from restore_jax.recovery import Level
from restore_jax.report import (
    recovery_content,
    recovery_page,
    render_recovery,
    render_scan,
    scan_content,
    scan_page,
)
from restore_jax.report.charts import Curve, chart
from restore_jax.report.figures import stamped_rows
from restore_jax.report.markup import tag
from restore_jax.report.purification_page import Example, purification_page
from restore_jax.report.written import shown_rows

ODD_NAMES = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></title><b>",
    "&amp; <!-- ",
    "\u202edrow \x00\x07",
)
REFERENCES = ("src", "href", "action", "data", "poster", "srcset", "background", "xlink:href")


class Read(html.parser.HTMLParser):
    """A page as a browser would take it apart."""

    def __init__(self, page: bytes):
        super().__init__()
        self.tags, self.attributes, self.rows = [], [], []
        self.words, self.values, self.style = "", [], ""
        self._style = self._row = False
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, name, attributes):
        self.tags.append(name)
        self.attributes += [(name, *pair) for pair in attributes]
        self._style = name == "style"
        if name == "tr":
            self._row = True
            self.rows.append(["", []])
        if name == "data":
            self.values.append(float(dict(attributes)["value"]))
            if self._row:
                self.rows[-1][1].append(self.values[-1])

    def handle_endtag(self, name):
        self._style = False
        self._row = self._row and name != "tr"

    def handle_data(self, words):
        if self._style:
            self.style += words
            return
        self.words += words
        if self._row:
            self.rows[-1][0] += words


def check(page):
    """Takes a page apart, after seeing that it needs nothing but itself."""
    read = Read(page)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(read.tags)
    for _, name, value in read.attributes:
        assert not name.startswith("on")
        if name in REFERENCES:
            assert value.startswith("data:image/png;base64,") or re.fullmatch(
                r"class-\d+/report\.html", value
            )
        assert "url(" not in (value or "")
    assert not re.search(r"url\(|@import|expression|https?:", read.style)
    assert ("meta", "content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in (
        read.attributes
    )
    return read


def recovery_report(recovery, oracle=None, command=None):
    return check(recovery_page(recovery, shown_rows(recovery, oracle)(), command))


def a_scan(verdict=BACKDOOR, names=("cat", "dog", "frog"), **changes):
    """A scan that names its first class if the verdict does, and has recovered its trigger."""
    accused = verdict in (BACKDOOR, SUSPICIOUS)
    looks = {
        k: ClassLook(-3.25 - k if k else None, -2.875 - k, k, ((-1.0, -5.0), (-3.0, 1.0 - k)),
                     -9.0, None)
        for k in range(len(names))
    }  # fmt: skip
    recovery = a_recovery(target=0, target_name=names[0], found=verdict == BACKDOOR)
    classes = [
        ClassFinding(k, name, 4.125 - k, "patch", 0.0625 * (k + 1), accused and not k,
                     recovery if accused and not k else None)
        for k, name in enumerate(names)
    ]  # fmt: skip
    values = {
        "verdict": verdict,
        "reason": "" if verdict in (BACKDOOR, NOTHING) else "this is why",
        "interrupted": False,
        "classes": classes,
        "spaces": {"patch": SpaceLook({}, -3.5, looks, -2.625, -2.375, 100)},
        "calibrated": True,
        "false_alarm_rate": 0.125,
        "false_alarm_bound": 0.0625,
        "success": 0.9375,
        "classes_covered": 3,
        "goal": 0.0,
        "settings": ScanSettings(),
        "cost": recovery.cost,
        "provenance": recovery.provenance,
    }
    return Scan(**(values | changes))


def scan_report(scan, command=None):
    rows = {one.target: stamped_rows(one.recovery) for one in scan.classes if one.recovery}
    return check(scan_page(scan, rows, command))


def test_a_recovery_says_the_same_as_its_json():
    recovery = a_full_recovery()
    content, read = recovery_content(recovery), recovery_report(recovery)
    single = ("log10_prob", "confirmation_success_rate", "success", "trigger_pixels", "queries",
              "budget", "seed", "guides")  # fmt: skip
    for name in single:
        assert content[name] in read.values, name
    assert set(content["log10_prob_interval"]) <= set(read.values)
    for stage, number in content["queries_by_stage"].items():
        assert [number] == next(values for words, values in read.rows if words.startswith(stage))
    for k, level in enumerate(content["levels"], 1):
        wanted = [value for value in level.values() if value is not None]
        values = next(
            values for words, values in read.rows if words.startswith(f"{k}{level['level']:.4g}")
        )
        assert sorted(values) == sorted(wanted)
    truth = content["truth"]
    assert {truth["iou"], truth["iou_after_shift"], *truth["shift"]} <= set(read.values)
    (other,) = content["others"]
    assert [other["log10_prob_interval"][1], other["queries"]] in [row[1] for row in read.rows]
    assert "it ends in a softmax" in read.words


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({}, "Found: a trigger for class 2 (a class with a very long name)"),
        ({"found": False, "status": "out_of_queries"}, "Not found: no trigger for class 2"),
        ({"found": False, "status": "interrupted", "levels": ()}, "Interrupted: no trigger"),
        (
            {"found": False, "log10_prob": None, "interval": (None, -2.0), "status": "stalled",
             "levels": (Level(queries=10),), "goal": None},
            "Not found",
        ),
        ({"found": False, "interval": None, "log10_prob": None, "truth": None,
          "planted_trigger": None, "confirmation_success_rate": None}, "Not found"),
    ],
)  # fmt: skip
def test_a_recovery_begins_with_its_verdict(changes, first):
    read = recovery_report(a_recovery(**changes))
    words = " ".join(read.words.split())
    assert words.index(first) < words.index("The trigger")
    assert ("works, not that it was planted" in words) == (first.startswith("Found"))
    assert ("At most" in words or "at most" in words) == (changes.get("interval") == (None, -2.0))


@pytest.mark.parametrize(("space", "shape"), [("sparse", (16, 12, 1)), ("gaussian", (8, 8, 3))])
def test_triggers_of_any_kind_are_shown(space, shape):
    read = recovery_report(a_recovery(space, shape))
    assert sum(tag in ("img", "image") for tag in read.tags) >= 2 + 2 * 4


def test_probes_carry_what_the_model_said():
    read = recovery_report(a_recovery(probes=np.ones((4, 16, 16, 3), np.float32)), an_oracle())
    assert read.words.count("bright") == 3 * 4


@pytest.mark.parametrize(
    "verdict", [BACKDOOR, SUSPICIOUS, NOTHING, INCONCLUSIVE], ids=lambda word: word.split()[0]
)
def test_a_scan_says_the_same_as_its_json(verdict):
    scan = a_scan(verdict)
    content, read = scan_content(scan), scan_report(scan)
    words = " ".join(read.words.split())
    head = words[: words.index("Each class")]
    assert verdict in head.lower()
    assert content["reason"] in head
    assert ("class 0 (cat)" in head.lower()) == bool(content["named"])
    for one in content["classes"]:
        said, values = next(row for row in read.rows if row[0].startswith(f"{one['class']} "))
        seen = one["spaces"]["patch"]
        assert one["name"] in said
        assert ("confirmed" in said) == one["confirmed"]
        assert ("suspicious" in said) == (one["suspicious"] and not one["confirmed"])
        assert values == [
            *(value for value in (seen["log10_prob"], seen["log10_bound"]) if value is not None),
            one["standing"],
            one["false_alarms"],
        ]
    space = content["spaces"]["patch"]
    names = ("log10_certificate", "log10_certificate_draws", "log10_depth", "queries")
    assert [space[name] for name in names] in [row[1] for row in read.rows]
    assert {content["queries"], content["log10_certificate"], content["success"]} <= set(
        read.values
    )


def test_a_scan_that_was_interrupted_says_so():
    nothing = a_scan(INCONCLUSIVE, interrupted=True, spaces={}, classes=[])
    words = scan_report(nothing).words
    assert "The scan was interrupted." in words
    assert "None was looked at to the end." in words


def test_a_scan_of_many_classes_folds_those_that_stand_out_least():
    names = [f"class-of-{k}" for k in range(40)]
    read = scan_report(a_scan(NOTHING, names))
    assert "The other 28 classes" in read.words
    assert all(name in read.words for name in names)


def test_each_recovery_of_a_scan_has_a_page_that_the_scan_names():
    files = render_scan(a_scan(), None, "restore-jax scan --seed 3")
    read = check(files["report.html"])
    links = {value for name, key, value in read.attributes if (name, key) == ("a", "href")}
    assert links == {name for name in files if name.endswith("/report.html")}
    assert "restore-jax scan --seed 3" in check(files["class-0/report.html"]).words


def purified(flagged, interrupted=False, name="cat"):
    content = {
        "flagged": flagged, "num_images": 9, "of_images": 12, "interrupted": interrupted,
        "queries_per_image": 1.5, "seconds": 2.25,
        "flagged_by_class": {name: flagged} if flagged else {},
        "images": "some.npz", "recoveries": ["found"],
    }  # fmt: skip
    recovery = a_recovery(target_name=name)
    examples = [Example(k, np.ones((8, 8, 3)), name, "frog") for k in range(min(flagged, 2))]
    return check(
        purification_page(content, examples, [recovery], recovery.cost, recovery.provenance, "x y")
    )


@pytest.mark.parametrize(("flagged", "interrupted"), [(0, False), (3, False), (3, True)])
def test_a_purification_says_how_many_images_carry_a_trigger(flagged, interrupted):
    read = purified(flagged, interrupted)
    assert f"{flagged} of 9 images carry a trigger" in read.words
    assert ("Interrupted after 9 of 12 images" in read.words) == interrupted
    assert {float(flagged), 9.0, 1.5, 2.25} <= set(read.values)
    assert ("image 0: cat, without the trigger frog" in read.words) == (flagged > 0)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_are_words_whatever_is_in_them(name):
    as_read = re.sub("[\x00\x07]", "\ufffd", name)
    recovery = a_recovery(target_name=name)
    came = dataclasses.replace(recovery.provenance, model=name, probes=name, notes=(name,),
                               model_options={name: name}, versions={name: name})  # fmt: skip
    recovery = dataclasses.replace(recovery, provenance=came, prior={name: name})
    for read in (
        recovery_report(recovery, command=f"restore-jax recover --target '{name}'"),
        scan_report(a_scan(SUSPICIOUS, (name, "b", "c"), reason=name, provenance=came)),
        purified(2, name=name),
    ):
        assert as_read in read.words
        assert not {"b", "script"} & set(read.tags)


def test_a_model_at_an_address_is_named_and_never_called():
    came = dataclasses.replace(a_recovery().provenance, model="https://example.org/model")
    assert "https://example.org/model" in recovery_report(a_recovery(provenance=came)).words


def test_a_page_that_cannot_be_drawn_costs_only_itself(monkeypatch):
    from restore_jax.report import written

    monkeypatch.setattr(written, "recovery_page", lambda *_: 1 / 0)
    with pytest.warns(Note, match=r"report.html could not be drawn"):
        files = render_recovery(a_recovery(), None)
    assert "report.html" not in files
    assert json.loads(files["recovery.json"])["found"]


def test_nothing_is_drawn_with_a_complaint():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recovery_report(a_recovery(inclusion=np.zeros((16, 16), np.float32)))
        scan_report(a_scan(NOTHING))


@pytest.mark.parametrize("ys", [[1.0], [2.0, 2.0], [None, 3.0], [float("nan"), -np.inf], []])
def test_a_chart_stays_inside_its_frame(ys):
    drawn = chart("t", [Curve(range(len(ys)), ys, "blue", "end")], across="x", whole=True)
    width, height = map(float, re.search(r'viewBox="0 0 (\S+) (\S+)"', drawn).groups())
    circles = re.findall(r'cx="(\S+?)" cy="(\S+?)"', drawn)
    assert len(circles) == sum(y is not None and np.isfinite(y) for y in ys)
    assert all(0 < float(x) < width and 0 < float(y) < height for x, y in circles)


def test_what_is_inside_an_element_is_escaped_once():
    assert tag("p", tag("b", "<"), "&", None) == "<p><b>&lt;</b>&amp;</p>"


def test_the_example_in_the_documentation_is_a_report_of_the_recovery_beside_it():
    folder = Path(__file__).parents[1] / "docs" / "examples" / "patch-1"
    read = check((folder / "report.html").read_bytes())
    content = json.loads((folder / "recovery.json").read_text())
    assert {content["log10_prob"], content["queries"], content["trigger_pixels"]} <= set(
        read.values
    )
    assert set(content["log10_prob_interval"]) <= set(read.values)


# The command.


def a_parser():
    parser = Parser(prog="x")
    for flag in ("--out", "--model", "--seed"):
        parser.add_argument(flag)
    for flag in ("--overwrite", "--resume", "--json", "--noisy"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--depth", nargs="+")
    return parser


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ("recover --out a --seed 3 --json", "recover --seed 3"),
        ("--out=a --seed=3 --over --noisy", "--seed=3 --noisy"),
        ("--depth patch=-3 x=-2 --resume --ou b", "--depth patch=-3 x=-2"),
        ("--out", ""),
    ],
)
def test_a_command_is_repeated_without_where_it_wrote(words, left):
    assert a_parser().again(words.split()) == left.split()


def test_a_report_shows_the_command_but_no_key(tmp_path, monkeypatch):
    from restore_jax.cli import inputs

    args = a_parser().parse_args(["--model", "http://host/m?key=secret"])
    oracle = dataclasses.replace(an_oracle(), name="http://host/m")
    for again in (["scan", "--model", args.model], ["scan", f"--model={args.model}"]):
        args.again = again
        assert "secret" not in inputs.command(args, oracle)
        assert "http://host/m" in inputs.command(args, oracle)


def test_the_command_writes_a_report_that_says_how_to_repeat_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("recover", "--model", "python:odd_models_by_hand:plain", "--target", "1", "--budget",
             "3000", "--out", "here", "--json")  # fmt: skip
    code, out, err = call(*words)
    assert code in (0, 3), err
    read = check((tmp_path / "here" / "report.html").read_bytes())
    assert f"restore-jax {' '.join(words[:-3])}\n" in read.words.replace("The same", "\nThe same")
    assert json.loads(out)["queries"] in read.values
