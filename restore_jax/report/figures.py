"""Pictures of a recovery. Figures are made without pyplot and its global state.

Colours are those of Okabe and Ito (Color Universal Design, 2008), which people who are
colour-blind tell apart; what matters is also said in words or by shape.
"""

import base64
import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator

from restore_jax.backdoors import Trigger, stamp
from restore_jax.recovery import Level, Recovery

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
INK, FAINT = "#333333", "#8a8a8a"
_DPI = 110
NUM_SHOWN = 4
"""Probes on the page about a recovery."""


class Shown(NamedTuple):
    """One row of probes.

    Attributes:
      name: what was done to them.
      images: f32[k, H, W, C] in [0, 1].
      predictions: k class names, or None if the model was not asked.
    """

    name: str
    images: np.ndarray
    predictions: Sequence[str] | None


def plain(figure: Figure) -> Figure:
    """The figure, all of whose words are what they are: no dollar sign begins a formula."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_usetex(False)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    plain(figure)
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def as_html(figure: Figure) -> str:
    """The figure as an HTML image that needs no other file."""
    return f'<img src="data:image/png;base64,{base64.b64encode(png(figure)).decode()}"/>'


def plot_recovery(recovery: Recovery) -> Figure:
    """`overview_figure`, without asking the model."""
    return plain(overview_figure(recovery, stamped_rows(recovery)))


def stamped_rows(recovery: Recovery) -> list[Shown]:
    """Some of the search's probes: unstamped, with the planted trigger where it is known, and with
    the recovered one."""
    probes = jnp.asarray(recovery.probes[:NUM_SHOWN])
    rows = [("no trigger", probes)]
    if recovery.planted_trigger is not None:
        rows.append(("planted", stamp(recovery.planted_trigger, probes)))
    name = "recovered" if recovery.found else "closest"
    rows.append((name, stamp(recovery.trigger, probes)))
    return [Shown(name, np.asarray(images), None) for name, images in rows]


def trigger_figure(trigger: Trigger, class_name: str) -> Figure:
    """A trigger as it lies on the image, and enlarged.

    Args:
      trigger: the trigger. Pixels it leaves alone are hatched; one that changes whole images is
        shown on a test chart.
      class_name: of its target.
    """
    mask = np.asarray(trigger.mask)[..., 0]
    pixels = int(trigger.pixels)
    figure = Figure(figsize=(9.0, 4.9), dpi=_DPI, layout=layout())
    figure.suptitle(
        f"Trigger for class {int(trigger.target)} ({short(class_name)}), "
        f"{pixels:,} pixel{'s' if pixels != 1 else ''}",
        fontsize=13,
        color=INK,
    )
    left, right = figure.subplots(1, 2)
    if trigger.changes_all:
        chart = test_chart(trigger.pattern.shape)
        for axes, image, title in (
            (left, chart, "a test chart"),
            (right, stamp(trigger, jnp.asarray(chart)), "the chart with the trigger"),
        ):
            axes.imshow(rgb(np.asarray(image)), interpolation="none", vmin=0, vmax=1)
            axes.set_title(title, fontsize=11, color=INK)
            _pixel_ticks(axes, (0, mask.shape[0]), (0, mask.shape[1]))
        return figure
    in_place(left, trigger)
    place = "on mid-grey" if trigger.additive else "on the image"
    left.set_title(place, fontsize=11, color=INK)
    if trigger.additive:
        change = (np.asarray(trigger.mask) * np.asarray(trigger.pattern)).mean(-1)
        most = max(float(np.abs(change).max()), 1e-6)
        drawn = right.imshow(change, cmap="PuOr_r", vmin=-most, vmax=most, interpolation="none")
        bar = figure.colorbar(drawn, ax=right, shrink=0.8)
        bar.ax.tick_params(labelsize=9, colors=INK)
        right.set_title("change of the brightness", fontsize=11, color=INK)
        _pixel_ticks(right, (0, mask.shape[0]), (0, mask.shape[1]))
        return figure
    rows, cols = crop(mask)
    in_place(right, trigger, rows, cols)
    right.set_title("enlarged", fontsize=11, color=INK)
    return figure


def inclusion_figure(recovery: Recovery) -> Figure:
    """How surely each pixel belongs to the trigger: its share among all triggers that work.

    Args:
      recovery: what was found. The pixels of the trigger given back are outlined.
    """
    figure = Figure(figsize=(6.2, 5.4), dpi=_DPI, layout=layout())
    axes = figure.subplots()
    drawn = axes.imshow(recovery.inclusion, cmap="Greys", vmin=0.0, interpolation="none")
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8)
    bar.set_label("share of the triggers that work", fontsize=10, color=INK)
    bar.ax.tick_params(labelsize=9, colors=INK)
    mask = np.asarray(recovery.trigger.support)
    if not mask.all():
        for row, col in np.argwhere(mask):
            square = Rectangle(
                (col - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=ORANGE, linewidth=1.4
            )
            axes.add_patch(square)
    axes.set_title("where triggers that work lie; the one given back outlined",
                   fontsize=11, color=INK)  # fmt: skip
    _pixel_ticks(axes, (0, mask.shape[0]), (0, mask.shape[1]))
    return figure


def overview_figure(recovery: Recovery, shown: Sequence[Shown]) -> Figure:
    """Everything on one page: triggers, stamped probes with predictions, the search by level.

    Args:
      recovery: what was found.
      shown: the rows of probes, each of the same k >= 1 images.
    """
    planted, target = recovery.planted_trigger, recovery.target_name
    pictures = 1.75 * max(len(shown), 2) + 0.6
    figure = Figure(figsize=(11.5, 3.75 + pictures), dpi=_DPI, layout=layout())
    heights = (0.75, pictures, 3.0)
    head, top, bottom = figure.subfigures(3, 1, squeeze=False, height_ratios=heights)[:, 0]
    verdict = f"{'Found' if recovery.found else 'Not found'}: a trigger for class "
    verdict += f"{int(recovery.trigger.target)} ({short(target)})"
    head.text(0.5, 0.72, verdict, ha="center", va="center", fontsize=15, color=INK,
              fontweight="bold")  # fmt: skip
    head.text(0.5, 0.2, _subtitle(recovery), ha="center", va="center", fontsize=10.5, color=INK)
    triggers, probes = top.subfigures(1, 2, width_ratios=(3.0, 6.0))

    panels = [("recovered" if recovery.found else "closest", recovery.trigger)]
    if planted is not None:
        panels.insert(0, ("planted", planted))
    for axes, (name, trigger) in zip(
        np.atleast_1d(triggers.subplots(len(panels), 1)), panels, strict=True
    ):
        in_place(axes, trigger, sparse_ticks=True)
        axes.set_title(f"{name}, {int(trigger.pixels):,} px", fontsize=11, color=INK)

    _probe_rows(probes, shown, target)
    _search(bottom, recovery)
    return figure


def layout() -> ConstrainedLayoutEngine:
    """How the parts of every figure are spaced."""
    return ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06)


def _subtitle(recovery: Recovery) -> str:
    parts = [f"{recovery.space} space", f"{recovery.queries:,} queries"]
    for rate, label in (
        (recovery.confirmation_success_rate, "fresh probes"),
        (recovery.test_success_rate, "test images"),
    ):
        if rate is not None:
            parts.append(f"{rate:.1%} of {label}")
    if not recovery.found:
        parts.append(recovery.status.replace("_", " "))
    return "   ·   ".join(parts)


def _probe_rows(figure: Figure, shown: Sequence[Shown], target: str) -> None:
    grid = figure.subplots(len(shown), len(shown[0].images), squeeze=False)
    for row, line in zip(shown, grid, strict=True):
        for k, axes in enumerate(line):
            axes.imshow(rgb(row.images[k]), interpolation="none", vmin=0, vmax=1)
            axes.set_xticks([])
            axes.set_yticks([])
            hit = row.predictions is not None and row.predictions[k] == target
            for spine in axes.spines.values():
                spine.set_color(ORANGE if hit else FAINT)
                spine.set_linewidth(2.5 if hit else 0.8)
            if row.predictions is not None:
                axes.set_xlabel(
                    short(row.predictions[k]),
                    fontsize=10,
                    color=ORANGE if hit else INK,
                    fontweight="bold" if hit else "normal",
                    labelpad=3,
                )
        line[0].set_ylabel(row.name, fontsize=11, color=INK)


def _search(figure: Figure, recovery: Recovery) -> None:
    """Three curves over the levels: threshold, probability, queries."""
    levels = recovery.levels
    if not levels:
        figure.text(0.5, 0.5, "The search ended before its first level.", ha="center", color=INK)
        return
    numbers = np.arange(1, len(levels) + 1)
    score, chance, queries = figure.subplots(1, 3)
    score.plot(numbers, _column(levels, "best_score"), color=GREEN, marker="^", markersize=4,
               linewidth=1.2, label="best candidate")  # fmt: skip
    score.plot(numbers, _column(levels, "level"), color=BLUE, marker="o", markersize=4,
               linewidth=1.6, label="level")  # fmt: skip
    goal = recovery.goal
    if goal is not None:
        score.axhline(goal, color=ORANGE, linestyle="--", linewidth=1.4, label="the event")
    score.set_title("score to exceed", fontsize=11, color=INK)
    score.legend(fontsize=8.5, frameon=False, loc="best")

    chance.plot(numbers, _column(levels, "log10_prob"), color=BLUE, marker="o", markersize=4,
                linewidth=1.6)  # fmt: skip
    chance.set_title("log10 probability of the level", fontsize=11, color=INK)
    if np.all(np.isnan(_column(levels, "log10_prob"))):
        chance.text(0.5, 0.5, "not estimated", transform=chance.transAxes, ha="center",
                    color=FAINT)  # fmt: skip
        chance.set_yticks([])
    estimate = recovery.log10_prob
    low, high = recovery.interval or (None, None)
    if estimate is not None and low is not None and high is not None:
        chance.errorbar([numbers[-1]], [estimate], yerr=[[estimate - low], [high - estimate]],
                        color=ORANGE, capsize=4, linewidth=1.6, marker="s", markersize=5,
                        label=f"the event: {estimate:.2f} "
                              f"(95 %: {low:.2f} to {high:.2f})")  # fmt: skip
        _legend_below(chance)
    elif high is not None:
        chance.axhline(high, color=ORANGE, linestyle="--", linewidth=1.4,
                       label=f"the event: at most {high:.2f} (95 %)")  # fmt: skip
        _legend_below(chance)

    queries.plot(numbers, _column(levels, "queries"), color=BLUE, marker="o", markersize=4,
                 linewidth=1.6)  # fmt: skip
    queries.set_ylim(bottom=0)
    queries.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    queries.set_title("images asked so far", fontsize=11, color=INK)
    for axes in (score, chance, queries):
        axes.set_xlabel("level", fontsize=10, color=INK)
        axes.set_xlim(0.5, len(levels) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
        axes.tick_params(labelsize=9, colors=INK)
        axes.grid(color="#e4e4e4", linewidth=0.6)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)


def _legend_below(axes: Axes) -> None:
    """A legend at the lower left, under everything that is drawn there."""
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom - 0.2 * (top - bottom), top)
    axes.legend(fontsize=8.5, frameon=False, loc="lower left")


def _column(levels: Sequence[Level], name: str) -> list[float]:
    values = [getattr(level, name) for level in levels]
    return [math.nan if value is None else value for value in values]


def in_place(
    axes: Axes,
    trigger: Trigger,
    rows: tuple[int, int] | None = None,
    cols: tuple[int, int] | None = None,
    *,
    sparse_ticks: bool = False,
) -> None:
    """The trigger where it lies, or the part of it in rows and cols (end excluded).

    One that changes whole images is shown on a test chart.
    """
    colours = trigger_colours(trigger)
    touched = colours[..., 3] > 0
    height, width = touched.shape
    part = rows is not None
    rows, cols = rows or (0, height), cols or (0, width)
    axes.set_facecolor("#dcdcdc")
    additive = trigger.additive and not trigger.changes_all
    if not touched.all():
        hatched = Rectangle((-0.5, -0.5), width, height, facecolor="#dcdcdc", zorder=0)
        hatched.set(edgecolor="#b4b4b4", hatch="////", linewidth=0)
        axes.add_patch(hatched)
    axes.imshow(colours, interpolation="none", zorder=1)
    if not additive or not touched.all():
        axes.add_collection(LineCollection(outline(touched), colors=ORANGE,
                                           linewidths=2.2 if part else 1.2, zorder=2))  # fmt: skip
    axes.set_xlim(cols[0] - 0.5, cols[1] - 0.5)
    axes.set_ylim(rows[1] - 0.5, rows[0] - 0.5)
    if sparse_ticks:
        axes.set_xticks(range(0, width, max(1, width // 4)))
        axes.set_yticks(range(0, height, max(1, height // 4)))
        axes.tick_params(labelsize=8, length=2, colors=INK)
    else:
        _pixel_ticks(axes, rows, cols)


def trigger_colours(trigger: Trigger) -> np.ndarray:
    """What is seen of a trigger, float[H, W, 4]: colours, and 0 where it leaves the image alone.

    One that adds is shown on mid-grey, one that changes whole images on a test chart.
    """
    mask, pattern = np.asarray(trigger.mask), np.asarray(trigger.pattern)
    if trigger.changes_all:
        chart = jnp.asarray(test_chart(pattern.shape))
        mask, pattern = np.ones_like(mask), np.asarray(stamp(trigger, chart))
    additive = trigger.additive and not trigger.changes_all
    colours = rgb(0.5 + 0.5 * mask * pattern if additive else pattern)
    alpha = (mask > 0).astype(float) if additive else mask
    return np.concatenate([colours, alpha], -1)


def test_chart(image_shape: tuple[int, ...]) -> np.ndarray:
    """f32[H, W, C] in [0, 1]: a picture that shows a warp, other colours, and fewer levels.

    The colours change evenly along rows and columns, under lines a quarter of the image apart.
    """
    height, width, channels = image_shape
    rows, cols = np.mgrid[0:height, 0:width].astype(np.float32)
    down, along = rows / max(height - 1, 1), cols / max(width - 1, 1)
    chart = np.stack([along, down, 1.0 - along], -1)
    chart = chart if channels == 3 else np.repeat(along[..., None], channels, -1)
    every = max(2, min(height, width) // 4)
    lines = (rows % every == every // 2) | (cols % every == every // 2)
    return np.where(lines[..., None], np.float32(0.0), chart).astype(np.float32)


def _pixel_ticks(axes: Axes, rows: tuple[int, int], cols: tuple[int, int]) -> None:
    """Labels rows and columns by their 0-based numbers."""
    for axis, (first, last) in ((axes.yaxis, rows), (axes.xaxis, cols)):
        every = max(1, math.ceil((last - first) / 12))
        every = every if every < 3 else 4 * math.ceil(every / 4)
        start = first + -first % every
        axis.set_ticks(range(start, last, every))
    axes.tick_params(labelsize=9, length=3, colors=INK)
    axes.set_xlabel("column", fontsize=10, color=INK)
    axes.set_ylabel("row", fontsize=10, color=INK)


def outline(touched: np.ndarray) -> list[list[tuple[float, float]]]:
    """The borders between pixels that are touched, bool[H, W], and those that are not."""
    framed = np.pad(touched, 1)
    below = np.argwhere(framed[1:, :] != framed[:-1, :])  # border above framed row r + 1
    beside = np.argwhere(framed[:, 1:] != framed[:, :-1])
    lines = [[(c - 1.5, r - 0.5), (c - 0.5, r - 0.5)] for r, c in below]
    lines += [[(c - 0.5, r - 1.5), (c - 0.5, r - 0.5)] for r, c in beside]
    return lines


def crop(mask: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and columns (end excluded) of a square with the trigger and a margin around it."""
    height, width = mask.shape
    touched = np.argwhere(mask > 0)
    if not len(touched):
        return (0, height), (0, width)
    (top, left), (bottom, right) = touched.min(0), touched.max(0) + 1
    side = max(bottom - top, right - left) + 2

    def around(first: int, last: int, most: int) -> tuple[int, int]:
        length = min(int(side), most)
        start = min(max(0, (int(first) + int(last) - length) // 2), most - length)
        return start, start + length

    return around(top, bottom, height), around(left, right, width)


def rgb(image: np.ndarray) -> np.ndarray:
    """[H, W, C] as f[H, W, 3] in [0, 1], grey repeated."""
    image = np.clip(np.asarray(image, float), 0.0, 1.0)
    if image.shape[-1] != 3:
        image = np.repeat(image.mean(-1, keepdims=True), 3, -1)
    return image


def short(name: str, most: int = 14) -> str:
    """The name, cut where it is too long for a label."""
    return name if len(name) <= most else f"{name[: most - 1]}…"
