"""A purification as one HTML page that needs no other file."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from restore_jax.recovery import Recovery
from restore_jax.report import sections as parts
from restore_jax.report.figures import rgb
from restore_jax.report.markup import (
    Html,
    data_uri,
    facts,
    joined,
    named,
    number,
    page,
    section,
    table,
    tag,
)
from restore_jax.run import Cost, Provenance
from restore_jax.types import JSON

NUM_EXAMPLES = 12
"""Flagged images on a page."""


class Example(NamedTuple):
    """An image that carries a trigger.

    Attributes:
      place: which one it is, from 0.
      image: f32[H, W, C] in [0, 1].
      model: the class that the model gave it.
      purified: the class that stands.
    """

    place: int
    image: np.ndarray
    model: str
    purified: str


def purification_page(
    content: Mapping[str, JSON],
    examples: Sequence[Example],
    recoveries: Sequence[Recovery],
    cost: Cost,
    provenance: Provenance,
    command: str,
) -> bytes:
    """The page about a purification, verdict first.

    Args:
      content: what purification.json holds.
      examples: the first flagged images, at most `NUM_EXAMPLES`.
      recoveries: whose triggers were looked for.
      cost, provenance: of the run.
      command: as for `recovery_page`.

    Returns:
      An HTML file that loads nothing and runs nothing.
    """
    flagged, of = content["flagged"], content["num_images"]
    blind = "blind" in content
    title = f"{flagged:,} of {of:,} images carry a trigger"
    rule = (
        "Of a flagged image the answer without the trigger stands; of all others the model's own."
    )
    if blind:
        title = f"{flagged:,} of {of:,} images are given another class"
        rule = (
            "The answers that stand are those to changed copies of each image: "
            f"{', '.join(content['blind']['looks'])}. An honest image may be flagged, too."
        )
    mood = "doubt" if content["interrupted"] or blind else "alarm" if flagged else "calm"
    return page(
        title,
        parts.header(
            parts.about("purify", provenance),
            title,
            mood,
            tag("p", f"Interrupted after {of:,} of {content['of_images']:,} images.")
            if content["interrupted"] else None,
            tag("p", f"{rule} Every image is in predictions.csv."),
            *(tag("p", f"Warning: {words}") for words in content.get("warnings", ())),
            parts.notes(provenance),
            facts((
                ("images flagged", parts.big(number(flagged, ","))),
                ("images looked at", parts.big(number(of, ","))),
                ("queries per image", parts.big(number(content["queries_per_image"], ".2f"))),
            )),
        ),
        section("By the class that the model gave",
                table(("class", "images flagged"),
                      ((named(name), number(count, ","))
                       for name, count in content["flagged_by_class"].items() if count))
                if flagged else None),
        section("The first images flagged" if len(examples) < flagged else "The images flagged",
                tag("div", *(_example(one, blind) for one in examples), class_="pictures")
                if examples else None),
        *(section(f"The trigger for class {recovery.target} ({recovery.target_name})",
                  parts.description(recovery.trigger),
                  tag("div", *parts.trigger_pictures(recovery.trigger, "recovered"),
                      class_="pictures"))
          for recovery in recoveries if recovery.found),
        parts.cost_section(cost, (("seconds", number(content["seconds"], ",.1f")),)),
        parts.source_section(
            provenance,
            (("images", named(content["images"])),
             ("recoveries", joined(*(tag("div", named(one)) for one in content["recoveries"]))
              if content["recoveries"] else None)),
            {}, tag("pre", tag("code", command)), "purification.json",
        ),
    )  # fmt: skip


def _example(example: Example, blind: bool) -> Html:
    said = joined(
        f"image {example.place}: ", tag("span", named(example.model), class_="named"),
        "; its changed copies: " if blind else ", without the trigger ", named(example.purified),
    )  # fmt: skip
    image = tag("img", src=data_uri(rgb(example.image)), alt=f"image {example.place}")
    return tag("figure", image, tag("figcaption", said))
