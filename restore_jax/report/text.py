"""Results in words, for a person: one fact a line."""

import math
from collections.abc import Mapping, Sequence

from restore_jax.backdoors import describe
from restore_jax.diagnosis import BACKDOOR, INCONCLUSIVE, SUSPICIOUS, ClassFinding, Scan
from restore_jax.recovery import Other, Recovery
from restore_jax.report.figures import short
from restore_jax.run import Cost
from restore_jax.types import JSON

MOST_CLASSES = 12
"""In a figure or a table; of more classes those that stand out most."""
_ENDS = {
    "reached": "candidates did it on the search's own probes, but fresh probes did not confirm one",
    "stalled": "no candidate was better than the last level",
    "out_of_levels": "the levels ran out",
    "out_of_queries": "the budget was spent",
    "out_of_time": "the time was over",
    "interrupted": "the search was interrupted",
}


def recovery_lines(recovery: Recovery) -> list[str]:
    """The result of a recovery."""
    return [
        *_verdict(recovery),
        line("probability", probability_words(recovery)),
        line("success", _success(recovery)),
        line("queries", _queries(recovery)),
        *(line("cost", text) for text in cost_lines(recovery.cost)),
        *(line("limit", text) for text in limit_lines(recovery.cost)),
        *(line("asking", text) for text in asking_lines(recovery.cost.asking)),
        line("trigger", describe(recovery.trigger)),
        *_truth(recovery),
        *(line("others", words) for words in others_words(recovery.others)),
        *_time(recovery),
        *(line("note", note) for note in recovery.provenance.notes),
    ]


def foremost(scan: Scan, most: int = MOST_CLASSES) -> list[ClassFinding]:
    """The classes to show, in order: all of a few, else the suspicious and those next to them."""
    if len(scan.classes) <= most:
        return scan.classes
    lowest = -math.inf
    ranked = sorted(
        scan.classes,
        key=lambda f: (not f.suspicious, -(lowest if f.standing is None else f.standing)),
    )
    return sorted(ranked[:most], key=lambda f: f.target)


def scan_title(scan: Scan) -> str:
    """A scan's verdict in a few words, with the classes it names."""
    word = scan.verdict[0].upper() + scan.verdict[1:]
    names = _classes([(f.target, short(f.name)) for f in scan.classes if f.suspicious])
    return f"{word}: {names}" if names else word


def scan_sentence(scan: Scan) -> str:
    """A scan's verdict in one sentence."""
    found = [(f.target, f.name) for f in scan.classes if f.suspicious]
    names, many = _classes(found), len(found) > 1
    if scan.verdict == BACKDOOR:
        return f"backdoor: {'triggers lead' if many else 'a trigger leads'} to {names}"
    if scan.verdict == SUSPICIOUS:
        return f"suspicious: {names} {'stand' if many else 'stands'} out; {scan.reason}"
    if scan.verdict == INCONCLUSIVE:
        return f"inconclusive: {scan.reason}"
    return (
        "nothing found: no class stands out more than those of clean models do; what was "
        "looked for, and how rare it may be, is below"
    )


def _classes(found: Sequence[tuple[int, str]]) -> str:
    """Classes in words; "" for none.

    >>> _classes([(3, "cat"), (6, "frog")]), _classes([(4, "4")])
    ('classes 3 (cat), 6 (frog)', 'class 4')
    """
    words = ", ".join(str(k) if name == str(k) else f"{k} ({name})" for k, name in found)
    return f"class{'es' if len(found) > 1 else ''} {words}" if found else ""


def class_words(number: int, name: str) -> str:
    """A class by number and name; by number alone where it has no name.

    >>> class_words(3, "cat"), class_words(4, "4")
    ('3 cat', '4')
    """
    return str(number) if name == str(number) else f"{number} {name}"


def finding_word(finding: ClassFinding) -> str:
    """What a scan says of one class, in a word or none."""
    if finding.confirmed:
        return "confirmed"
    return "suspicious" if finding.suspicious else ""


def line(name: str, text: str) -> str:
    """A fact under its name."""
    return f"  {name:<12} {text}"


def cost_lines(cost: Cost) -> list[str]:
    """What the images cost, for a person: one line or none."""
    if cost.dollars is None:
        return []
    return [f"${cost.dollars:,.2f} at a price of ${cost.price:,.2f} per 1,000 images"]


def limit_lines(cost: Cost) -> list[str]:
    """Which limit ended the run, if not the budget of images: one line or none."""
    if cost.limit not in ("dollars", "seconds"):
        return []
    return [f"the {cost.limit} that were given ended the run"]


def asking_lines(found: Mapping[str, JSON] | None) -> list[str]:
    """What asking a model from the host took, for a person: one line or none."""
    if found is None:
        return []
    parts = [f"{found['images']:,} images in {found.get('requests', found['calls']):,} requests"]
    if found["images_sent_again"]:
        parts.append(f"{found['images_sent_again']:,} sent again")
    latency = found.get("latency_seconds")
    if latency and latency["median"] is not None:  # nothing was asked that was not kept
        parts.append(f"latency {latency['median']:.3f} s, at most {latency['max']:.3f} s")
    return [", ".join(parts)]


def _verdict(recovery: Recovery) -> list[str]:
    target, probes = f"class {recovery.target} ({recovery.target_name})", "fresh probes"
    if recovery.source is not None:
        probes += f" of class {recovery.source} ({recovery.source_name})"
    confirmed, on_search = recovery.confirmation_success_rate, recovery.probe_success_rate
    if recovery.found:
        lines = [f"found: a trigger that leads {confirmed:.1%} of {probes} to {target}"]
        if recovery.status == "interrupted":
            lines.append(line("search", _ENDS["interrupted"]))
    else:
        best, shown = (
            (on_search, "the search probes") if confirmed is None else (confirmed, "fresh ones")
        )
        closest = "" if best is None else f"; the closest leads {best:.1%} of {shown}"
        said = f"not found: no trigger leads {recovery.success:.0%} of {probes} to {target}"
        if recovery.status == "interrupted":
            said = f"interrupted before a trigger for {target} was confirmed"
        lines = [said + closest]
        end, levels = _ENDS.get(recovery.status, recovery.status), recovery.levels
        if levels and levels[-1].level is not None and recovery.goal is not None:
            end += f"; the last level was {levels[-1].level:.3g} of {recovery.goal:.3g}"
        lines.append(line("search", end))
    if recovery.spaces_tried:
        tried = [f"{one.space} ({one.queries:,} queries)" for one in recovery.spaces_tried]
        lines.append(line("spaces", f"tried {', '.join(tried)}"))
    return lines


def probability_words(recovery: Recovery) -> str:
    """The chance of the event under the prior, in words."""
    prior = f"that a random {recovery.space} trigger does it"
    low, high = recovery.interval or (None, None)
    if recovery.log10_prob is not None:
        between = "" if low is None else f" (95 %: 10^{low:.2f} to 10^{high:.2f})"
        return f"10^{recovery.log10_prob:.2f}{between} {prior}"
    if high is not None:
        return f"at most 10^{high:.2f} (95 %) {prior}"
    return "not estimated"


def _success(recovery: Recovery) -> str:
    rates = {
        "search probes": recovery.probe_success_rate,
        "fresh probes": recovery.confirmation_success_rate,
        "test images": recovery.test_success_rate,
    }
    return ", ".join(f"{name} {rate:.1%}" for name, rate in rates.items() if rate is not None)


def _queries(recovery: Recovery) -> str:
    cost = recovery.cost
    stages = ", ".join(
        f"{name.replace('_', ' ')} {number:,}" for name, number in cost.queries_by_stage.items()
    )
    spent = f"{cost.queries:,} of {cost.budget:,}"
    return f"{spent} ({stages})" if stages else spent


def _truth(recovery: Recovery) -> list[str]:
    truth = recovery.truth
    if truth is None or recovery.planted_trigger is None:
        return []
    planted = describe(recovery.planted_trigger)
    if truth.test_success_rate is not None:
        planted += f"; test images {truth.test_success_rate:.1%}"
    if recovery.planted_trigger.changes_all or recovery.trigger.changes_all:
        same = f"what both do to the probes agrees by {truth.pattern_agreement:.0%} (cosine)"
        return [line("planted", planted), line("agreement", same)]
    rows, cols = truth.shift
    agreement = (
        f"overlap (IoU) {truth.iou:.2f} as it lies; {truth.iou_after_shift:.2f} moved by "
        f"{rows:+d} rows, {cols:+d} columns, where {truth.pattern_agreement:.0%} of the "
        "planted pixels have the same colour"
    )
    return [line("planted", planted), line("agreement", agreement)]


def others_words(others: Sequence[Other]) -> list[str]:
    """What the same search does for other classes, in words; nothing of none."""
    if not others:
        return []
    most = max(other.queries for other in others)
    obeyed = [other for other in others if other.found]
    names = ", ".join(
        other.target_name + ("" if other.log10_prob is None else f" (10^{other.log10_prob:.2f})")
        for other in obeyed
    )
    bounds = [other.interval[1] for other in others if other.interval and not other.found]
    known = [bound for bound in bounds if bound is not None]
    at_most = f"; at most 10^{max(known):.2f} each (95 %)" if known else ""
    if not obeyed:
        text = f"none of {len(others)} searched alike has one within {most:,} images{at_most}"
    elif len(obeyed) == len(others):
        text = f"all {len(others)} searched alike have one, too: {names}"
    else:
        text = f"of {len(others)} searched alike {names} have one, too; the others none within "
        text += f"{most:,} images{at_most}"
    return [text]


def _time(recovery: Recovery) -> list[str]:
    seconds = recovery.cost.seconds
    if not {"total", "compile"} <= seconds.keys():
        return []
    text = f"{seconds['total']:.1f} s, of which {seconds['compile']:.1f} s compiling"
    return [line("time", text)]
