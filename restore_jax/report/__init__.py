"""Figures, and results as files and words."""

from restore_jax.report.contents import recovery_content
from restore_jax.report.errors import ResultError
from restore_jax.report.figures import overview_figure, trigger_figure
from restore_jax.report.purifying import power_content, power_lines
from restore_jax.report.scans import (
    foremost,
    load_recoveries,
    render_scan,
    scan_content,
    scan_figure,
)
from restore_jax.report.text import recovery_lines
from restore_jax.report.written import (
    load_attack,
    load_recovery,
    load_trigger,
    render_recovery,
    write_files,
    write_recovery,
)

__all__ = [
    "ResultError",
    "foremost",
    "load_attack",
    "load_recoveries",
    "load_recovery",
    "load_trigger",
    "overview_figure",
    "power_content",
    "power_lines",
    "recovery_content",
    "recovery_lines",
    "render_recovery",
    "render_scan",
    "scan_content",
    "scan_figure",
    "trigger_figure",
    "write_files",
    "write_recovery",
]
