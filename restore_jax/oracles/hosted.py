"""A model that JAX cannot trace: asked from the host, every request booked before it is sent."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from restore_jax.oracles.answers import HostAnswers
from restore_jax.oracles.ledger import Ledger
from restore_jax.oracles.types import (
    NOBODY,
    Begin,
    Books,
    Images,
    Lanes,
    ModelError,
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
    host_driven,
)
from restore_jax.splitting.compiling import light_compilation
from restore_jax.splitting.types import Args, Particles, Tree
from restore_jax.types import JSON, Argument

Array = jax.Array
MOST_BYTES = 1 << 26
"""Of stamped images at once."""
FEW_BYTES, FEW = 1 << 24, 16
"""Where so few candidates' images are more than so many bytes, no more are stamped at once: memory
that is given back and taken again costs as much as the stamping."""
CHUNK = 64


@dataclasses.dataclass(frozen=True)
class HostedOracle:
    """An `Oracle` that is asked from the host: the same races and searches, in pieces.

    Attributes:
      name, access, image_shape, class_names, metadata, asked, options: see `Oracle`.
      answers: asks the model.
    """

    name: str
    access: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    answers: HostAnswers
    metadata: dict[str, JSON] = dataclasses.field(default_factory=dict)
    asked: int = 0
    options: dict[str, JSON] = dataclasses.field(default_factory=dict)

    @property
    def each(self) -> int:
        """How often it is sent an image: see `Oracle`."""
        return self.answers.times

    @property
    def together(self) -> int:
        """How many images it is best asked about at once: see `Oracle`."""
        return self.answers.together

    def reading(self, access: str) -> "HostedOracle":
        """See `Oracle.reading`."""
        return dataclasses.replace(self, access=access, answers=self.answers.reading(access))

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    @property
    def weights(self) -> tuple[()]:
        """(): nobody here has them."""
        return ()

    def query(self, images: Images) -> Array:
        """See `Oracle.query`."""
        return jnp.asarray(self.answers(check_images(self.name, self.image_shape, images)))

    def answer(self, weights: Tree, images: Images, books: Books = NOBODY) -> np.ndarray:
        """See `Oracle.answer`."""
        del weights
        if isinstance(images, jax.core.Tracer):
            raise ModelError(
                f"{self.name} is asked from outside: what runs inside JAX cannot ask it."
            )
        return self.answers(images, books)

    def read(
        self, images: np.ndarray, target: ArrayLike, books: Books = NOBODY
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Oracle.read`."""
        seen = self.look(images, target, books)
        return seen.labels, seen.margins

    def look(self, images: np.ndarray, target: ArrayLike, books: Books = NOBODY) -> Seen:
        """See `Oracle.look`."""
        outputs, number = self.answers(images, books), len(images)
        # Of one of few sizes, so that few programs are compiled.
        padded = np.concatenate([outputs, np.repeat(outputs[:1], -number % CHUNK, 0)])
        return Seen(*(np.asarray(one)[:number] for one in _read(self.access, padded, target)))

    def map(
        self,
        function: Callable[..., tuple[Tree, ...]],
        arrays: Sequence[np.ndarray],
        size: int,
        given: Tree = None,
        pay: Callable[[int], None] = lambda number: None,
    ) -> list[np.ndarray]:
        """See `Oracle.map`: of exactly what is there, since every image counts."""
        parts, before = [], () if given is None else (given,)
        for first in range(0, len(arrays[0]), size):
            some = [jnp.asarray(array[first : first + size]) for array in arrays]
            pay(len(some[0]))
            parts.append([np.asarray(answer) for answer in function(*before, *some)])
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    def race(self, race: Race, books: Books = NOBODY) -> Raced:
        """See `Oracle.race`: leg by leg, asking with the candidates that still race."""
        outputs_of = self._asking_with_particles(race, books)
        read, tally_up, finish = jax.jit(race.read), jax.jit(race.tally), jax.jit(race.finish)

        def run(particles: Particles, active: Array, level: Array, args: Args) -> tuple[Tree, int]:
            racing, cost = np.array(active), 0
            n, tally = len(racing), race.begin(len(racing))
            asked_with = {name: args[name] for name in race.reads}
            probes, notes = race.legs(args)
            answers: np.ndarray | None = None
            for leg in range(race.num_legs):
                rows = np.flatnonzero(racing)
                if not len(rows):
                    break
                outputs = outputs_of(particles, rows, probes[leg], asked_with)
                found = np.asarray(read(_padded(outputs), asked_with))[: len(outputs)]
                if answers is None:
                    answers = np.zeros((n, race.num_legs, race.width), found.dtype)
                answers[rows, leg] = found.reshape(len(rows), race.width)
                cost += len(rows) * race.width
                note = jax.tree.map(lambda leaf: leaf[leg], notes)  # noqa: B023
                tally, goes_on = tally_up(tally, answers[:, leg], racing, note, level, args)
                racing = np.array(goes_on)
            if answers is None:  # nobody raced
                answers = np.zeros((n, race.num_legs, race.width), np.float32)
            return finish(tally, answers.reshape(n, -1), racing, args), cost

        return run

    def _asking_with_particles(self, race: Race, books: Books) -> Callable[..., np.ndarray]:
        """Makes ``(particles, rows int[k], probes [w, H, W, C], args) -> outputs [k w, ...]``."""

        @jax.jit
        def shown(particles: Particles, rows: Array, probes: Array, args: Args) -> Array:
            some = jax.tree.map(lambda leaf: leaf[rows], particles)
            show = jax.vmap(lambda one, probes: race.show(one, probes, args), (0, None))
            images = show(some, probes)
            return images.reshape(-1, *images.shape[2:])

        def outputs_of(
            particles: Particles, rows: np.ndarray, probes: Array, args: Args
        ) -> np.ndarray:
            width, size = probes.shape[0], int(np.prod(probes.shape[1:])) * 4
            together, sizes = _together(width * size)
            outputs = []
            for first in range(0, len(rows), together):
                some = rows[first : first + together]
                padded = np.resize(some, sizes(len(some)))
                images = shown(particles, padded, probes, args)
                number = len(some) * width
                books.charge(number)
                outputs.append(self.answers(np.asarray(images)[:number], books))
            return np.concatenate(outputs)

        return outputs_of

    def sampler(
        self,
        scorer: Scorer,
        space: SearchSpace,
        books: Books,
        key: Array,
        args: Args,
        **how: Argument,
    ) -> Sampler:
        """See `Oracle.sampler`: the sampler driven from the host."""
        del books, key, args
        algorithm = host_driven(scorer, space, compiler_options=light_compilation(), **how)

        def advance(state: SplittingState, args: Args) -> SplittingState:
            return algorithm.advance(state, args, 1)

        return Sampler(algorithm.init, _begin(algorithm, scorer), advance, algorithm.result, 0.0)

    def lanes(self, scorer: Scorer, space: SearchSpace, books: Books, **how: Argument) -> Lanes:
        """See `Oracle.lanes`: one after the other."""
        del books  # they have paid
        algorithm = host_driven(scorer, space, compiler_options=light_compilation(), **how)

        def advance(
            states: list[SplittingState], args: list[dict[str, Tree]]
        ) -> list[SplittingState]:
            return [
                algorithm.advance(state, mine | {"weights": ()}, 1)
                for state, mine in zip(states, args, strict=True)
            ]

        return Lanes(_begin(algorithm, scorer), advance)

    def repeat_cost(self, images: int) -> int:
        """All of them: see `Oracle.repeat_cost`."""
        return images

    def spending(self, ledger: Ledger) -> dict[str, JSON] | None:
        """Images sent again, the cost and what else is known: see `Oracle.spending`."""
        return {
            "images_sent_again": ledger.resent,
            "cost": ledger.dollars or 0.0,
            **self.answers.statistics(),
        }


def _begin(algorithm: SplittingAlgorithm, scorer: Scorer) -> Begin:
    """See `Begin`; the scorer books."""

    def begin(
        key: Array, particles: Particles, args: Args, scores: ArrayLike | None = None
    ) -> SplittingState:
        if scores is None:
            everybody = jnp.ones(jax.tree.leaves(particles)[0].shape[0], bool)
            scores, _ = scorer.score(key, particles, jnp.float32(-jnp.inf), everybody, args)
        return algorithm.begin(key, particles, jnp.asarray(scores))

    return begin


@functools.partial(jax.jit, static_argnums=0)
def _read(access: str, outputs: Array, target: Array) -> tuple[Array, Array, Array, Array]:
    return read_outputs(access, outputs, target)


def _together(size: int) -> tuple[int, Callable[[int], int]]:
    """How many candidates are stamped at once, and to what number fewer are filled up.

    There are few such numbers, so that few programs are compiled.

    Args:
      size: bytes of a candidate's images.
    """
    few = max(1, FEW_BYTES // size)
    if few < FEW:
        return few, lambda number: few if number > few // 3 else max(1, few // 3)
    return MOST_BYTES // size, lambda number: max(FEW, 1 << (number - 1).bit_length())


def _padded(outputs: np.ndarray) -> np.ndarray:
    """Outputs up to a power of two of rows, so that few programs are compiled."""
    more = max(64, 1 << (len(outputs) - 1).bit_length()) - len(outputs)
    return np.concatenate([outputs, np.repeat(outputs[:1], more, 0)])
