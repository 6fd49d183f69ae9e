"""What a network costs in arithmetic and in memory, and what the machine can do of each.

A layer cannot take less time than its arithmetic at the speed of a large matrix product, nor less
than reading its input and weights and writing its output at the speed of a large copy. The bound
of a network is the sum of its layers' (Williams, Waterman & Patterson 2009, "Roofline").
"""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

PRODUCT = {"cpu": 2048, "gpu": 8192}
"""Rows and columns of the large matrices: a GPU is not kept busy by those that do for a CPU."""
COPIED = 2**26
"""Numbers in the large copy."""


class Ceilings(NamedTuple):
    """What the device does on the spot.

    Attributes:
      flops: floating point operations per second, of a large matrix product.
      bandwidth: bytes per second, read and written, of a large copy.
    """

    flops: float
    bandwidth: float


class Layer(NamedTuple):
    """One convolution or matrix product.

    Attributes:
      what: its operands' shapes.
      flops: multiplications and additions.
      moved: bytes read and written, each input, weight and output once.
    """

    what: str
    flops: float
    moved: float


def product_side() -> int:
    """Rows and columns of the large matrices on the device at hand."""
    return PRODUCT["cpu" if jax.default_backend() == "cpu" else "gpu"]


def ceilings(dtype: Any, repeats: int = 7) -> Ceilings:
    """Measures the device; the best of several, as a ceiling should be."""
    side = product_side()
    square = jnp.ones((side, side), dtype)
    long = jnp.ones(COPIED, jnp.float32)
    product = jax.jit(lambda a: a @ a)
    copy = jax.jit(lambda a: a + 1)
    times = {}
    for name, function, given in (("product", product, square), ("copy", copy, long)):
        jax.block_until_ready(function(given))
        best = np.inf
        for _ in range(repeats):
            start = time.perf_counter()
            jax.block_until_ready(function(given))
            best = min(best, time.perf_counter() - start)
        times[name] = best
    return Ceilings(2.0 * side**3 / times["product"], 8.0 * COPIED / times["copy"])


def layers(function: Any, *args: Any) -> list[Layer]:
    """The convolutions and matrix products that a function of arrays makes."""
    found: list[Layer] = []

    def visit(jaxpr: Any) -> None:
        for eqn in jaxpr.eqns:
            for value in jax.tree.leaves(
                list(eqn.params.values()),
                is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr"),
            ):
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    visit(inner)
            name = eqn.primitive.name
            if name not in ("conv_general_dilated", "dot_general"):
                continue
            left, right = (v.aval for v in eqn.invars[:2])
            out = eqn.outvars[0].aval
            if name == "dot_general":
                (contracted, _), _ = eqn.params["dimension_numbers"]
                each = np.prod([left.shape[d] for d in contracted])
            else:
                features = eqn.params["dimension_numbers"].rhs_spec[0]
                each = np.prod(right.shape) / right.shape[features]
            moved = sum(float(np.prod(a.shape)) * a.dtype.itemsize for a in (left, right, out))
            what = " x ".join("x".join(map(str, a.shape)) for a in (left, right))
            found.append(Layer(what, 2.0 * float(np.prod(out.shape)) * float(each), moved))

    visit(jax.make_jaxpr(function)(*args).jaxpr)
    return found


def least_time(found: list[Layer], limits: Ceilings) -> float:
    """Seconds that the layers take at least."""
    return sum(max(one.flops / limits.flops, one.moved / limits.bandwidth) for one in found)
