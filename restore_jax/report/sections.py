"""Parts that several reports have: pictures, what was asked, how to ask it again."""

import json
from collections.abc import Iterable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from restore_jax.backdoors import Trigger, describe, stamp
from restore_jax.recovery import Recovery
from restore_jax.report.figures import Shown, crop, outline, rgb, test_chart, trigger_colours
from restore_jax.report.markup import (
    Html,
    Part,
    data_uri,
    facts,
    folded,
    joined,
    named,
    number,
    section,
    table,
    tag,
)
from restore_jax.report.text import asking_lines, limit_lines
from restore_jax.run import Cost, Provenance
from restore_jax.types import JSON, Argument

_ORANGE = (0.76, 0.31, 0.04)
WORKS = (
    "Found means that this trigger works, not that it was planted: clean networks obey some "
    "triggers, too."
)


def header(kind: str, verdict: str, mood: str, *parts: Part) -> Html:
    """The verdict, first of all.

    Args:
      kind: which command, and of what.
      verdict: in a few words.
      mood: "alarm", "doubt" or "calm".
      *parts: what else must be read.
    """
    return tag("header", tag("p", kind, class_="kind"), tag("h1", verdict), *parts, class_=mood)


def about(command: str, provenance: Provenance) -> str:
    """The line above a verdict."""
    return f"restore-jax {command} · model {provenance.model}"


def big(value: Part) -> Html:
    """A figure that is read first."""
    return tag("span", value, class_="big")


def trigger_pictures(trigger: Trigger, name: str) -> list[Html]:
    """A trigger where it lies, and enlarged if it is small; on a test chart if it changes all."""
    if trigger.changes_all:
        chart = test_chart(trigger.pattern.shape)
        after = rgb(np.asarray(stamp(trigger, jnp.asarray(chart))))
        return [
            _figure(tag("img", src=data_uri(rgb(chart)), alt="a test chart"), "a test chart"),
            _figure(tag("img", src=data_uri(after), alt=f"{name}, on the chart"),
                    f"the chart with the {name} trigger"),
        ]  # fmt: skip
    mask = np.asarray(trigger.mask)[..., 0]
    height, width = mask.shape
    pictures = [_figure(_drawn(trigger, (0, height), (0, width), name), f"{name} trigger")]
    rows, cols = crop(mask)
    if rows[1] - rows[0] <= height // 2:
        place = f"rows {rows[0]}:{rows[1]}, columns {cols[0]}:{cols[1]}"
        pictures.append(_figure(_drawn(trigger, rows, cols, name), f"enlarged: {place}"))
    return pictures


def inclusion_picture(recovery: Recovery) -> Html | None:
    """In what share of the triggers that work each pixel takes part; nothing if there are none."""
    most = float(recovery.inclusion.max(initial=0.0))
    if most <= 0:
        return None
    shares = np.clip(recovery.inclusion / most, 0.0, 1.0)[..., None]
    colour = np.broadcast_to(np.asarray(_ORANGE), (*shares.shape[:2], 3))
    image = tag("img", src=data_uri(np.concatenate([colour, shares], -1)), class_="map",
                alt="shares of triggers by pixel")  # fmt: skip
    said = joined("where triggers that work lie: full colour in ", number(most, ".0%"))
    return _figure(image, said)


def probe_rows(rows: Sequence[Shown], target: str) -> Html:
    """Probes as they are and stamped, with what the model says of them where it was asked."""
    cells: list[Html] = []
    for row in rows:
        cells.append(tag("p", row.name))
        for k, image in enumerate(row.images[:4]):
            said = None if row.predictions is None else row.predictions[k]
            picture = tag("img", src=data_uri(rgb(image)), alt=f"probe {k + 1}, {row.name}")
            caption = None if said is None else tag("figcaption", named(said))
            hit = "hit" if said == target else None
            cells.append(tag("figure", picture, caption, class_=hit))
        cells += [tag("span")] * (4 - len(row.images[:4]))
    return tag("div", *cells, class_="probes")


def log10(value: float | None) -> Html:
    """A probability by its decimal logarithm."""
    return joined("10", tag("sup", number(value, ".2f"))) if value is not None else number(None)


def estimate(
    value: float | None, interval: tuple[float | None, float | None] | None
) -> Html | None:
    """A probability with its interval, or its bound; nothing where nothing is known."""
    low, high = interval or (None, None)
    if value is None:
        return None if high is None else joined("at most ", log10(high))
    if low is None:
        return log10(value)
    return joined(log10(value), " (", log10(low), " to ", log10(high), ")")


def description(trigger: Trigger) -> Html:
    """What a trigger does, in words."""
    return tag("p", describe(trigger), class_="note")


def cost_section(cost: Cost, spent: Iterable[tuple[str, Part]] = ()) -> Html:
    """What was asked, and what it cost."""
    stages = [*dict.fromkeys((*cost.queries_by_stage, *cost.seconds_by_stage))]
    rows = [
        (
            stage.replace("_", " "),
            number(cost.queries_by_stage.get(stage), ","),
            number(cost.seconds_by_stage.get(stage), ",.1f"),
        )
        for stage in stages
    ]
    seconds = [(f"seconds, {name}", number(value, ",.1f")) for name, value in cost.seconds.items()]
    asked = [("images sent", number(cost.queries, ",")), ("budget", number(cost.budget, ","))]
    if cost.dollars is not None:
        asked += [("dollars", number(cost.dollars, ",.2f"))]
    return section(
        "What was asked, and what it cost",
        facts((*asked, *seconds, *spent)),
        table(("stage", "images", "seconds"), rows) if rows else None,
        *(tag("p", words, class_="note") for words in asking_lines(cost.asking)),
        *(tag("p", words, class_="note") for words in limit_lines(cost)),
    )


def source_section(
    provenance: Provenance,
    more: Iterable[tuple[str, Part]],
    settings: Mapping[str, JSON],
    again: Part,
    file: str,
) -> Html:
    """What the result came from, and how to get it again.

    Args:
      provenance: of the result.
      more: facts about how it was looked.
      settings: by name.
      again: the command, or the call in Python.
      file: the JSON file that lies beside the page.
    """
    asked = (
        ("model", named(provenance.model)),
        ("asked for", provenance.access),
        ("probes", named(provenance.probes)),
        ("seed", number(provenance.seed)),
    )
    options = {**settings, **{f"model: {k}": v for k, v in provenance.model_options.items()}}
    return section(
        "How to repeat it",
        again,
        tag("p", "The same seed gives the same result with the same versions on the same kind of "
            f"device. All figures of this page are in {file} beside it.", class_="note"),
        facts((*asked, *more, ("device", provenance.device or None))),
        folded("Settings and versions",
               table(("setting", "value"), _words(options), words=2) if options else None,
               table(("package", "version"), _words(provenance.versions), words=2)),
    )  # fmt: skip


def again(command: str | None, call: str, arguments: Mapping[str, Argument]) -> Html:
    """The command that was given; without one the call in Python that asks for the same."""
    if command is not None:
        return tag("pre", tag("code", command))
    said = "".join(f",\n    {name}={value!r}" for name, value in arguments.items())
    return tag("pre", tag("code", f"import restore_jax\n\nrestore_jax.{call}{said},\n)"))


def notes(provenance: Provenance) -> Html | None:
    """What was seen of the model that a reader should know."""
    return joined(*(tag("p", f"Note: {note}") for note in provenance.notes)) or None


def _words(some: Mapping[str, JSON]) -> list[tuple[str, str]]:
    return [
        (name, value if isinstance(value, str) else json.dumps(value, default=str))
        for name, value in some.items()
    ]


def _drawn(trigger: Trigger, rows: tuple[int, int], cols: tuple[int, int], name: str) -> Html:
    """A part of a trigger, with the border of what it touches."""
    colours = trigger_colours(trigger)
    height, width = colours.shape[:2]
    image = tag("image", href=data_uri(colours), x=0, y=0, width=width, height=height)
    touched = np.asarray(trigger.mask)[..., 0] > 0
    border = None
    if not touched.all():
        lines = (f"M{a + 0.5:g} {b + 0.5:g}L{c + 0.5:g} {d + 0.5:g}"
                 for (a, b), (c, d) in outline(touched))  # fmt: skip
        border = tag("path", d="".join(lines))
    box = f"{cols[0]} {rows[0]} {cols[1] - cols[0]} {rows[1] - rows[0]}"
    return tag("svg", image, border, viewBox=box, class_="trigger", role="img",
               aria_label=f"{name} trigger")  # fmt: skip


def _figure(picture: Html, caption: Part) -> Html:
    return tag("figure", picture, tag("figcaption", caption))
