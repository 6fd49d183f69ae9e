"""B3D: natural evolution strategies on a relaxed mask and pattern.

Dong, Yang, Deng, Pang, Xiao, Su & Zhu 2021, "Black-box Detection of Backdoor Attacks with Limited
Information and Data" (ICCV), arXiv 2103.13127. With g(x) = (tanh(x) + 1) / 2 a trigger is a mask
m ~ Bernoulli(g(theta_m)) over all pixels and a pattern p = g(theta_p + sigma e), e ~ N(0, 1), in
all channels. What is minimised over theta is the mean of

    F(m, p) = mean over probes of cross-entropy(model((1 - m) x + m p), target) + lambda |m|_1

by stochastic search gradients of k samples each, the other half of the trigger at its mean:

    mask:     1/k sum_j F(m_j, g(theta_p)) 2 (m_j - g(theta_m))
    pattern:  1/(k sigma) sum_j F(g(theta_m), g(theta_p + sigma e_j)) e_j

with Adam. It searches this space of its own; of the space given it takes nothing.

Chosen here: the mean over the k samples is subtracted from F, which leaves the expected gradient's
direction as it is and takes out most of its noise; each step shows one probe, the same to all of
its samples, for with all probes a step would cost a large share of a budget; lambda stays as it
is, for the search ends at the first event, where a schedule would begin to raise it. The event is
looked for every few steps: mask g(theta_m) > 1/2, pattern g(theta_p), shown all probes.

A budget that does not pay for the steps up to the next look and the look itself ends the search.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from peers.trigger_search import Args, Outcome, check, hits, nothing, together

from restore_jax.backdoors import Trigger
from restore_jax.compilation import compiler_options
from restore_jax.oracles import Oracle
from restore_jax.racing import needed
from restore_jax.spaces import TriggerSpace

Array = jax.Array

SAMPLES = 50
"""k, for the mask and again for the pattern. Taken to be the paper's, not checked with its text."""

SIGMA = 0.1
"""Standard deviation of the pattern's samples. As `SAMPLES`, not checked."""

LEARNING_RATE = 0.05
"""Adam's. As `SAMPLES`, not checked."""

PROBES_PER_STEP = 1
"""Probes that each sample of a step is shown, drawn anew for each step. Chosen here: on the
packaged model four took twice the images."""

SPARSITY = 1e-3
"""lambda, in nats per pixel. Chosen here: a mask over a 32 x 32 image costs one nat."""

MASK_START = 0.0
"""theta_m at first. Chosen here: every pixel is as likely on as off."""

STEPS_PER_LOOK = 10
"""Steps between two looks for the event, each of which costs m images. Chosen here."""


class Theta(NamedTuple):
    """What is learned: the mask's f32[H, W, 1] and the pattern's f32[H, W, C]."""

    mask: Array
    pattern: Array


def search(
    key: Array,
    oracle: Oracle,
    space: TriggerSpace,
    target: int,
    probes: Array,
    budget: int,
    success: float = 0.95,
) -> Outcome:
    """Steps until the thresholded trigger makes the event; see `trigger_search`."""
    del space
    check(oracle, target, probes, budget, success)
    height, width, channels = oracle.image_shape
    m = probes.shape[0]
    wanted = needed(success, m)
    shown = min(PROBES_PER_STEP, m)
    group = together(SAMPLES, shown)
    step_cost = 2 * SAMPLES * shown
    optimiser = optax.adam(LEARNING_RATE)

    def losses(masks: Array, patterns: Array, some: Array, args: Args) -> Array:
        """F f32[k] of masks [k, H, W, 1] or [1, H, W, 1] and patterns, likewise."""

        def ask(_: None, first: Array) -> tuple[None, Array]:
            mask, pattern = (
                x if x.shape[0] == 1 else lax.dynamic_slice_in_dim(x, first, group)
                for x in (masks, patterns)
            )
            mask, pattern = mask[:, None], pattern[:, None]
            images = (1 - mask) * some + mask * pattern
            logits = oracle.answer(args.weights, images.reshape(-1, *images.shape[2:]))
            return None, -jax.nn.log_softmax(logits)[:, args.target].reshape(group, shown)

        _, entropies = lax.scan(ask, None, jnp.arange(0, SAMPLES, group))
        penalty = SPARSITY * jnp.sum(masks, (1, 2, 3))
        return jnp.mean(entropies.reshape(SAMPLES, shown), -1) + penalty

    def step(carry: tuple[Theta, Any], key: Array, args: Args) -> tuple[tuple[Theta, Any], None]:
        theta, momenta = carry
        key_probes, key_mask, key_pattern = jax.random.split(key, 3)
        some = jax.random.choice(key_probes, args.probes, (shown,), replace=False)
        mask = _g(theta.mask)
        masks = jax.random.bernoulli(key_mask, mask, (SAMPLES, *mask.shape)).astype(jnp.float32)
        noise = jax.random.normal(key_pattern, (SAMPLES, *theta.pattern.shape))
        of_masks = losses(masks, _g(theta.pattern)[None], some, args)
        of_patterns = losses(mask[None], _g(theta.pattern + SIGMA * noise), some, args)
        gradient = Theta(
            jnp.tensordot(_centred(of_masks), 2 * (masks - mask), 1) / SAMPLES,
            jnp.tensordot(_centred(of_patterns), noise, 1) / (SAMPLES * SIGMA),
        )
        updates, momenta = optimiser.update(gradient, momenta, theta)
        return (optax.apply_updates(theta, updates), momenta), None

    def advance(
        key: Array, theta: Theta, momenta: Any, args: Args
    ) -> tuple[Theta, Any, Trigger, Array]:
        """Some steps, then a look: the thresholded trigger and how many probes it leads."""
        keys = jax.random.split(key, STEPS_PER_LOOK)
        (theta, momenta), _ = lax.scan(lambda c, k: step(c, k, args), (theta, momenta), keys)
        mask = (_g(theta.mask) > 0.5).astype(jnp.float32)
        trigger = Trigger(mask, mask * _g(theta.pattern), args.target)
        led = jnp.sum(hits(oracle, trigger, args), dtype=jnp.int32)
        return theta, momenta, trigger, led

    looks = jax.jit(advance, compiler_options=compiler_options())
    theta = Theta(jnp.full((height, width, 1), MASK_START), jnp.zeros((height, width, channels)))
    momenta = optimiser.init(theta)
    cost = STEPS_PER_LOOK * step_cost + m
    args = Args(oracle.weights, probes, jnp.int32(target))
    queries, most, trigger = 0, 0, nothing(oracle.image_shape, target)
    while most < wanted and queries + cost <= budget:
        theta, momenta, seen, led = looks(jax.random.fold_in(key, queries), theta, momenta, args)
        queries += cost
        if int(led) > most:
            most, trigger = int(led), seen
    return Outcome(trigger, most >= wanted, queries, most / m)


def _g(x: Array) -> Array:
    """From the real line to (0, 1)."""
    return (jnp.tanh(x) + 1) / 2


def _centred(losses: Array) -> Array:
    return losses - jnp.mean(losses)
