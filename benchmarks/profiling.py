"""What one run of a compiled program did, from a trace of JAX's profiler."""

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.profiler import ProfileData


def profiled(go: Callable[[], Any]) -> dict[str, Any]:
    """Runs something once, warm, under the profiler.

    Returns:
      ``programs``, how many compiled programs were run; on a GPU besides ``busy``, the share of
      the time from its first to its last kernel in which it had one, ``to_host``, how many copies
      to the host there were, and ``longest``, the kernels that took most of the time: their names
      and shares.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            go()
        (path,) = Path(folder).rglob("*.xplane.pb")
        planes = list(ProfileData.from_file(str(path)).planes)
        return {"programs": programs(planes)} | kernels(planes)


def programs(planes: list[Any]) -> int:
    """How many runs the operations that were traced belong to."""
    runs = set()
    for plane in planes:
        for line in plane.lines:
            for event in line.events:
                stats = dict(event.stats)
                if "hlo_op" in stats and "run_id" in stats:
                    runs.add((stats.get("hlo_module"), stats["run_id"]))
    return len(runs)


def kernels(planes: list[Any]) -> dict[str, Any]:
    """What a GPU did; nothing where there is none."""
    spent: Counter[str] = Counter()
    spans, to_host = [], 0
    for plane in planes:
        if not plane.name.startswith("/device:GPU"):
            continue
        for line in plane.lines:
            if not line.name.startswith("Stream"):
                continue
            for event in line.events:
                spent[event.name] += event.duration_ns
                to_host += "memcpyd2h" in event.name.lower()
                spans.append((event.start_ns, event.start_ns + event.duration_ns))
    if not spans:
        return {}
    total = sum(spent.values())
    return {
        "busy": covered(spans) / (max(end for _, end in spans) - min(start for start, _ in spans)),
        "to_host": to_host,
        "longest": [(name, time / total) for name, time in spent.most_common(8)],
    }


def covered(spans: list[tuple[float, float]]) -> float:
    """The length of the union of intervals."""
    length, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        length += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return length
