"""Writes what `speed.py` measured: tables and a page of plots."""

from pathlib import Path
from typing import Any


def write(result: dict[str, Any], out: Path) -> None:
    """Writes a Markdown file, and beside it a figure if growth was measured."""
    text = ["# Speed", ""]
    for part, section in SECTIONS.items():
        if part in result:
            text += [*section(result[part]), "", footer(result[part]), ""]
    if "scaling" in result:
        plot(result["scaling"], out.with_suffix(".png"))
    out.write_text("\n".join(text).rstrip() + "\n")
    print("\n".join(text))


def footer(part: dict[str, Any]) -> str:
    used = ", ".join(f"{name} {version}" for name, version in part["versions"].items())
    where = f"{part['device']}, {part['cores']} cores"
    return f"{part['date']}, {where}; {used}; made by `{part['command']}`."


def table(columns: list[str], rows: list[list[str]]) -> list[str]:
    head = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return head + [f"| {' | '.join(row)} |" for row in rows]


def of(value: dict[str, float] | None) -> str:
    """A ratio with the least and the most."""
    if value is None:
        return "–"
    return f"{value['median']:.2f} ({value['min']:.2f}–{value['max']:.2f})"


def rates(value: dict[str, float]) -> list[str]:
    return [f"{value['median']:,.0f}", f"{value['min']:,.0f}–{value['max']:,.0f}"]


def scoring(part: dict[str, Any]) -> list[str]:
    side = part.get("product", 2048)
    lines = [
        "## Scoring",
        "",
        f"Ceilings measured on the spot: {part['flops'] / 1e9:,.0f} GFLOP/s of a product of two "
        f"{side:,}x{side:,} matrices in {part['dtype']}, {part['bandwidth'] / 1e9:.1f} GB/s of a "
        "copy of 256 MB. The bound of a network is what its layers would take at these, counting "
        "the multiplications of the plain convolution; a convolution with fewer may pass it.",
        "",
    ]
    columns = ["network", "images a chunk", "GFLOP a chunk", "MB a chunk", "bound, images/s"]
    columns += ["layers limited by memory"]
    rows = [
        [
            name,
            str(one["chunk"]),
            f"{one['gigaflops_per_chunk']:.2f}",
            f"{one['megabytes_per_chunk']:.0f}",
            f"{one['bound']:,.0f}",
            f"{one['limited_by_memory']} of {one['layers']}",
        ]
        for name, one in part["networks"].items()
    ]
    lines += table(columns, rows)
    for name, one in part["networks"].items():
        lines += ["", f"### {name}", ""]
        columns = ["", "images/s, median", "min–max", "of the forward pass"]
        columns += [f"of {one.get('rival') or 'frozen TorchScript'}", "of the bound"]
        rows = [
            [
                who,
                *rates(rate),
                of(rate["of_forward"]),
                of(rate["of_rival"]),
                f"{100 * rate['of_bound']:.0f} %",
            ]
            for who, rate in one["rates"].items()
        ]
        lines += table(columns, rows)
        over = ", ".join(f"{of(value)} for the {loop}" for loop, value in one["overhead"].items())
        lines += [
            "",
            f"{one['particles']} particles, {part['probes']} probes, one level of two moves. Time "
            f"of the loop over time of the bare forward passes of as many images: {over}.",
        ]
        rest = one["rest"]
        lines += [
            f"The same loop around a linear model takes {100 * rest['median']:.1f} % "
            f"({100 * rest['min']:.1f}–{100 * rest['max']:.1f}) of its time: proposals, stamping, "
            "bookkeeping, and a product of each image with ten others.",
            profile(one["profile"]),
        ]
        if one["forward_of"]:
            against = ", ".join(f"{of(v)} of {peer}" for peer, v in one["forward_of"].items())
            lines += [f"The forward pass does {against}."]
    return lines


def profile(found: dict[str, Any]) -> str:
    """What a trace of one level showed."""
    said = f"A trace of one level shows {found['programs']} compiled program(s)"
    if "busy" not in found:
        return said + "."
    longest = ", ".join(f"{name} {100 * share:.0f} %" for name, share in found["longest"])
    return (
        f"{said}, the GPU at work {100 * found['busy']:.1f} % of the time, {found['to_host']} "
        f"copies to the host; most of the time took {longest}."
    )


def training(part: dict[str, Any]) -> list[str]:
    columns = ["resnet8", "images/s, median", "min–max", f"of {part['rival']}"]
    rows = [[who, *rates(rate), of(rate["of_rival"])] for who, rate in part["rates"].items()]
    return [
        "## Training",
        "",
        f"Batches of {part['batch']}. Ours draws, augments and normalises each batch, inside the "
        "program; PyTorch is given one that is ready.",
        "",
        *table(columns, rows),
    ]


def compiling(part: dict[str, Any]) -> list[str]:
    rows = []
    for name, seconds in part["seconds"].items():
        each = [seconds[key] for key in ("compile", "run", "total")]
        rows.append(
            [name, *(f"{one[len(one) // 2]:.1f} ({one[0]:.1f}–{one[-1]:.1f})" for one in each)]
        )
    return [
        "## Compiling",
        "",
        "`restore-jax recover --trigger 1`, each in a process of its own; seconds, medians of "
        "three: of tracing and compiling the search, of running it, and of all from opening the "
        "model to the result.",
        "",
        *table(["", "compile", "run", "total"], rows),
    ]


def scaling(part: dict[str, Any]) -> list[str]:
    memory, bounded = part["megabytes"], part["bounded"]
    levels = ", ".join(f"{mb:,.1f} MB for {n:,}" for n, mb in memory["levels"])
    particles = ", ".join(f"{mb:,.0f} MB for {n:,}" for n, mb in memory["particles"])
    return [
        "## Growing",
        "",
        "![Seconds per level and memory](speed.png)",
        "",
        f"What a whole compiled search (64 probes of 32x32x3, a linear model) needs: by levels "
        f"at most, at 1,024 particles, {levels}; by particles, {particles}. "
        f"{bounded['particles']:,} particles on {bounded['probes']} probes, two levels, "
        f"{bounded['queries']:,} queries: {bounded['seconds']:.0f} s, "
        f"{bounded['most_megabytes']:,.0f} MB of the process at most, "
        f"{bounded['megabytes_before']:,.0f} MB before it ran.",
    ]


def whole(part: dict[str, Any]) -> list[str]:
    lines = ["## Training and recovering, as a user does", ""]
    if not part["measured"]:
        return [*lines, "resnet18: not measured on a GPU."]
    train, recover = part["train"], part["recover"]
    asr = ", ".join(f"{100 * share:.2f} %" for share in train["asr"].values())
    return [
        *lines,
        f"{part['arch']}, {part['epochs']} epochs, {train['seconds']:.0f} s: "
        f"clean {100 * train['clean_accuracy']:.2f} %, ASR {asr}. Recovery: "
        f"found {recover['found']}, {recover['queries']:,} queries, "
        f"{recover['seconds']['compile']:.1f} s of compiling and "
        f"{recover['seconds']['total'] - recover['seconds']['compile']:.1f} s of all else.",
    ]


def sizes(part: dict[str, Any]) -> list[str]:
    """What other chunks and race widths would give, by the number of particles."""
    tables = part["tables"]
    ways = list(next(iter(tables.values())))
    rows = [
        [way, *(f"{of(one[way]['of_forward'])}; {one[way]['images']:,}" for one in tables.values())]
        for way in ways
    ]
    return [
        "## Chunks and race widths",
        "",
        f"resnet20, {part['probes']} probes, one level, racing: images/s over those of the bare "
        f"forward pass in chunks of {part['chunk']}, and images counted, by number of particles.",
        "",
        *table(["", *(f"{number} particles" for number in tables)], rows),
    ]


SECTIONS = {
    "scoring": scoring,
    "training": training,
    "compiling": compiling,
    "scaling": scaling,
    "whole": whole,
    "sizes": sizes,
}


def scaled(axis: Any, ticks: Any) -> None:
    """Logarithmic axes with plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def plot(part: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 7), layout="constrained")
    base = part["base"]
    titles = {
        "particles": "particles (16 probes)",
        "probes": f"probes ({base} particles)",
        "side": f"side of the image, pixels ({base // 2} particles, 16 probes)",
    }
    for axis, (what, title) in zip(axes.flat, titles.items(), strict=False):
        xs, ys = zip(*part["seconds_per_level"][what], strict=True)
        axis.plot(xs, ys, "o-")
        slope = 2 if what == "side" else 1
        axis.plot(xs, [ys[0] * (x / xs[0]) ** slope for x in xs], ":", color="grey")
        scaled(axis, xs)
        axis.set(xlabel=title, ylabel="seconds per level of two moves")
        axis.grid(alpha=0.3)
    axis = axes[1, 1]
    for what, points in part["megabytes"].items():
        axis.plot(*zip(*points, strict=True), "o-", label=f"by {what}")
    scaled(axis, [10, 100, 1024, 4096, 65536])
    axis.set(xlabel="levels at most, particles", ylabel="MB of a whole search (linear model)")
    axis.legend()
    axis.grid(alpha=0.3)
    figure.suptitle("resnet8; dotted: in proportion")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
