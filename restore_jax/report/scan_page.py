"""A scan as one HTML page that needs no other file."""

from collections.abc import Mapping, Sequence

from restore_jax.diagnosis import BACKDOOR, NOTHING, ClassFinding, Scan
from restore_jax.report import sections as parts
from restore_jax.report.charts import Curve, chart
from restore_jax.report.figures import Shown, short
from restore_jax.report.markup import (
    Html,
    Part,
    facts,
    folded,
    joined,
    named,
    number,
    page,
    section,
    table,
    tag,
)
from restore_jax.report.recovery_page import trigger_part
from restore_jax.report.text import finding_word, foremost, scan_sentence, scan_title


def scan_page(scan: Scan, rows: Mapping[int, Sequence[Shown]], command: str | None = None) -> bytes:
    """The page about a scan, verdict first.

    Args:
      scan: what was found.
      rows: for each class with a recovery the probes to show.
      command: as for `recovery_page`.

    Returns:
      An HTML file that loads nothing and runs nothing.
    """
    title = scan_title(scan)
    moods = {BACKDOOR: "alarm", NOTHING: "calm"}
    first = scan_sentence(scan)
    return page(
        title,
        parts.header(
            parts.about("scan", scan.provenance),
            title,
            moods.get(scan.verdict, "doubt"),
            tag("p", f"{first[0].upper()}{first[1:].rstrip('.')}."),
            tag("p", "The scan was interrupted.") if scan.interrupted else None,
            tag("p", parts.WORKS) if scan.targets else None,
            parts.notes(scan.provenance),
            facts(_foremost(scan)),
        ),
        _classes(scan),
        *(_recovered(finding, rows[finding.target]) for finding in scan.classes
          if finding.recovery is not None),
        _certificate(scan),
        _curves(scan),
        parts.cost_section(scan.cost),
        parts.source_section(
            scan.provenance, _asked(scan), _settings(scan),
            parts.again(command, "scan(\n    model", _arguments(scan)), "scan.json",
        ),
    )  # fmt: skip


def _foremost(scan: Scan) -> list[tuple[str, Part]]:
    most = f"{scan.false_alarm_rate:.0%} of clean models like those measured"
    return [
        ("images sent", parts.big(number(scan.queries, ","))),
        ("of any space's random triggers work, at most", parts.big(
            parts.log10(scan.log10_certificate)) if scan.spaces else None),
        ("false alarms", most if scan.calibrated else "not known: no clean model was measured"),
        ("classes that unstamped probes cover", number(scan.classes_covered, ",")),
    ]  # fmt: skip


def _classes(scan: Scan) -> Html:
    shown = foremost(scan)
    named_now = {finding.target for finding in shown}
    rest = [finding for finding in scan.classes if finding.target not in named_now]
    if not scan.classes:
        return section("Classes", tag("p", "None was looked at to the end."))
    return section(
        "Each class",
        tag("p", "By space: log10 of the probability that a random trigger leads there, and the "
            "upper end of its 95 % interval. How far a class stands out has no unit; a class "
            "is named where that is more than clean models allow. The last column: in what share "
            "of clean models some class stands out as much.", class_="note"),
        _class_table(scan, shown),
        folded(f"The other {len(rest):,} classes, which stand out less", _class_table(scan, rest))
        if rest else None,
    )  # fmt: skip


def _class_table(scan: Scan, findings: Sequence[ClassFinding]) -> Html:
    most = max((f.standing or 0.0 for f in scan.classes), default=0.0) or 1.0
    head = ["class", "verdict", *scan.spaces, "stands out", "clean models, at most"]
    rows: list[list[Part]] = []
    for finding in findings:
        cells: list[Part] = []
        for look in scan.spaces.values():
            one = look.classes.get(finding.target)
            if one is None:
                cells.append(number(None))
            elif one.log10_prob is None:
                cells.append(joined("below ", number(one.log10_bound, ".2f")))
            else:
                cells.append(joined(number(one.log10_prob, ".2f"), " (",
                                    number(one.log10_bound, ".2f"), ")"))  # fmt: skip
        rows.append([
            _marked(finding, _class(finding)),
            _marked(finding, finding_word(finding)),
            *cells,
            _marked(finding, _standing(finding, most)),
            number(finding.false_alarms, ".0%"),
        ])  # fmt: skip
    return table(head, rows, words=2)


def _class(finding: ClassFinding) -> Part:
    """Number and name; the number alone where that is its name."""
    if finding.name == str(finding.target):
        return finding.name
    return joined(f"{finding.target} ", named(finding.name))


def _marked(finding: ClassFinding, part: Part) -> Html:
    return tag("span", part, class_="named" if finding.suspicious else None)


def _standing(finding: ClassFinding, most: float) -> Html:
    if finding.standing is None:
        return number(None)
    share = max(finding.standing, 0.0) / most
    bar = tag("span", class_="bar", style=f"--share: {share:.3f}")
    return joined(bar, number(finding.standing, ".2f"), f" {finding.space}")


def _recovered(finding: ClassFinding, rows: Sequence[Shown]) -> Html:
    recovery = finding.recovery
    assert recovery is not None
    confirmed = recovery.confirmation_success_rate
    word = "confirmed on fresh probes" if finding.confirmed else "not confirmed"
    return section(
        f"Class {finding.target} ({finding.name}): a {recovery.space} trigger, {word}",
        facts((
            ("of fresh probes led there",
             None if confirmed is None else parts.big(number(confirmed, ".1%"))),
            ("pixels in the trigger", parts.big(number(recovery.trigger_pixels, ","))),
            ("images sent for it", parts.big(number(recovery.queries, ","))),
        )),
        trigger_part(recovery),
        tag("h3", "On probes"),
        parts.probe_rows(rows, finding.name),
        tag("p", tag("a", "All about this trigger", href=f"class-{finding.target}/report.html")),
    )  # fmt: skip


def _certificate(scan: Scan) -> Html:
    if not scan.spaces:
        return Html("")
    rows = [
        (
            name,
            number(look.log10_certificate, ".2f"),
            number(look.log10_certificate_draws, ".2f"),
            number(look.depth, ".2f"),
            number(look.queries, ","),
        )
        for name, look in scan.spaces.items()
    ]
    head = ("space", "certificate", "by plain draws alone", "classes compared at", "images")
    return section(
        "Certificate",
        tag("p", "With 95 % confidence at most this share of a space's random triggers leads the "
            "probes to any class, as log10. The first goes by the sampler's own standard error; "
            "plain draws assume nothing. A rarer trigger may have escaped."),
        table(head, rows),
    )  # fmt: skip


def _curves(scan: Scan) -> Html:
    charts = []
    for name, look in scan.spaces.items():
        curves = []
        for finding in sorted(foremost(scan), key=lambda finding: finding.suspicious):
            one = look.classes.get(finding.target)
            if one is not None and one.curve:
                depths, levels = zip(*one.curve, strict=True)
                colour = "orange" if finding.suspicious else "grey"
                label = short(finding.name) if finding.suspicious else ""
                curves.append(Curve(depths, levels, colour, label))
        title, across = f"{name}: score that random triggers reach", "log10 probability"
        charts.append(chart(title, curves, across=f"{across}; dashed: the event", goal=scan.goal,
                            falling=True))  # fmt: skip
    return section("How far each class was followed",
                   tag("div", *charts, class_="charts") if charts else None)  # fmt: skip


def _asked(scan: Scan) -> list[tuple[str, Part]]:
    bound = scan.false_alarm_bound
    return [
        ("spaces", ", ".join(scan.spaces) or None),
        ("share of probes asked for", number(scan.success, ".0%")),
        ("false alarm rate asked for", number(scan.false_alarm_rate, ".0%")),
        ("the least that was measured", None if bound is None else number(bound, ".0%")),
    ]


def _settings(scan: Scan) -> dict[str, object]:
    return dict(vars(scan.settings))


def _arguments(scan: Scan) -> dict[str, object]:
    came = scan.provenance
    return {
        "access": came.access,
        "space": list(scan.spaces) or "auto",
        "probes": came.probes,
        "budget": scan.cost.budget,
        "success": scan.success,
        "false_alarm_rate": scan.false_alarm_rate,
        "seed": came.seed,
    }
