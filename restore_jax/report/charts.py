"""Curves as SVG inside a page, in its colours."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.ticker import MaxNLocator

from restore_jax.report.markup import Html, tag

_WIDTH, _HEIGHT = 340.0, 230.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 54.0, 14.0, 30.0, 42.0


class Curve(NamedTuple):
    """Points that are joined.

    Attributes:
      xs, ys: of the points; those that are None or not finite are left out.
      colour: "blue", "green", "orange" or "grey".
      name: written at its end; "" for none.
    """

    xs: Sequence[float]
    ys: Sequence[float | None]
    colour: str
    name: str = ""

    def points(self) -> list[tuple[float, float]]:
        """Those that there are."""
        return [
            (float(x), float(y))
            for x, y in zip(self.xs, self.ys, strict=True)
            if y is not None and math.isfinite(x) and math.isfinite(y)
        ]


class Span(NamedTuple):
    """An interval at one place.

    Attributes:
      x: where it stands.
      low, high: its ends.
    """

    x: float
    low: float
    high: float


def chart(
    title: str,
    curves: Sequence[Curve],
    *,
    across: str,
    goal: float | None = None,
    span: Span | None = None,
    falling: bool = False,
    whole: bool = False,
    from_zero: bool = False,
) -> Html:
    """Curves over one another.

    Args:
      title: what goes upwards.
      curves: some; without any point the chart says so.
      across: what goes to the right.
      goal: where a dashed line goes across.
      span: an interval to draw.
      falling: whether numbers fall to the right.
      whole: whether only whole numbers are marked to the right.
      from_zero: whether 0 is shown, too.

    Returns:
      An SVG element.
    """
    drawn = [(curve, curve.points()) for curve in curves]
    xs = [x for _, points in drawn for x, _ in points]
    ys = [y for _, points in drawn for _, y in points]
    if not xs:
        return _frame(title, across, tag("text", "none", x=_WIDTH / 2, y=_HEIGHT / 2,
                                         class_="axis", text_anchor="middle"))  # fmt: skip
    ys += [goal] if goal is not None else []
    ys += [span.low, span.high] if span is not None else []
    ys += [0.0] if from_zero else []
    along, up = _Scale(xs, falling, whole, 6), _Scale(ys, False, False, 5)
    right, top = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            round(_LEFT + along.share(x) * (right - _LEFT), 2),
            round(top - up.share(y) * (top - _TOP), 2),
        )

    parts: list[Html] = []
    for value in up.ticks():
        _, y = place(xs[0], value)
        parts.append(tag("line", x1=_LEFT, x2=right, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", _short(value), x=_LEFT - 6, y=y + 4, class_="axis",
                         text_anchor="end"))  # fmt: skip
    for value in along.ticks():
        x, _ = place(value, ys[0])
        parts.append(tag("text", _short(value), x=x, y=top + 17, class_="axis",
                         text_anchor="middle"))  # fmt: skip
    if goal is not None:
        _, y = place(xs[0], goal)
        parts.append(tag("line", x1=_LEFT, x2=right, y1=y, y2=y, class_="orange dashed"))
    for curve, points in drawn:
        places = [place(*point) for point in points]
        if len(places) > 1:
            parts.append(tag("polyline", class_=curve.colour,
                             points=" ".join(f"{x},{y}" for x, y in places)))  # fmt: skip
        parts += [tag("circle", cx=x, cy=y, r=2.6, class_=curve.colour) for x, y in places]
        if curve.name and places:
            x, y = places[-1]
            parts.append(tag("text", curve.name, x=min(x, right), y=y - 7, class_=curve.colour,
                             text_anchor="end"))  # fmt: skip
    if span is not None:
        x, low = place(span.x, span.low)
        _, high = place(span.x, span.high)
        parts.append(tag("line", x1=x, x2=x, y1=low, y2=high, class_="orange"))
        parts += [tag("line", x1=x - 4, x2=x + 4, y1=y, y2=y, class_="orange") for y in (low, high)]
    return _frame(title, across, *parts)


def _frame(title: str, across: str, *parts: Html) -> Html:
    head = tag("text", title, x=2, y=14)
    foot = tag("text", across, x=(_LEFT + _WIDTH - _RIGHT) / 2, y=_HEIGHT - 5, class_="axis",
               text_anchor="middle")  # fmt: skip
    box = f"0 0 {_WIDTH:g} {_HEIGHT:g}"
    return tag("svg", head, foot, *parts, viewBox=box, class_="chart", role="img",
               aria_label=f"{title}, by {across}")  # fmt: skip


class _Scale:
    """From numbers to shares of an axis."""

    def __init__(self, values: Sequence[float], falling: bool, whole: bool, marks: int):
        low, high = min(values), max(values)
        if low == high:
            room = 0.5 if whole else max(1.0, abs(low))
            low, high = low - room, high + room
        room = 0.0 if whole else 0.05 * (high - low)
        self.low, self.high, self.falling = low - room, high + room, falling
        self._locator = MaxNLocator(nbins=marks, integer=whole, min_n_ticks=2)

    def share(self, value: float) -> float:
        """Where a number lies, from 0 to 1."""
        share = (value - self.low) / (self.high - self.low)
        return 1.0 - share if self.falling else share

    def ticks(self) -> list[float]:
        """Round numbers on the axis."""
        found = self._locator.tick_values(self.low, self.high)
        return [float(value) for value in found if self.low <= value <= self.high]


def _short(value: float) -> str:
    """A mark's number."""
    if abs(value) >= 1e6:
        return f"{value:.3g}"
    return f"{value:,.0f}" if value == round(value) else f"{value:.4g}"
