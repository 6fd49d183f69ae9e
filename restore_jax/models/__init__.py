"""Networks: Flax NNX modules behind pure functions, by name."""

from restore_jax.models.registry import NETWORKS, Network, make_network

__all__ = ["NETWORKS", "Network", "make_network"]
