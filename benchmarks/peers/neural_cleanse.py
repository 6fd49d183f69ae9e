"""Neural Cleanse: for every class the smallest mask and pattern that lead to it, by gradients.

Wang, Yao, Shan, Li, Viswanath, Zheng & Zhao 2019, "Neural Cleanse: Identifying and Mitigating
Backdoor Attacks in Neural Networks" (IEEE S&P), section IV. The white-box yardstick: it
differentiates the network and is given real images, neither of which restore_jax asks for.

1. For each class t a mask m in [0, 1] for every pixel and a pattern p in [0, 1], both g(theta) with
   g(x) = (tanh(x) + 1) / 2, minimise by Adam

       mean over images of cross-entropy(model((1 - m) x + m p), t) + lambda |m|_1

   from a uniform random mask and pattern.
2. After each round of steps: where the round led at least `SUCCESS` of its images to t, and the
   mask is the smallest that did so far, it is kept. `PATIENCE` such rounds on end raise lambda,
   as many that fail lower it.
3. A class whose mask is smaller than the median of all by more than twice their (normalised)
   median absolute deviation is accused.

Where the authors' program (github.com/bolunwang/backdoor) departs from this: it begins with
lambda = 0 until five rounds have succeeded, and it stops a class early, once lambda has gone both
ways and the norm no longer falls. Here all classes advance together, for a fixed number of rounds,
and theta is kept within bounds. As there, the images of class t itself count for t too, and a
round's success is counted while its steps change the mask.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from restore_jax.compilation import compiler_options
from restore_jax.oracles import Oracle

Array = jax.Array

# All but `FURTHEST` and `TOGETHER` are those of the authors' program (as set for GTSRB), and so is
# the learning rate; not checked with the paper's text.
SUCCESS = 0.99
"""Share of a round's images that must be led to the class."""

SPARSITY = 1e-3
"""lambda at first, in nats per pixel."""

PATIENCE = 5
"""Rounds on end, all at least `SUCCESS` or all below, after which lambda changes."""

RAISE, LOWER = 2.0, 2.0**1.5
"""Factors by which lambda is then multiplied or divided."""

BETAS = (0.5, 0.9)
"""Adam's decay rates."""

FURTHEST = 5.0
"""Bound on the size of theta, chosen here. At it g is within 5e-5 of its end and still has a
gradient; unbounded, tanh saturates in single precision, and a pixel that is on stays on."""

CONSISTENCY = 1.4826
"""Makes the median absolute deviation of normal numbers their standard deviation."""

ACCUSED = 2.0
"""Anomaly index above which a class is accused."""

TOGETHER = 6
"""Images whose stampings with all triggers are measured in one call: ten classes make 60."""


class Cleansed(NamedTuple):
    """What every class's trigger looks like, and who is accused.

    Attributes:
      norms: f32[K], the L1 norm of each mask, in pixels, in [0, H W].
      masks: f32[K, H, W, 1] in [0, 1], the smallest that attained `SUCCESS` in a round; the last
        one where none did.
      patterns: f32[K, H, W, C] in [0, 1].
      success: f32[K] in [0, 1], share of all images given that mask and pattern lead to the class.
      anomaly: f32[K], see `anomaly_index`.
      accused: the classes whose index is above `ACCUSED`, in ascending order.
    """

    norms: Array
    masks: Array
    patterns: Array
    success: Array
    anomaly: Array
    accused: list[int]


class Theta(NamedTuple):
    """What is learned: masks f32[K, H, W, 1] and patterns f32[K, H, W, C], on the real line."""

    mask: Array
    pattern: Array


class State(NamedTuple):
    """The optimisation of all classes at once.

    Attributes:
      theta: now; `momenta`: Adam's.
      sparsity: f32[K], lambda.
      led: f32[K], share of images led to the class, summed over the round's steps.
      streak: int32[K], rounds on end that succeeded, or minus those that failed.
      best: the theta of the smallest mask that succeeded; `norm`: f32[K], its L1 norm, infinite
        where none did.
    """

    theta: Theta
    momenta: Any
    sparsity: Array
    led: Array
    streak: Array
    best: Theta
    norm: Array


def neural_cleanse(
    oracle: Oracle,
    images: Array,
    key: Array,
    *,
    rounds: int = 100,
    steps: int = 12,
    batch: int = 8,
    learning_rate: float = 0.1,
) -> Cleansed:
    """Reverse-engineers a trigger for every class and accuses those with an outlying one.

    The network sees ``rounds * steps * batch`` images per class, forward and backward. The
    authors' program has up to 1000 rounds of 31 steps of 32 images. The defaults are for a CPU:
    on a small network six times the images, 120 rounds of 16 steps of 32, took the smallest norm
    from 8 to 7 pixels and the median one from 21 to 16.

    Args:
      oracle: with access "logits", differentiable by JAX; `oracle.answer` is differentiated.
      images: f32[N, H, W, C] in [0, 1], clean ones, of all classes.
      key: a PRNG key, consumed; the same key gives the same result.
      rounds: how often the mask may be kept and lambda may change, at least 1.
      steps: Adam's steps per round, at least 1.
      batch: images per step, drawn anew for each and shared by all classes, in 1 .. N.
      learning_rate: Adam's, above 0. The default is the authors' program's.

    Raises:
      ValueError: an argument is out of its range (one sentence).
    """
    _check(oracle, images, rounds, steps, batch, learning_rate)
    classes = jnp.arange(oracle.num_classes)
    optimiser = optax.adam(learning_rate, *BETAS)

    def loss_fn(
        theta: Theta, target: Array, sparsity: Array, some: Array, weights: Any
    ) -> tuple[Array, Array]:
        """One class's loss, and the share of images led to it."""
        mask, pattern = _g(theta.mask), _g(theta.pattern)
        logits = oracle.answer(weights, (1 - mask) * some + mask * pattern)
        entropy = -jnp.mean(jax.nn.log_softmax(logits)[:, target])
        return entropy + sparsity * jnp.sum(mask), jnp.mean(jnp.argmax(logits, -1) == target)

    gradients = jax.vmap(jax.grad(loss_fn, has_aux=True), (0, 0, 0, None, None))

    # One call a step, not a scan over a round: a backward convolution is ten times as slow inside
    # a loop of XLA:CPU.
    @functools.partial(jax.jit, donate_argnums=0, compiler_options=compiler_options())
    def step(state: State, key: Array, number: Array, images: Array, weights: Any) -> State:
        chosen = jax.random.choice(
            jax.random.fold_in(key, number), len(images), (batch,), replace=False
        )
        gradient, led = gradients(state.theta, classes, state.sparsity, images[chosen], weights)
        updates, momenta = optimiser.update(gradient, state.momenta, state.theta)
        moved = optax.apply_updates(state.theta, updates)
        theta = jax.tree.map(lambda x: jnp.clip(x, -FURTHEST, FURTHEST), moved)
        return state._replace(theta=theta, momenta=momenta, led=state.led + led)

    @functools.partial(jax.jit, donate_argnums=0)
    def close(state: State) -> State:
        """Ends a round: keeps what is better, adapts lambda."""
        succeeded = state.led / steps >= SUCCESS
        norm = _norms(_g(state.theta.mask))
        better = succeeded & (norm < state.norm)
        streak = jnp.where(succeeded, jnp.maximum(state.streak, 0), jnp.minimum(state.streak, 0))
        streak = jnp.where(succeeded, streak + 1, streak - 1)
        factor = jnp.where(streak >= PATIENCE, RAISE, jnp.where(streak <= -PATIENCE, 1 / LOWER, 1))
        return state._replace(
            sparsity=state.sparsity * factor,
            led=jnp.zeros_like(state.led),
            streak=jnp.where(jnp.abs(streak) >= PATIENCE, 0, streak),
            best=jax.tree.map(
                lambda new, old: jnp.where(better[:, None, None, None], new, old),
                state.theta,
                state.best,
            ),
            norm=jnp.where(better, norm, state.norm),
        )

    @functools.partial(jax.jit, compiler_options=compiler_options())
    def measure(masks: Array, patterns: Array, images: Array, weights: Any) -> Array:
        def hits(image: Array) -> Array:
            logits = oracle.answer(weights, (1 - masks) * image + masks * patterns)
            return jnp.argmax(logits, -1) == classes

        return jnp.mean(lax.map(hits, images, batch_size=TOGETHER), 0)

    key_start, key_steps = jax.random.split(key)
    theta = _start(key_start, oracle)
    state = State(
        theta=theta,
        momenta=optimiser.init(theta),
        sparsity=jnp.full(len(classes), SPARSITY),
        led=jnp.zeros(len(classes)),
        streak=jnp.zeros(len(classes), jnp.int32),
        best=jax.tree.map(jnp.copy, theta),  # the steps donate the other
        norm=jnp.full(len(classes), jnp.inf),
    )
    for number in range(rounds * steps):
        state = step(state, key_steps, jnp.int32(number), images, oracle.weights)
        if (number + 1) % steps == 0:
            state = close(state)
    never = jnp.isinf(state.norm)[:, None, None, None]
    kept = jax.tree.map(lambda last, best: jnp.where(never, last, best), state.theta, state.best)
    masks, patterns = _g(kept.mask), _g(kept.pattern)
    norms = _norms(masks)
    anomaly = anomaly_index(norms)
    return Cleansed(
        norms=norms,
        masks=masks,
        patterns=patterns,
        success=measure(masks, patterns, images, oracle.weights),
        anomaly=anomaly,
        accused=np.flatnonzero(np.asarray(anomaly) > ACCUSED).tolist(),
    )


def anomaly_index(norms: Array) -> Array:
    """How far each norm f32[K] lies below their median, in normalised deviations; f32[K] >= 0.

    ``(median - norm) / (1.4826 MAD)``, MAD being the median of ``|norm - median|``; 0 where the
    norm is not below the median, for a large mask is no sign of a backdoor. Where more than half
    of the norms are equal, MAD is 0 and any norm below them is infinitely far.
    """
    below = jnp.maximum(jnp.median(norms) - norms, 0.0)
    spread = CONSISTENCY * jnp.median(jnp.abs(norms - jnp.median(norms)))
    return jnp.where(below > 0, below / spread, 0.0)


def _check(
    oracle: Oracle, images: Array, rounds: int, steps: int, batch: int, learning_rate: float
) -> None:
    if oracle.access != "logits":
        raise ValueError(f"the oracle's access is {oracle.access!r}; it must be 'logits'.")
    if images.ndim != 4 or images.shape[0] < 1 or images.shape[1:] != oracle.image_shape:
        raise ValueError(
            f"images have shape {images.shape}; it must be (N, "
            f"{', '.join(map(str, oracle.image_shape))}) with N of at least 1."
        )
    if not bool((images.min() >= 0) & (images.max() <= 1)):
        raise ValueError(
            f"images lie in [{float(images.min()):g}, {float(images.max()):g}]; they must lie in "
            "[0, 1]."
        )
    if rounds < 1 or steps < 1:
        raise ValueError(f"rounds and steps are {rounds} and {steps}; they must be at least 1.")
    if not 1 <= batch <= len(images):
        raise ValueError(f"batch is {batch}; it must lie in 1 .. {len(images)}, the images given.")
    if not learning_rate > 0:
        raise ValueError(f"learning_rate is {learning_rate}; it must be above 0.")


def _start(key: Array, oracle: Oracle) -> Theta:
    """Uniform random masks and patterns, one per class, as g's arguments."""
    height, width, channels = oracle.image_shape
    key_mask, key_pattern = jax.random.split(key)

    def draw(key: Array, depth: int) -> Array:
        shape = (oracle.num_classes, height, width, depth)
        # The ends are left out: g reaches them at infinity only.
        return jnp.arctanh(jax.random.uniform(key, shape, minval=-0.999, maxval=0.999))

    return Theta(draw(key_mask, 1), draw(key_pattern, channels))


def _g(x: Array) -> Array:
    """From the real line to (0, 1)."""
    return (jnp.tanh(x) + 1) / 2


def _norms(masks: Array) -> Array:
    """f32[K], the L1 norms of f32[K, H, W, 1]."""
    return jnp.sum(masks, (1, 2, 3))
