"""What a result says of the machine and the versions that made it."""

import importlib.metadata
import platform

import jax

PACKAGES = ("restore-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout
            continue
    return found


def device_name() -> str:
    """The device that JAX computes on, as "gpu: NVIDIA H100" or "cpu: x86_64"."""
    device = jax.devices()[0]
    kind = platform.machine() if device.platform == "cpu" else device.device_kind
    return f"{device.platform}: {kind}"
