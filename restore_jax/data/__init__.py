"""Images: CIFAR-10, a data set the package draws, and probes to question a model with."""

from restore_jax.data.errors import DataError

DATASETS = ("cifar10", "shapes")

__all__ = ["DATASETS", "DataError"]
