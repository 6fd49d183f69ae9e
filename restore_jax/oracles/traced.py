"""A model that is a JAX function: part of whatever program asks it.

Asking it again costs nothing but time, so chunks are filled up and nobody keeps its answers.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from restore_jax.compilation import compiler_options, side_by_side
from restore_jax.oracles.checking import check_margins, check_outputs, check_scores, check_sums
from restore_jax.oracles.chunks import Asking, ask_racing
from restore_jax.oracles.ledger import Ledger
from restore_jax.oracles.types import (
    NOBODY,
    Begin,
    Books,
    Images,
    Lanes,
    Race,
    Raced,
    Sampler,
    Seen,
    check_images,
    read_outputs,
)
from restore_jax.splitting import (
    Scorer,
    SearchSpace,
    SplittingAlgorithm,
    SplittingState,
    Status,
    count,
    counting,
    importance_splitting,
)
from restore_jax.splitting.types import Args, Particles, Tree
from restore_jax.types import JSON, Argument

Array = jax.Array
Function = Callable[..., Tree]
CHUNK = 64
LANES_TOGETHER = 16
"""Searches that go through one program side by side on a GPU."""


@dataclasses.dataclass(frozen=True)
class TracedOracle:
    """An `Oracle` that JAX traces.

    Attributes:
      name, access, image_shape, class_names, metadata, asked, options: see `Oracle`.
      weights: a pytree of arrays that ``function`` reads; traced, never baked into a program.
      function: ``(weights, images f32[b, H, W, C] in [0, 1]) -> outputs``, pure.
      readings: ``(access) -> function``, where that depends on it.
    """

    name: str
    access: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    weights: Tree
    function: Function
    metadata: dict[str, JSON]
    asked: int = 0
    options: dict[str, JSON] = dataclasses.field(default_factory=dict)
    readings: Callable[[str], Function] | None = None

    @property
    def each(self) -> int:
        """1: see `Oracle`."""
        return 1

    @property
    def together(self) -> int:
        """`CHUNK`: see `Oracle`."""
        return CHUNK

    def reading(self, access: str) -> "TracedOracle":
        """See `Oracle.reading`."""
        function = self.function if self.readings is None else self.readings(access)
        return dataclasses.replace(self, access=access, function=function)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    def query(self, images: Images) -> Array:
        """See `Oracle.query`."""
        images = check_images(self.name, self.image_shape, images)
        outputs = _compiled(self.function)(self.weights, images)
        check_outputs(self.name, self.access, np.asarray(outputs))
        return outputs

    def answer(self, weights: Tree, images: Images, books: Books = NOBODY) -> Tree:
        """See `Oracle.answer`."""
        del books
        return self.function(weights, images)

    def read(
        self, images: np.ndarray, target: ArrayLike, books: Books = NOBODY
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Oracle.read`."""
        seen = self.look(images, target, books)
        return seen.labels, seen.margins

    def look(self, images: np.ndarray, target: ArrayLike, books: Books = NOBODY) -> Seen:
        """See `Oracle.look`: with one program for `CHUNK` images."""
        del books
        # In NumPy: each number of images would be a program of its own to JAX, compiled anew.
        answers = []
        for first in range(0, len(images), CHUNK):
            some = images[first : first + CHUNK]
            padded = np.zeros((CHUNK, *images.shape[1:]), np.float32)
            padded[: len(some)] = some
            parts = self._reader(self.weights, padded, target)
            answers.append([np.asarray(part)[: len(some)] for part in parts])
        seen = Seen(*(np.concatenate(parts) for parts in zip(*answers, strict=True)))
        check_margins(self.name, seen.labels, seen.margins)
        if self.access == "probabilities":
            check_sums(self.name, seen.lowest, seen.sums)
        return seen

    @functools.cached_property
    def _reader(self) -> jax.stages.Compiled:
        """The one program, compiled once, wherever its arguments lie."""

        def reader(weights: Tree, images: Array, target: Array) -> tuple[Array, ...]:
            return read_outputs(self.access, self.function(weights, images), target)

        images = jax.ShapeDtypeStruct((CHUNK, *self.image_shape), jnp.float32)
        target = jax.ShapeDtypeStruct((), jnp.int32)
        lowered = jax.jit(reader).lower(self.weights, images, target)
        return lowered.compile(compiler_options())

    def map(
        self,
        function: Callable[..., tuple[Tree, ...]],
        arrays: Sequence[np.ndarray],
        size: int,
        given: Tree = None,
        pay: Callable[[int], None] = lambda number: None,
    ) -> list[np.ndarray]:
        """See `Oracle.map`: compiled, the last piece filled up."""
        compiled = jax.jit(function, compiler_options=compiler_options(one_core=True))
        before = () if given is None else (given,)

        def pieces() -> Iterator[list[np.ndarray]]:
            for first in range(0, len(arrays[0]), size):
                some = [array[first : first + size] for array in arrays]
                pay(len(some[0]))
                yield some

        def answered(some: list[np.ndarray]) -> list[np.ndarray]:
            short = size - len(some[0])
            some = [np.concatenate([a, np.repeat(a[:1], short, 0)]) for a in some]
            answers = compiled(*before, *map(jnp.asarray, some))
            return [np.asarray(answer)[: size - short] for answer in answers]

        parts = side_by_side(answered, pieces())
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    def race(self, race: Race, books: Books = NOBODY) -> Raced:
        """See `Oracle.race`: a scan over the legs, in which chunks without runners are skipped."""
        del books  # a program can pay nobody: `sampler` and `lanes` book what it took

        asking = Asking(show=race.show, answer=self.function, read=race.read)

        def run(
            particles: Particles, active: Array, level: Array, args: Args
        ) -> tuple[Tree, Array]:
            n = active.shape[0]
            weights, asked_with = args["weights"], {name: args[name] for name in race.reads}

            def leg(carry: tuple[Array, Tree], shown: tuple[Array, Tree]) -> Tree:
                racing, tally = carry
                probes, notes = shown
                answers = ask_racing(asking, weights, asked_with, particles, probes, racing)
                cost = jnp.sum(racing, dtype=jnp.uint32) * jnp.uint32(race.width)
                tally, racing = race.tally(tally, answers, racing, notes, level, args)
                return (racing, tally), (answers, cost)

            start = (active, race.begin(n))
            (finished, tally), (answers, cost) = lax.scan(leg, start, race.legs(args))
            by_probe = jnp.moveaxis(answers, 0, 1).reshape(n, race.num_legs * race.width)
            result = race.finish(tally, by_probe, finished, args)
            result = jax.tree.map(functools.partial(_marked, by_probe), result)
            return result, jnp.sum(cost, dtype=jnp.uint32)

        return run

    def sampler(
        self,
        scorer: Scorer,
        space: SearchSpace,
        books: Books,
        key: Array,
        args: Args,
        **how: Argument,
    ) -> Sampler:
        """See `Oracle.sampler`: two programs, the first draw and one level."""
        algorithm = importance_splitting(scorer, space, **how)

        # The budget is an argument, so that a program once compiled serves again, whatever is left.
        def within(most: Array) -> SplittingAlgorithm:
            return importance_splitting(scorer, space, **how | {"max_queries": most})

        most = counting.halves(how["max_queries"])
        begun, options = time.perf_counter(), compiler_options()
        first = jax.jit(lambda most, key, args: within(most).init(key, args)).lower(most, key, args)
        with ThreadPoolExecutor(1) as beside:
            compiling = beside.submit(first.compile, options)
            like = jax.eval_shape(algorithm.init, key, args)
            level = jax.jit(lambda most, state, args: within(most).advance(state, args, 1))
            one_level = level.lower(most, like, args).compile(options)
            draw = compiling.result()

        def init(key: Array, args: Args) -> SplittingState:
            state = self._right(jax.block_until_ready(draw(most, key, args)))
            books.book(count(state.num_queries))
            return state

        def advance(state: SplittingState, args: Args) -> SplittingState:
            before = count(state.num_queries)
            state = self._right(jax.block_until_ready(one_level(most, state, args)))
            books.book(count(state.num_queries) - before)
            return state

        whole = _begin(algorithm, scorer, books)

        def begin(
            key: Array, particles: Particles, args: Args, scores: ArrayLike | None = None
        ) -> SplittingState:
            return self._right(whole(key, particles, args, scores))

        return Sampler(init, begin, advance, algorithm.result, time.perf_counter() - begun)

    def lanes(
        self,
        scorer: Scorer,
        space: SearchSpace,
        books: Books,
        *,
        together: int | None = None,
        **how: Argument,
    ) -> Lanes:
        """See `Oracle.lanes`: one program for ``together`` of them; on a CPU each has a core."""
        algorithm = importance_splitting(scorer, space, **how)
        if together is None:
            together = 1 if jax.default_backend() == "cpu" else LANES_TOGETHER
        number = together

        def level(weights: Tree, state: SplittingState, args: dict[str, Tree]) -> SplittingState:
            return algorithm.advance(state, args | {"weights": weights}, 1)

        several = jax.vmap(level, (None, 0, 0))
        # On several cores sums are added up in another order: whoever runs beside must not show.
        options = compiler_options(one_core=True)
        compiled = jax.jit(level if number == 1 else several, compiler_options=options)
        compiled_already = False

        def some(states: list[SplittingState], args: list[dict[str, Tree]]) -> list[SplittingState]:
            if number == 1:
                return [compiled(self.weights, states[0], args[0])]
            # The program's free places are taken by a search that is over.
            over = dataclasses.replace(states[0], status=jnp.int32(Status.REACHED))
            free = number - len(states)
            stack = lambda *leaves: jnp.stack(leaves)  # noqa: E731
            after = compiled(
                self.weights,
                jax.tree.map(stack, *states, *[over] * free),
                jax.tree.map(stack, *args, *args[:1] * free),
            )
            return [jax.tree.map(lambda leaf, i=i: leaf[i], after) for i in range(len(states))]

        def advance(
            states: list[SplittingState], args: list[dict[str, Tree]]
        ) -> list[SplittingState]:
            nonlocal compiled_already
            places = [slice(first, first + number) for first in range(0, len(states), number)]

            def moved_on(here: slice) -> list[SplittingState]:
                after: list[SplittingState] = jax.block_until_ready(some(states[here], args[here]))
                return after

            parts = side_by_side(moved_on, places, first_alone=not compiled_already)
            compiled_already = True
            moved = [self._right(after) for part in parts for after in part]
            for before, after in zip(states, moved, strict=True):
                books.book(count(after.num_queries) - count(before.num_queries))
            return moved

        whole = _begin(algorithm, scorer, books)

        def begin(
            key: Array, particles: Particles, args: Args, scores: ArrayLike | None = None
        ) -> SplittingState:
            return self._right(whole(key, particles, args | {"weights": self.weights}, scores))

        return Lanes(begin, advance)

    def _right(self, state: SplittingState) -> SplittingState:
        """A search's state, whose scores all came from answers.

        Raises:
          ModelError: one of them did not.
        """
        check_scores(self.name, np.asarray(state.scores))
        return state

    def repeat_cost(self, images: int) -> int:
        """0: see `Oracle.repeat_cost`."""
        del images
        return 0

    def spending(self, ledger: Ledger) -> dict[str, JSON] | None:
        """None: see `Oracle.spending`."""
        del ledger
        return None


def _marked(answers: Array, result: Array) -> Array:
    """A race's result f32[n], infinity where an answer f[n, ...] is no finite number.

    Nothing can be raised here. Infinity goes to the top, where it is found.
    """
    if not (jnp.issubdtype(answers.dtype, jnp.floating) and result.dtype == jnp.float32):
        return result
    return jnp.where(jnp.isfinite(answers).all(-1), result, jnp.inf)


def _begin(algorithm: SplittingAlgorithm, scorer: Scorer, books: Books) -> Begin:
    """See `Begin`; compiled when it is called."""

    def score(key: Array, particles: Particles, args: Args) -> tuple[ArrayLike, ArrayLike]:
        n = jax.tree.leaves(particles)[0].shape[0]
        return scorer.score(key, particles, jnp.float32(-jnp.inf), jnp.ones(n, bool), args)

    scored = jax.jit(score, compiler_options=compiler_options())
    start = jax.jit(algorithm.begin)

    def begin(
        key: Array, particles: Particles, args: Args, scores: ArrayLike | None = None
    ) -> SplittingState:
        if scores is None:
            scores, cost = scored(key, particles, args)
            books.book(int(cost))
        return start(key, particles, jnp.asarray(scores))

    return begin


@functools.lru_cache(maxsize=16)
def _compiled(function: Function) -> Function:
    """A function as a program of its own; a loop in it would else be compiled every time."""
    return jax.jit(function, compiler_options=compiler_options())
