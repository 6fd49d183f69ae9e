"""Figures, and results as files."""

from restore_jax.report.figures import overview_figure, trigger_figure
from restore_jax.report.scans import (
    foremost,
    load_recoveries,
    render_scan,
    scan_figure,
    scan_json,
)
from restore_jax.report.written import (
    ResultError,
    load_recovery,
    load_trigger,
    render_recovery,
    write_files,
    write_recovery,
)

__all__ = [
    "ResultError",
    "foremost",
    "load_recoveries",
    "load_recovery",
    "load_trigger",
    "overview_figure",
    "render_recovery",
    "render_scan",
    "scan_figure",
    "scan_json",
    "trigger_figure",
    "write_files",
    "write_recovery",
]
