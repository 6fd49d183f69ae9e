"""How many images a recovery is expected to send, by what recoveries have sent."""

from restore_jax.run.estimates import Expected
from restore_jax.spaces.catalogue import Space
from restore_jax.spaces.settings import Settings

CONFIRMING, BESIDE = 250, 32
"""Of what a recovery takes, what comes before and after its search: images, and such for each of
the search's probes; as measured, 890 with 20 probes."""
RACED = 0.85
"""Share of a level's images that are sent: the others are not needed to see a candidate fail."""


def expected(entry: Space, settings: Settings, stop: str) -> Expected:
    """The images that a recovery takes where there is a trigger of the space's kind.

    How rare a trigger is, and so how long the search for it, nobody knows before: networks differ
    a hundredfold. So it is a range, the one that was measured.

    Args:
      entry: the space, and what was measured of it (`Space.typical`). Where nothing was, nothing
        is said but its budget.
      settings: how it is searched; more particles take as much more in the search, more probes
        everywhere.
      stop: where "estimate" was not measured, it is as "first_hit", and the first draws and a level
        more.

    >>> from restore_jax.spaces import catalogue
    >>> patch = catalogue.find("patch")
    >>> expected(patch, patch.settings_for("first_hit"), "first_hit")
    Expected(images=1100.0, low=420.0, high=36000.0, recoveries=155)
    >>> expected(patch, patch.settings_for("estimate"), "estimate").high
    40000.0
    >>> expected(catalogue.find("sparse"), patch.settings, "estimate")
    Expected(images=400000, low=None, high=None, recoveries=0)
    """
    measured, usual = entry.typical, entry.settings_for("first_hit")
    beyond = 0.0
    n, m = settings.num_particles, settings.num_probes
    if stop == "estimate" and entry.typical_estimate is not None:
        measured, usual = entry.typical_estimate, entry.settings_for("estimate")
    elif stop == "estimate":
        beyond = RACED * n * m * (1 + settings.num_moves)
    if measured is None:
        return Expected(entry.budget, recoveries=0)

    def here(images: int) -> float:
        searching = max(0.0, images - CONFIRMING - BESIDE * usual.num_probes)
        beside = min(images, CONFIRMING + BESIDE * m)
        return beside + beyond + searching * n / usual.num_particles * m / usual.num_probes

    low, high = here(measured.low), here(measured.high)
    ranged = low < high
    return Expected(
        here(measured.middle), low if ranged else None, high if ranged else None,
        measured.recoveries,
    )  # fmt: skip
