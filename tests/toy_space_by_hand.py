"""A search space of somebody else's: one file, and one line that registers it."""

from restore_jax.spaces import Settings, Space, TriggerSpace, make_space

SETTINGS = Settings(num_probes=4, num_particles=32, num_moves=2)


def squares(image_shape: tuple[int, int, int], *, side: int = 2) -> TriggerSpace:
    """Grey squares of one size."""
    inner = make_space("patch", image_shape, min_size=side, max_size=side, channels="grey")
    return inner._replace(name="squares", description={"space": "squares", "side": side})


ENTRY = Space(
    "squares", "toy_space_by_hand:squares", "grey squares of two pixels a side", SETTINGS,
    budget=4_000, scan={"side": 2},
)  # fmt: skip
