"""Rare events of known probability, for the sampler and for its peers.

Each problem has one definition: a score written in the operations that NumPy and JAX share, a
prior as a tag, and the natural log of the event's probability. Peers run in environments of their
own, so JAX and restore_jax are imported only where the sampler's search space is asked for.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import integrate, stats


class Prior(NamedTuple):
    """Independent standard normal numbers, or a uniform box: the unit cube.

    Attributes:
      law: "normal" or "uniform".
      dim: how many numbers.
    """

    law: str
    dim: int


class Problem(NamedTuple):
    """A score whose event is ``score >= 0``, the prior, and the natural log of its probability.

    Attributes:
      prior: what the particles are drawn from.
      formula: ``(x [n, dim], xp) -> heights [n]``, where ``xp`` is the module that x belongs to:
        `numpy` or `jax.numpy`. The score is the height less ``level``.
      log_prob: the exact natural log-probability of the event.
      level: the height at which the event happens.
      family: problems of one family differ in their level alone; None: no other like it.
    """

    prior: Prior
    formula: Callable[[Any, Any], Any]
    log_prob: float
    level: float = 0.0
    family: str | None = None

    def score(self, x: Any) -> Any:
        """The scores [n] of x [n, dim], an array of NumPy or of JAX (traced or not)."""
        namespace = getattr(x, "__array_namespace__", None)  # NumPy 1 has none
        return self.formula(x, namespace() if namespace else np) - self.level

    @property
    def space(self) -> Any:
        """The prior as a `restore_jax.splitting.SearchSpace`."""
        import jax.numpy as jnp

        from restore_jax.splitting import standard_normal, uniform_box

        if self.prior.law == "normal":
            return standard_normal(self.prior.dim)
        return uniform_box(jnp.zeros(self.prior.dim), jnp.ones(self.prior.dim))


def linear(dim: int, log10: float) -> Problem:
    """A half-space of a standard normal."""
    level = -float(stats.norm.ppf(10.0**log10))
    return Problem(
        Prior("normal", dim),
        lambda x, xp: xp.sum(x, -1) / math.sqrt(dim),
        float(stats.norm.logsf(level)),
        level,
        f"linear, d = {dim}",
    )


def norm(dim: int, log10: float) -> Problem:
    """Outside a ball."""
    square = float(stats.chi2(dim).isf(10.0**log10))
    return Problem(
        Prior("normal", dim),
        lambda x, xp: xp.sum(xp.square(x), -1) - square,
        float(stats.chi2(dim).logsf(square)),
    )


def four_branches(shift: float) -> Problem:
    """A series system: outside a curved band, or beyond either of two lines across it.

    The usual four-branch function (Waarts 2000) in rotated coordinates, ``shift`` further out.
    """
    band = lambda v: 3.0 + shift + 0.2 * v * v  # noqa: E731
    line = 3.5 + shift

    def formula(x: Any, xp: Any) -> Any:
        u, v = x[:, 0], x[:, 1]
        return xp.maximum(xp.abs(u) - band(v), xp.abs(v) - line)

    inside, _ = integrate.quad(
        lambda v: 2 * stats.norm.sf(band(v)) * stats.norm.pdf(v), -line, line, epsabs=0
    )
    return Problem(Prior("normal", 2), formula, math.log(inside + 2 * stats.norm.sf(line)))


def two_modes(dim: int, near: float, far: float) -> Problem:
    """Two opposite half-spaces of different probability."""
    truth = float(np.logaddexp(stats.norm.logsf(near), stats.norm.logsf(far)))
    return Problem(
        Prior("normal", dim),
        lambda x, xp: xp.maximum(x[:, 0] - near, -x[:, 0] - far),
        truth,
    )


def plateaus(coins: int, least: int) -> Problem:
    """At least so many heads: an integer score."""
    return Problem(
        Prior("normal", coins),
        lambda x, xp: (xp.sum(x > 0, -1) - least).astype(xp.float32),
        float(stats.binom(coins, 0.5).logsf(least - 1)),
    )


def corner(dim: int, side: float) -> Problem:
    """A corner of the unit cube."""
    return Problem(
        Prior("uniform", dim),
        lambda u, xp: xp.min(u, -1) - (1.0 - side),
        dim * math.log(side),
    )


def parabola(dim: int, level: float, bend: float) -> Problem:
    """Above a paraboloid."""
    truth, _ = integrate.quad(
        lambda s: stats.norm.sf(level + bend * s) * stats.chi2(dim - 1).pdf(s), 0, 80, epsabs=0
    )
    return Problem(
        Prior("normal", dim),
        lambda x, xp: x[:, 0] - level - bend * xp.sum(xp.square(x[:, 1:]), -1),
        math.log(truth),
    )


PROBLEMS: dict[str, Callable[[], Problem]] = {
    f"linear, d = {dim}, 1e{log10}": lambda dim=dim, log10=log10: linear(dim, log10)
    for dim in (2, 100, 3072)
    for log10 in (-3, -8, -16, -30)
} | {
    "outside a ball, d = 20, 1e-8": lambda: norm(20, -8),
    "four branches, d = 2": lambda: four_branches(1.5),
    "two modes, d = 10": lambda: two_modes(10, 5.0, 5.3),
    "plateaus, 64 coins": lambda: plateaus(64, 56),
    "corner of a cube, d = 6": lambda: corner(6, 0.04),
    "parabola, d = 5": lambda: parabola(5, 3.5, 0.2),
}
"""Builders by name; nothing is computed before one is called."""
