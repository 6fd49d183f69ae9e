"""A recovery as one HTML page that needs no other file."""

from collections.abc import Sequence

from restore_jax.recovery import Recovery
from restore_jax.report import sections as parts
from restore_jax.report.charts import Curve, Span, chart
from restore_jax.report.figures import Shown
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
from restore_jax.report.text import others_words, probability_words, recovery_lines


def recovery_page(recovery: Recovery, rows: Sequence[Shown], command: str | None = None) -> bytes:
    """The page about a recovery, verdict first.

    Args:
      recovery: what was found.
      rows: the probes to show, as for `overview_figure`.
      command: what was asked for, as one types it; None: the page shows a call in Python.

    Returns:
      An HTML file that loads nothing and runs nothing.
    """
    title, mood = _verdict(recovery)
    return page(
        title,
        parts.header(
            parts.about("recover", recovery.provenance),
            title,
            mood,
            tag("p", _sentence(recovery)),
            tag("p", parts.WORKS) if recovery.found else tag("p", _scope(recovery)),
            *(tag("p", f"Other classes: {words}.") for words in others_words(recovery.others)),
            parts.notes(recovery.provenance),
            facts(_foremost(recovery)),
        ),
        section("The trigger", trigger_part(recovery)),
        section("On probes", parts.probe_rows(rows, recovery.target_name)),
        _how_rare(recovery),
        _compared(recovery),
        _levels(recovery),
        parts.cost_section(recovery.cost),
        parts.source_section(
            recovery.provenance,
            _asked(recovery),
            recovery.settings,
            parts.again(command, f"recover(\n    model, {recovery.target}", _arguments(recovery)),
            "recovery.json",
        ),
    )


def trigger_part(recovery: Recovery) -> Html:
    """A recovery's trigger, and the planted one where it is known."""
    name = "recovered" if recovery.found else "closest"
    pictures = parts.trigger_pictures(recovery.trigger, name)
    inclusion = parts.inclusion_picture(recovery)
    planted = None
    if recovery.planted_trigger is not None:
        planted = joined(
            tag("h3", "What was planted"),
            parts.description(recovery.planted_trigger),
            tag("div", *parts.trigger_pictures(recovery.planted_trigger, "planted"),
                class_="pictures"),
            _agreement(recovery),
        )  # fmt: skip
    return joined(
        parts.description(recovery.trigger),
        tag("div", *pictures, inclusion, class_="pictures"),
        planted,
    )


def _verdict(recovery: Recovery) -> tuple[str, str]:
    """In a few words, and how they are shown."""
    target = f"class {recovery.target} ({recovery.target_name})"
    if recovery.source is not None:
        target += f", from class {recovery.source} ({recovery.source_name}) alone"
    if recovery.found:
        return f"Found: a trigger for {target}", "alarm"
    if recovery.status == "interrupted":
        return f"Interrupted: no trigger for {target} confirmed", "doubt"
    return f"Not found: no trigger for {target}", "calm"


def _sentence(recovery: Recovery) -> str:
    first = recovery_lines(recovery)[0]
    return f"{first[0].upper()}{first[1:]}."


def _scope(recovery: Recovery) -> str:
    spaces = ", ".join(one.space for one in recovery.spaces_tried) or recovery.space
    return (
        f"This is about the triggers that were searched ({spaces}) and the "
        f"{recovery.queries:,} images spent; others may work."
    )


def _foremost(recovery: Recovery) -> list[tuple[str, Part]]:
    confirmed = recovery.confirmation_success_rate
    rates = [
        ("of fresh probes led there", confirmed),
        ("of the search's probes led there", recovery.probe_success_rate),
        ("of test images led there", recovery.test_success_rate),
    ]
    shown: list[tuple[str, Part]] = [
        (name, parts.big(number(rate, ".1%"))) for name, rate in rates if rate is not None
    ]
    known = parts.estimate(recovery.log10_prob, None if recovery.log10_prob else recovery.interval)
    if known is not None:
        shown.append(("that a random trigger does it", parts.big(known)))
    shown.append(("images sent", parts.big(number(recovery.queries, ","))))
    shown.append(("pixels in the trigger", parts.big(number(recovery.trigger_pixels, ","))))
    return shown


def _how_rare(recovery: Recovery) -> Html:
    words = probability_words(recovery)
    return section(
        "Certificate" if recovery.log10_prob is None else "How rare it is",
        tag("p", f"The event: a trigger leads at least {recovery.success:.0%} of the search's "
            f"probes to the class. Its probability is {words}. It belongs to that kind of "
            "random trigger, and is compared only with others of the same kind."),
        facts((
            ("log10 probability", number(recovery.log10_prob, ".2f")),
            ("95 % interval", _interval(recovery)),
            ("share of probes asked for", number(recovery.success, ".0%")),
            ("guides shown to the search", number(recovery.guides)),
            ("of probes led there when faded", None if recovery.faded_success_rate is None
             else number(recovery.faded_success_rate, ".1%")),
        )),
        folded("The random triggers (the prior)", facts(
            (name, str(value)) for name, value in recovery.prior.items()))
        if recovery.prior else None,
    )  # fmt: skip


def _interval(recovery: Recovery) -> Part:
    low, high = recovery.interval or (None, None)
    if high is None:
        return None
    if low is None:
        return joined("at most ", number(high, ".2f"))
    return joined(number(low, ".2f"), " to ", number(high, ".2f"))


def _agreement(recovery: Recovery) -> Html | None:
    truth = recovery.truth
    if truth is None:
        return None
    rows, cols = truth.shift
    rate = truth.test_success_rate
    return facts((
        ("overlap as it lies (IoU)", number(truth.iou, ".2f")),
        ("overlap when moved", number(truth.iou_after_shift, ".2f")),
        ("moved by", joined(number(rows, "+d"), " rows, ", number(cols, "+d"), " columns")),
        ("agreement of the patterns", number(truth.pattern_agreement, ".0%")),
        ("pixels of the planted one", number(truth.pixels, ",")),
        ("of test images the planted one leads", None if rate is None else number(rate, ".1%")),
    ))  # fmt: skip


def _compared(recovery: Recovery) -> Html:
    others = [
        (
            joined(f"{other.target} ", named(other.target_name)),
            "a trigger works" if other.found else "none found",
            parts.estimate(other.log10_prob, other.interval),
            number(other.queries, ","),
        )
        for other in recovery.others
    ]
    tried = [
        (
            one.space,
            "found" if one.found else "not found",
            parts.estimate(one.log10_prob, one.interval),
            number(one.probe_success_rate, ".1%"),
            number(one.queries, ","),
        )
        for one in recovery.spaces_tried
    ]
    chance = "probability (95 %)"
    return joined(
        section("Other classes, searched alike",
                table(("class", "result", chance, "images"), others, words=2)
                if others else None),
        section("Spaces tried, in turn",
                table(("space", "result", chance, "of its probes led", "images"), tried, words=2)
                if tried else None),
    )  # fmt: skip


def _levels(recovery: Recovery) -> Html:
    levels = recovery.levels
    if not levels:
        return section("The search, level by level", tag("p", "It ended before its first level."))
    numbers = [float(k) for k in range(1, len(levels) + 1)]
    low, high = recovery.interval or (None, None)
    span = Span(numbers[-1], low, high) if low is not None and high is not None else None
    charts = [
        chart("score: the best candidate, and the level",
              [Curve(numbers, [level.best_score for level in levels], "green", "best"),
               Curve(numbers, [level.level for level in levels], "blue", "level")],
              across="level; dashed: the event", goal=recovery.goal, whole=True),
        chart("log10 probability of the level",
              [Curve(numbers, [level.log10_prob for level in levels], "blue")],
              across="level; orange: 95 % of the event", span=span, whole=True),
        chart("images sent by then",
              [Curve(numbers, [level.queries for level in levels], "blue")],
              across="level", whole=True, from_zero=True),
    ]  # fmt: skip
    rows = [
        (
            str(k),
            number(level.level, ".4g"),
            number(level.survival, ".1%"),
            number(level.log10_prob, ".2f"),
            number(level.acceptance, ".0%"),
            number(level.best_score, ".4g"),
            number(level.unique_ancestors, ","),
            number(level.queries, ","),
        )
        for k, level in enumerate(levels, 1)
    ]
    head = ("level", "score to exceed", "survived", "log10 probability", "moves accepted",
            "best score", "ancestors left", "images")  # fmt: skip
    return section(
        "The search, level by level",
        tag("div", *charts, class_="charts"),
        folded("All levels in figures", table(head, rows)),
    )


def _asked(recovery: Recovery) -> list[tuple[str, Part]]:
    return [
        ("class", joined(f"{recovery.target} ", named(recovery.target_name))),
        (
            "from images of",
            None
            if recovery.source is None
            else joined(f"class {recovery.source} ", named(str(recovery.source_name)), " alone"),
        ),
        ("space", recovery.space),
        ("protocol", recovery.protocol),
        ("stop", recovery.stop),
        ("how the search ended", recovery.status.replace("_", " ")),
    ]


def _arguments(recovery: Recovery) -> dict[str, object]:
    """Of a call in Python that asks for the same."""
    came = recovery.provenance
    given: dict[str, object] = {
        **({} if recovery.source is None else {"source": recovery.source}),
        "access": came.access,
        "space": "auto" if recovery.spaces_tried else recovery.space,
        "protocol": recovery.protocol,
        "probes": came.probes,
        "budget": recovery.cost.budget,
        "success": recovery.success,
    }
    if recovery.protocol == "default":
        given |= {"stop": recovery.stop, "compare": len(recovery.others)}
    return given | {"seed": came.seed}
