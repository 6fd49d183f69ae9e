"""Models as black boxes: images in, logits, probabilities or labels out."""

from typing import TYPE_CHECKING

from restore_jax.lazy import lazily

if TYPE_CHECKING:
    from restore_jax.errors import Inconclusive as Inconclusive
    from restore_jax.errors import OutOfQueries as OutOfQueries
    from restore_jax.oracles.accesses import ACCESSES as ACCESSES
    from restore_jax.oracles.answers import HostAnswers as HostAnswers
    from restore_jax.oracles.asking import Asker as Asker
    from restore_jax.oracles.errors import ModelError as ModelError
    from restore_jax.oracles.hosted import HostedOracle as HostedOracle
    from restore_jax.oracles.journal import Journal as Journal
    from restore_jax.oracles.ledger import Ledger as Ledger
    from restore_jax.oracles.opening import class_index as class_index
    from restore_jax.oracles.opening import open_model as open_model
    from restore_jax.oracles.options import ModelOptions as ModelOptions
    from restore_jax.oracles.traced import TracedOracle as TracedOracle
    from restore_jax.oracles.types import Books as Books
    from restore_jax.oracles.types import Oracle as Oracle
    from restore_jax.oracles.types import Race as Race
    from restore_jax.oracles.types import labels as labels
    from restore_jax.oracles.types import margins as margins

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "restore_jax.errors": ("Inconclusive", "OutOfQueries"),
        "restore_jax.oracles.accesses": ("ACCESSES",),
        "restore_jax.oracles.answers": ("HostAnswers",),
        "restore_jax.oracles.asking": ("Asker",),
        "restore_jax.oracles.errors": ("ModelError",),
        "restore_jax.oracles.hosted": ("HostedOracle",),
        "restore_jax.oracles.journal": ("Journal",),
        "restore_jax.oracles.ledger": ("Ledger",),
        "restore_jax.oracles.opening": ("class_index", "open_model"),
        "restore_jax.oracles.options": ("ModelOptions",),
        "restore_jax.oracles.traced": ("TracedOracle",),
        "restore_jax.oracles.types": ("Books", "Oracle", "Race", "labels", "margins"),
    },
)
