"""HTML from parts. Text is escaped unless it is an `Html`, which only this room makes.

A page holds all that it shows: its policy lets a browser load nothing and run nothing.
"""

import base64
import html
import io
import re
from collections.abc import Iterable

import numpy as np
from PIL import Image

from restore_jax.report.style import STYLE

_VOID = {"img", "meta", "br"}
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
"""Characters that no HTML file may hold."""


class Html(str):
    """Markup: put into a page as it is."""

    __slots__ = ()


Part = str | None
"""A part of an element: text, `Html`, or nothing."""


def text(words: str) -> Html:
    """Words as they are read, whatever is in them.

    >>> text("<b> & co")
    '&lt;b&gt; &amp; co'
    """
    return Html(html.escape(_UNSEEN.sub("\ufffd", words)))


def tag(name: str, /, *parts: Part, **attributes: str | float | None) -> Html:
    """An element.

    Args:
      name: of the element.
      *parts: what is inside, in order; None: nothing.
      **attributes: by name, with "_" for "-" and one at the end left out; None: not there.

    >>> tag("td", "a < b", class_="number", title=None)
    '<td class="number">a &lt; b</td>'
    """
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    opened = f"<{name}{said}>"
    return Html(opened if name in _VOID else f"{opened}{joined(*parts)}</{name}>")


def joined(*parts: Part) -> Html:
    """Parts after each other."""
    return Html(
        "".join(
            part if isinstance(part, Html) else text(part) for part in parts if part is not None
        )
    )


def named(name: str) -> Html:
    """A name that a model or a user gave: it does not turn the words around it about."""
    return tag("bdi", name)


def number(value: float | None, form: str = "", nothing: str = "–") -> Html:
    """A number, rounded for the eye; the element holds all of its digits.

    >>> number(0.12345, ".1%")
    '<data value="0.12345">12.3%</data>'
    """
    if value is None:
        return Html(nothing)
    whole = isinstance(value, int | np.integer)
    return tag("data", format(value, form), value=repr(int(value) if whole else float(value)))


def table(head: Iterable[Part], rows: Iterable[Iterable[Part]], *, words: int = 1) -> Html:
    """A table.

    Args:
      head: titles of the columns.
      rows: their cells; the first names the row.
      words: how many columns hold words; those after them hold numbers.
    """

    def kind(place: int) -> str | None:
        return None if place < words else "number"

    titles = [tag("th", cell, class_=kind(k), scope="col") for k, cell in enumerate(head)]
    lines = []
    for row in rows:
        first, *others = row
        cells = [tag("td", cell, class_=kind(k)) for k, cell in enumerate(others, 1)]
        lines.append(tag("tr", tag("th", first, scope="row"), *cells))
    inside = tag("table", tag("thead", tag("tr", *titles)), tag("tbody", *lines))
    return tag("div", inside, class_="wide")


def facts(rows: Iterable[tuple[str, Part]]) -> Html:
    """Facts under their names; those that are None are left out."""
    lines = [
        tag("div", tag("dt", name), tag("dd", fact)) for name, fact in rows if fact is not None
    ]
    return tag("dl", *lines, class_="facts")


def section(title: str, *parts: Part) -> Html:
    """A part of a page under a title; nothing where there are no parts."""
    if all(part is None or part == "" for part in parts):
        return Html("")
    return tag("section", tag("h2", title), *parts)


def folded(title: str, *parts: Part) -> Html:
    """What is shown when it is asked for."""
    return tag("details", tag("summary", title), *parts)


def data_uri(image: np.ndarray) -> str:
    """A PNG of float[H, W, 3 or 4] in [0, 1], inside an address."""
    pixels = np.round(255 * np.clip(np.nan_to_num(image), 0.0, 1.0)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def page(title: str, *parts: Part) -> bytes:
    """A whole file."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    body = tag("body", tag("main", *parts))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n".encode()
