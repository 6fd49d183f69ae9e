"""How many images a recovery is expected to send, by what recoveries have sent."""

from restore_jax.spaces.catalogue import Space
from restore_jax.spaces.settings import Settings

CONFIRMING, BESIDE = 250, 32
"""Of what a recovery takes, what comes before and after its search: images, and such for each of
the search's probes; as measured, 890 with 20 probes."""
RACED = 0.85
"""Share of a level's images that are sent: the others are not needed to see a candidate fail."""


def expected(entry: Space, settings: Settings, stop: str) -> float:
    """The images that a recovery takes where there is a trigger of the space's kind.

    Args:
      entry: the space; what a first hit takes there was measured (`Space.typical`). Where it was
        not, a quarter of the space's budget is said.
      settings: how it is searched; more particles take as much more in the search, more probes
        everywhere.
      stop: "estimate" takes the first draws and a level more than "first_hit".

    >>> from restore_jax.spaces import catalogue
    >>> patch = catalogue.find("patch")
    >>> round(expected(patch, patch.settings_for("first_hit"), "first_hit"))
    10000
    >>> round(expected(patch, patch.settings_for("estimate"), "estimate"))
    25638
    """
    usual = entry.settings_for("first_hit")
    n, m = settings.num_particles, settings.num_probes
    typical = entry.budget / 4 if entry.typical is None else entry.typical
    searching = max(0.0, typical - CONFIRMING - BESIDE * usual.num_probes)
    images = min(typical, CONFIRMING + BESIDE * m)
    images += searching * n / usual.num_particles * m / usual.num_probes
    if stop == "estimate":
        images += RACED * n * m * (1 + settings.num_moves)
    return images
