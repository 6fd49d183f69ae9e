"""Training a classifier, with or without backdoors: pure functions, one epoch at a time."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from optax import contrib

from restore_jax.backdoors import (
    Attack,
    PlannedPoisoning,
    Poisoning,
    Trigger,
    stamp_attack,
    towards_one,
)
from restore_jax.compilation import compiler_options
from restore_jax.data.augmentation import augment, flip_schedule
from restore_jax.errors import InputError
from restore_jax.models import NORM_MOMENTUM, Network
from restore_jax.models.layers import Params
from restore_jax.splitting.types import Tree

Array = jax.Array
EVALUATION_CHUNK = 100
STEPS_PER_REPORT = 25
OPTIMIZERS = ("muon", "sgd")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
      epochs: passes over the training images.
      batch_size: images a step; the last, incomplete batch of an epoch is left out.
      optimizer: one of `OPTIMIZERS`; see `make_optimizer`.
      learning_rate: its peak; it warms up linearly over ``warmup`` of all steps, then
        falls to 0 as a cosine.
      adam_learning_rate: likewise, of what Muon leaves to Adam; not with SGD.
      momentum: Nesterov's, in [0, 1).
      weight_decay: on kernels only; not with Muon, which keeps their norms.
      label_smoothing: in [0, 1).
      warmup: share of all steps, in [0, 1).
      translate: largest random shift in pixels.

    >>> Recipe(epochs=8).optimizer
    'muon'
    """

    epochs: int = 20
    batch_size: int = 250
    optimizer: str = "muon"
    learning_rate: float = 0.03
    adam_learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-3
    label_smoothing: float = 0.2
    warmup: float = 0.1
    translate: int = 3


OWN: dict[str, dict[str, int | float | str]] = {
    "vit_patch4": {"adam_learning_rate": 0.003},
    "vit_patch16": {"adam_learning_rate": 0.003},
}
"""What architectures are trained with that differs from `Recipe()`: of a transformer Adam learns
all but the norms."""


def recipe_for(architecture: str, **given: int | float | str) -> Recipe:
    """How to train an architecture.

    Args:
      architecture: its name.
      **given: fields that somebody chose.

    >>> recipe_for("vit_patch4").adam_learning_rate, recipe_for("resnet8").adam_learning_rate
    (0.003, 0.01)
    >>> recipe_for("vit_patch4", epochs=5).epochs
    5
    """
    own: dict[str, Any] = OWN.get(architecture, {}) | given
    return Recipe(**own)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainingState:
    """All that the next epoch needs. Save it, and training goes on.

    Bit for bit as it would have gone on: on a CPU, and on a GPU where it is deterministic.

    Attributes:
      params, batch_stats: the network's.
      opt_state: Optax's.
      key_data: uint32[...], the run's key as data.
      epoch: int32[], how many epochs are behind.
    """

    params: Params
    batch_stats: Params
    opt_state: optax.OptState
    key_data: Array
    epoch: Array


class Evaluation(NamedTuple):
    """Shares of test images, in [0, 1].

    Attributes:
      clean_accuracy: over all test images.
      class_accuracy: float[K], over the images of each class.
      asr: one attack success rate per trigger, over images whose class is not its target.
    """

    clean_accuracy: float
    class_accuracy: list[float]
    asr: list[float]


class Trainer(NamedTuple):
    """The functions of one training run.

    Attributes:
      init: ``(key) -> TrainingState``.
      epoch: ``(state) -> iterator`` over ``(steps done, steps in all, mean loss so far,
        TrainingState)``; the state is the one given until the last item, which brings the
        state after the epoch.
      settle: ``(state) -> TrainingState``: the weights as they are, the norms' statistics the
        mean over one more pass. Those of averaged weights are not the average of theirs.
    """

    init: Callable[[Array], TrainingState]
    epoch: Callable[[TrainingState], Iterator[tuple[int, int, float, TrainingState]]]
    settle: Callable[[TrainingState], TrainingState]


def make_optimizer(recipe: Recipe, steps_per_epoch: int) -> optax.GradientTransformation:
    """The optimizer of a recipe, with warm-up and cosine.

    "sgd" is SGD with Nesterov momentum and weight decay on kernels. "muon" gives convolution
    kernels, as matrices [inputs, outputs], orthogonalised Nesterov momentum (Jordan et al. 2024,
    "Muon"), and everything else to Adam. Behind a batch norm only a kernel's direction matters,
    so its norm is kept at the square root of its number of outputs, and a step's share of it
    is what the learning rate says.

    Raises:
      InputError: an unknown optimizer.
    """
    steps = max(1, recipe.epochs * steps_per_epoch)
    warmup = min(round(recipe.warmup * steps), steps - 1)

    def schedule(peak: float) -> optax.Schedule:
        return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, steps)

    if recipe.optimizer == "muon":
        return optax.chain(
            contrib.muon(
                schedule(recipe.learning_rate),
                beta=recipe.momentum,
                adam_learning_rate=schedule(recipe.adam_learning_rate),
                muon_weight_dimension_numbers=_as_matrices,
            ),
            _keep_kernel_norms(),
        )
    if recipe.optimizer == "sgd":
        return optax.chain(
            optax.add_decayed_weights(
                recipe.weight_decay, mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
            ),
            optax.sgd(schedule(recipe.learning_rate), momentum=recipe.momentum, nesterov=True),
        )
    raise InputError(f"unknown optimizer {recipe.optimizer!r}: it may be {', '.join(OPTIMIZERS)}.")


def _as_matrices(params: Params) -> Tree:
    """Which axes of a convolution kernel are inputs and outputs; None for all else."""
    matrix = contrib.MuonDimensionNumbers((0, 1, 2), 3)
    return jax.tree.map(lambda p: matrix if p.ndim == 4 else None, params)


def _keep_kernel_norms() -> optax.GradientTransformation:
    """Ends an update so that each convolution kernel has norm sqrt(outputs) after it."""

    def kept(update: Array, param: Array) -> Array:
        if param.ndim != 4:
            return update
        moved = param + update
        norm = jnp.linalg.norm(moved.reshape(-1))
        return moved * (jnp.sqrt(moved.shape[-1]) / norm) - param

    return optax.stateless(lambda updates, params: jax.tree.map(kept, updates, params))


def make_trainer(
    network: Network,
    recipe: Recipe,
    poison: Poisoning,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    deterministic: bool = False,
) -> Trainer:
    """Prepares training.

    Args:
      network: what to train.
      recipe: how.
      poison: the transform applied to each batch after augmentation.
      images: uint8[N, H, W, C], kept on the device.
      labels: int32[N].
      deterministic: whether a GPU shall end with the same weights bit for bit each time, for
        some of its speed. A CPU always does.

    Raises:
      InputError: fewer images than one batch.
    """
    steps_per_epoch = len(images) // recipe.batch_size
    if steps_per_epoch == 0:
        raise InputError(
            f"a batch of {recipe.batch_size} is more than the {len(images)} images there are."
        )
    programs = _programs(network, recipe, steps_per_epoch, len(images), deterministic)
    parts = _Parts(
        network=network,
        optimizer=make_optimizer(recipe, steps_per_epoch),
        images=jnp.asarray(images),
        labels=jnp.asarray(labels, jnp.int32),
        poison=poison if isinstance(poison, PlannedPoisoning) else jax.tree_util.Partial(poison),
        programs=programs,
        steps_per_epoch=steps_per_epoch,
        # A GPU is left alone for a whole epoch; a CPU's user is told how it goes.
        at_once=STEPS_PER_REPORT if jax.default_backend() == "cpu" else steps_per_epoch,
    )
    return Trainer(
        init=functools.partial(_first_state, parts),
        epoch=functools.partial(_epoch, parts),
        settle=functools.partial(_settle, parts),
    )


class _Carry(NamedTuple):
    """What a step changes; ``total`` f32[] is the sum of the losses so far."""

    params: Params
    batch_stats: Params
    opt_state: optax.OptState
    total: Array


class _Pass(NamedTuple):
    """One pass over the training images.

    Attributes:
      key_data, number: the run's key and the pass's number.
      order, flip: int32[N] and bool[N], see `_plan`.
      images, labels: uint8[N, H, W, C] and int32[N].
      poison: what is planted, a pytree that can be called.
    """

    key_data: Array
    number: Array
    order: Array
    flip: Array
    images: Array
    labels: Array
    poison: Poisoning


class _Programs(NamedTuple):
    """What is compiled. Neither images nor triggers are part of it.

    Attributes:
      plan: ``(key_data, number) -> (order, flip)``.
      steps: ``(carry, first, end, pass) -> carry``, the steps first .. end - 1; takes the carry's
        memory.
      statistics: ``(params, batch_stats, pass)``: the sum of what each batch makes of the latter.
    """

    plan: Callable[[Array, Array], tuple[Array, Array]]
    steps: Callable[[_Carry, Array, Array, _Pass], _Carry]
    statistics: Callable[[Params, Params, _Pass], Params]


class _Parts(NamedTuple):
    """What training is made of; ``at_once`` is the number of steps between reports."""

    network: Network
    optimizer: optax.GradientTransformation
    images: Array
    labels: Array
    poison: Poisoning
    programs: _Programs
    steps_per_epoch: int
    at_once: int

    def passing(self, state: TrainingState) -> _Pass:
        """The pass that comes after a state."""
        order, flip = self.programs.plan(state.key_data, state.epoch)
        return _Pass(
            state.key_data, state.epoch, order, flip, self.images, self.labels, self.poison
        )


@functools.lru_cache(maxsize=8)
def _programs(
    network: Network, recipe: Recipe, steps_per_epoch: int, count: int, deterministic: bool
) -> _Programs:
    """One set of programs for all runs that differ in seed, images and what is planted alone."""
    optimizer = make_optimizer(recipe, steps_per_epoch)
    options = compiler_options(deterministic=deterministic)
    return _Programs(
        plan=jax.jit(functools.partial(_plan, count)),
        steps=_compiled_steps(network, recipe, optimizer, options),
        statistics=_compiled_statistics(network, recipe, steps_per_epoch, options),
    )


def _plan(count: int, key_data: Array, number: Array) -> tuple[Array, Array]:
    """In what order a pass takes the images, and which of them it flips."""
    key = jax.random.wrap_key_data(key_data)
    order = jax.random.permutation(jax.random.fold_in(key, 2 * number + 2), count)
    return order, flip_schedule(jax.random.fold_in(key, 1), count, number)


def _batch(recipe: Recipe, index: Array, now: _Pass) -> tuple[Array, Array]:
    """A batch of a pass, augmented and poisoned: images f32[b, H, W, C] and labels int32[b]."""
    key = jax.random.fold_in(jax.random.wrap_key_data(now.key_data), 2 * now.number + 3)
    shift_key, poison_key = jax.random.split(jax.random.fold_in(key, index))
    places = lax.dynamic_slice_in_dim(now.order, index * recipe.batch_size, recipe.batch_size)
    x = now.images[places].astype(jnp.float32) / 255.0
    x = augment(shift_key, x, now.flip[places], recipe.translate)
    return now.poison(poison_key, x, now.labels[places])


def _compiled_steps(
    network: Network,
    recipe: Recipe,
    optimizer: optax.GradientTransformation,
    options: dict[str, str | bool],
) -> Callable[[_Carry, Array, Array, _Pass], _Carry]:
    """See `_Programs`."""

    def loss_fn(params: Params, batch_stats: Params, x: Array, y: Array) -> tuple[Array, Params]:
        logits, batch_stats = network.apply_train(params, batch_stats, x)
        goal = optax.smooth_labels(jax.nn.one_hot(y, network.num_classes), recipe.label_smoothing)
        return jnp.mean(optax.softmax_cross_entropy(logits, goal)), batch_stats

    @functools.partial(jax.jit, donate_argnums=0, compiler_options=options)
    def steps(carry: _Carry, first: Array, end: Array, now: _Pass) -> _Carry:
        def step(index: Array, carry: _Carry) -> _Carry:
            params, batch_stats, opt_state, total = carry
            (loss, batch_stats), gradient = jax.value_and_grad(loss_fn, has_aux=True)(
                params, batch_stats, *_batch(recipe, index, now)
            )
            updates, opt_state = optimizer.update(gradient, opt_state, params)
            params = optax.apply_updates(params, updates)
            return _Carry(params, batch_stats, opt_state, total + loss)

        return lax.fori_loop(first, end, step, carry)

    return steps


def _compiled_statistics(
    network: Network, recipe: Recipe, steps_per_epoch: int, options: dict[str, str | bool]
) -> Callable[[Params, Params, _Pass], Params]:
    """See `_Programs`."""

    @functools.partial(jax.jit, compiler_options=options)
    def statistics(params: Params, before: Params, now: _Pass) -> Params:
        def add(index: Array, total: Params) -> Params:
            moved = network.apply_train(params, before, _batch(recipe, index, now)[0])[1]
            return jax.tree.map(jnp.add, total, moved)

        zeros = jax.tree.map(jnp.zeros_like, before)
        return lax.fori_loop(0, steps_per_epoch, add, zeros)

    return statistics


def _first_state(parts: _Parts, key: Array) -> TrainingState:
    """See `Trainer.init`."""
    params, batch_stats = jax.jit(parts.network.init)(jax.random.fold_in(key, 0))
    first = parts.images[:5000].astype(jnp.float32) / 255.0
    return TrainingState(
        params=params,
        batch_stats=jax.jit(parts.network.fit_stem)(batch_stats, first),
        opt_state=parts.optimizer.init(params),
        key_data=jax.random.key_data(key),
        epoch=jnp.int32(0),
    )


def _epoch(parts: _Parts, state: TrainingState) -> Iterator[tuple[int, int, float, TrainingState]]:
    """See `Trainer.epoch`."""
    now, number = parts.passing(state), parts.steps_per_epoch
    start = _Carry(state.params, state.batch_stats, state.opt_state, jnp.float32(0.0))
    carry = jax.tree.map(jnp.copy, start)  # the steps take its memory, and the caller keeps his
    for first in range(0, number, parts.at_once):
        done = min(first + parts.at_once, number)
        carry = parts.programs.steps(carry, jnp.int32(first), jnp.int32(done), now)
        if done < number:
            yield done, number, float(carry.total) / done, state
    params, batch_stats, opt_state, total = carry
    state = TrainingState(params, batch_stats, opt_state, state.key_data, state.epoch + 1)
    yield number, number, float(total) / number, state


def _settle(parts: _Parts, state: TrainingState) -> TrainingState:
    """See `Trainer.settle`."""
    total = parts.programs.statistics(state.params, state.batch_stats, parts.passing(state))

    # Each batch has moved the running statistics a tenth of the way to its own.
    def mean_of_batches(total: Array, before: Array) -> Array:
        return before + (total / parts.steps_per_epoch - before) / (1.0 - NORM_MOMENTUM)

    batch_stats = jax.tree.map(mean_of_batches, total, state.batch_stats)
    return dataclasses.replace(state, batch_stats=batch_stats)


def make_evaluation(
    network: Network,
    triggers: Sequence[Trigger | Attack],
    images: np.ndarray,
    labels: np.ndarray,
) -> Callable[[Params, Params], Evaluation]:
    """A function ``(params, batch_stats) -> Evaluation`` on the test images given.

    Args:
      network: the network, evaluated with batch norm folded.
      triggers: those whose ASR to measure: the share of the images that they should lead elsewhere
        that they lead there; a `Trigger` should lead every class to its target.
      images: uint8[N, H, W, C].
      labels: int32[N].
    """
    count = len(images)
    chunk = min(EVALUATION_CHUNK, count)
    short = -count % chunk
    padded = np.concatenate([images, images[:short]]).reshape(-1, chunk, *images.shape[1:])
    chunks, predictions = jnp.asarray(padded), _predictions(network)

    def predict(folded: tuple[Params, Params], trigger: Trigger | None, roams: bool) -> np.ndarray:
        return np.asarray(predictions(folded, chunks, trigger, roams))[:count]

    def evaluate(params: Params, batch_stats: Params) -> Evaluation:
        folded = network.fold(params, batch_stats)
        right = predict(folded, None, False) == labels
        by_class = [float(right[labels == k].mean()) for k in range(network.num_classes)]
        asr = []
        for trigger in triggers:
            attack = trigger
            if not isinstance(attack, Attack):
                attack = towards_one(attack, network.num_classes)
            wanted = attack.leads_to[labels]
            hit = predict(folded, attack.trigger, attack.roams) == wanted
            asr.append(float(hit[labels != wanted].mean()))
        return Evaluation(float(right.mean()), by_class, asr)

    return evaluate


@functools.lru_cache(maxsize=8)
def _predictions(network: Network) -> Callable[..., Array]:
    """``(folded, chunks uint8[k, b, H, W, C], trigger, roams) -> int32[k b]``, compiled once."""

    @functools.partial(jax.jit, compiler_options=compiler_options(), static_argnames="roams")
    def predictions(
        folded: tuple[Params, Params], chunks: Array, trigger: Trigger | None, roams: bool
    ) -> Array:
        def one(chunk: tuple[Array, Array]) -> Array:
            x = chunk[0].astype(jnp.float32) / 255.0
            if trigger is not None:
                places = jax.random.fold_in(jax.random.key(0), chunk[1])
                x = stamp_attack(Attack(trigger, np.zeros(0), roams), x, places)
            return jnp.argmax(network.apply_folded(folded, x), -1)

        return lax.map(one, (chunks, jnp.arange(len(chunks)))).reshape(-1)

    return predictions
