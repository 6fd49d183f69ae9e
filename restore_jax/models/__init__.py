"""Networks: Flax NNX modules behind pure functions, by name."""

from restore_jax.models.layers import NORM_MOMENTUM
from restore_jax.models.registry import NETWORKS, Network, make_network

__all__ = ["NETWORKS", "NORM_MOMENTUM", "Network", "make_network"]
