"""REStore in JAX: finds the backdoor of an image classifier by asking it questions.

The public names. Each is imported from its room when it is first used, so that
``import restore_jax`` is quick and brings in neither JAX nor what draws and reads files.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from restore_jax.lazy import lazily

if TYPE_CHECKING:
    from restore_jax.backdoors import PLANTED as PLANTED
    from restore_jax.backdoors import PlantedPatch as PlantedPatch
    from restore_jax.backdoors import Trigger as Trigger
    from restore_jax.backdoors import make_poisoning as make_poisoning
    from restore_jax.backdoors import stamp as stamp
    from restore_jax.data.probes import open_probes as open_probes
    from restore_jax.diagnosis import Scan as Scan
    from restore_jax.diagnosis import ScanSettings as ScanSettings
    from restore_jax.diagnosis import scan as scan
    from restore_jax.errors import BudgetError as BudgetError
    from restore_jax.errors import Inconclusive as Inconclusive
    from restore_jax.errors import InputError as InputError
    from restore_jax.errors import OutOfQueries as OutOfQueries
    from restore_jax.errors import OutOfTime as OutOfTime
    from restore_jax.errors import RestoreError as RestoreError
    from restore_jax.models import make_network as make_network
    from restore_jax.oracles import Oracle as Oracle
    from restore_jax.oracles import open_model as open_model
    from restore_jax.purification import purifier as purifier
    from restore_jax.recovery import Recovery as Recovery
    from restore_jax.recovery import attack_success_rate as attack_success_rate
    from restore_jax.recovery import recover as recover
    from restore_jax.report import load_recoveries as load_recoveries
    from restore_jax.report import load_recovery as load_recovery
    from restore_jax.report import load_scan as load_scan
    from restore_jax.report import load_trigger as load_trigger
    from restore_jax.report import write_recovery as write_recovery
    from restore_jax.run import Estimate as Estimate
    from restore_jax.run import Run as Run
    from restore_jax.run import estimate as estimate
    from restore_jax.spaces import Settings as Settings
    from restore_jax.spaces import TriggerSpace as TriggerSpace
    from restore_jax.spaces import make_space as make_space
    from restore_jax.splitting import Kernel as Kernel
    from restore_jax.splitting import Scorer as Scorer
    from restore_jax.splitting import SearchSpace as SearchSpace
    from restore_jax.splitting import SplittingResult as SplittingResult
    from restore_jax.splitting import SplittingState as SplittingState
    from restore_jax.splitting import Status as Status
    from restore_jax.splitting import count as count
    from restore_jax.splitting import importance_splitting as importance_splitting
    from restore_jax.splitting import log_prob_interval as log_prob_interval
    from restore_jax.splitting import mapped as mapped
    from restore_jax.splitting import metropolis as metropolis
    from restore_jax.splitting import standard_normal as standard_normal
    from restore_jax.splitting import uniform_box as uniform_box
    from restore_jax.training import Recipe as Recipe
    from restore_jax.training import train as train
    from restore_jax.verification import Verification as Verification
    from restore_jax.verification import verify as verify

try:
    __version__ = version("restore-jax")
except PackageNotFoundError:  # run from a checkout
    __version__ = "0+unknown"

_ROOMS = {
    "restore_jax.backdoors": ("PLANTED", "PlantedPatch", "Trigger", "make_poisoning", "stamp"),
    "restore_jax.data.probes": ("open_probes",),
    "restore_jax.diagnosis": ("Scan", "ScanSettings", "scan"),
    "restore_jax.errors": (
        "BudgetError",
        "Inconclusive",
        "InputError",
        "OutOfQueries",
        "OutOfTime",
        "RestoreError",
    ),
    "restore_jax.models": ("make_network",),
    "restore_jax.oracles": ("Oracle", "open_model"),
    "restore_jax.purification": ("purifier",),
    "restore_jax.recovery": ("Recovery", "attack_success_rate", "recover"),
    "restore_jax.report": (
        "load_recoveries",
        "load_recovery",
        "load_scan",
        "load_trigger",
        "write_recovery",
    ),
    "restore_jax.run": ("Estimate", "Run", "estimate"),
    "restore_jax.spaces": ("Settings", "TriggerSpace", "make_space"),
    "restore_jax.splitting": (
        "Kernel",
        "Scorer",
        "SearchSpace",
        "SplittingResult",
        "SplittingState",
        "Status",
        "count",
        "importance_splitting",
        "log_prob_interval",
        "mapped",
        "metropolis",
        "standard_normal",
        "uniform_box",
    ),
    "restore_jax.training": ("Recipe", "train"),
    "restore_jax.verification": ("Verification", "verify"),
}
__getattr__, __dir__, _names = lazily(__name__, _ROOMS)
__all__ = ["__version__", *_names]
