"""Results as JSON, and back: made from the typed ones, and nowhere else.

The keys are those of `docs/results.md`.
"""

from collections.abc import Mapping

from restore_jax.recovery import SCHEMA_VERSION, Attempt, Level, Other, Recovery, Truth
from restore_jax.run import Cost, Provenance
from restore_jax.types import JSON, Argument


def recovery_content(recovery: Recovery) -> dict[str, JSON]:
    """What recovery.json holds: no NaN, no infinity, no arrays."""
    return {
        "schema_version": SCHEMA_VERSION,
        "found": recovery.found,
        "status": recovery.status,
        "target": recovery.target,
        "target_name": recovery.target_name,
        **_source(recovery),
        "access": recovery.provenance.access,
        "success": recovery.success,
        **cost_content(recovery.cost),
        "probe_success_rate": recovery.probe_success_rate,
        "confirmation_success_rate": recovery.confirmation_success_rate,
        "test_success_rate": recovery.test_success_rate,
        "trigger_pixels": recovery.trigger_pixels,
        "truth": None if recovery.truth is None else _truth_content(recovery.truth),
        **provenance_content(recovery.provenance, recovery.cost),
        "space": recovery.space,
        "prior": dict(recovery.prior),
        "protocol": recovery.protocol,
        "stop": recovery.stop,
        "log10_prob": recovery.log10_prob,
        "log10_prob_interval": _pair(recovery.interval),
        "best_score": recovery.best_score,
        "goal": recovery.goal,
        "guides": recovery.guides,
        "faded_success_rate": recovery.faded_success_rate,
        "pixels_before_pruning": recovery.pixels_before_pruning,
        "settings": dict(recovery.settings),
        **_tried(recovery.spaces_tried),
        **_others(recovery.others),
        "levels": [level._asdict() for level in recovery.levels],
    }


def cost_content(cost: Cost) -> dict[str, JSON]:
    """What a run took; ``asking`` only of a model that was asked from the host, ``price`` and
    ``cost`` only where somebody said the price, ``limit`` only where one ended the run."""
    content: dict[str, JSON] = {
        "budget": cost.budget,
        "queries": cost.queries,
        "queries_by_stage": dict(cost.queries_by_stage),
        "seconds": {**cost.seconds, "by_stage": dict(cost.seconds_by_stage)},
    }
    if cost.asking is not None:
        content["asking"] = dict(cost.asking)
    if cost.price is not None:
        content |= {"price": cost.price, "cost": cost.dollars}
    if cost.limit is not None:
        content["limit"] = cost.limit
    return content


def provenance_content(provenance: Provenance, cost: Cost) -> dict[str, JSON]:
    """What a result came from; ``model_options`` where there may be any."""
    content: dict[str, JSON] = {
        "seed": provenance.seed,
        "probes": provenance.probes,
        "model": provenance.model,
        "versions": dict(provenance.versions),
        "device": provenance.device,
    }
    if provenance.notes:
        content["notes"] = list(provenance.notes)
    if provenance.model_options or cost.asking is not None:
        content["model_options"] = dict(provenance.model_options)
    return content


def cost_from(content: Mapping[str, JSON]) -> Cost:
    """What `cost_content` was given."""
    said = content.get
    seconds = dict(said("seconds") or {})
    return Cost(
        queries=said("queries", 0),
        budget=said("budget", 0),
        queries_by_stage=said("queries_by_stage") or {},
        seconds_by_stage=seconds.pop("by_stage", {}),
        seconds=seconds,
        asking=said("asking"),
        price=said("price"),
        limit=said("limit"),
    )


def provenance_from(content: Mapping[str, JSON]) -> Provenance:
    """What `provenance_content` was given, and the access."""
    said = content.get
    return Provenance(
        model=said("model", ""),
        access=said("access", "logits"),
        probes=said("probes", ""),
        seed=said("seed", 0),
        model_options=said("model_options") or {},
        versions=said("versions") or {},
        device=said("device", ""),
        notes=tuple(said("notes") or ()),
    )


def recovery_from(content: Mapping[str, JSON], **arrays: Argument) -> Recovery:
    """A recovery from what `recovery_content` gave, and its arrays."""
    said = content.get
    truth = said("truth")
    return Recovery(
        found=content["found"],
        status=content["status"],
        target=content["target"],
        target_name=str(said("target_name", content["target"])),
        source=said("source"),
        source_name=said("source_name"),
        cost=cost_from(content),
        provenance=provenance_from(content),
        success=said("success", 0.95),
        space=said("space", ""),
        prior=said("prior") or {},
        protocol=said("protocol", "default"),
        stop=said("stop", "estimate"),
        settings=said("settings") or {},
        log10_prob=said("log10_prob"),
        interval=_back(said("log10_prob_interval")),
        best_score=said("best_score"),
        goal=said("goal"),
        probe_success_rate=said("probe_success_rate"),
        confirmation_success_rate=said("confirmation_success_rate"),
        test_success_rate=said("test_success_rate"),
        faded_success_rate=said("faded_success_rate"),
        guides=said("guides", 0),
        pixels_before_pruning=said("pixels_before_pruning"),
        truth=None if truth is None else Truth(**truth | {"shift": tuple(truth["shift"])}),
        spaces_tried=tuple(map(_attempt, said("spaces_tried") or ())),
        others=tuple(map(_other, said("others") or ())),
        levels=tuple(Level(**level) for level in content["levels"]),
        **arrays,
    )


def _source(recovery: Recovery) -> dict[str, JSON]:
    """Only where the images of one class alone should be led."""
    if recovery.source is None:
        return {}
    return {"source": recovery.source, "source_name": recovery.source_name}


def _truth_content(truth: Truth) -> dict[str, JSON]:
    return truth._asdict() | {"shift": list(truth.shift)}


def _tried(attempts: tuple[Attempt, ...]) -> dict[str, JSON]:
    """Only where several spaces were tried."""
    if not attempts:
        return {}
    rows = []
    for attempt in attempts:
        row = attempt._asdict()
        row["log10_prob_interval"] = _pair(row.pop("interval"))
        rows.append(row)
    return {"spaces_tried": rows}


def _others(others: tuple[Other, ...]) -> dict[str, JSON]:
    """Only where other classes were searched."""
    rows = []
    for other in others:
        row = other._asdict()
        row["log10_prob_interval"] = _pair(row.pop("interval"))
        rows.append(row)
    return {"others": rows} if rows else {}


def _other(row: Mapping[str, JSON]) -> Other:
    values = dict(row)
    return Other(interval=_back(values.pop("log10_prob_interval")), **values)


def _attempt(row: Mapping[str, JSON]) -> Attempt:
    values = dict(row)
    return Attempt(interval=_back(values.pop("log10_prob_interval")), **values)


def _pair(interval: tuple[float | None, float | None] | None) -> list[float | None] | None:
    return None if interval is None else list(interval)


def _back(pair: JSON) -> tuple[float | None, float | None] | None:
    return None if pair is None else (pair[0], pair[1])
