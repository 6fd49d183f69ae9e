"""Figures, and results as files and words."""

from restore_jax.report.contents import recovery_content
from restore_jax.report.errors import ResultError
from restore_jax.report.figures import overview_figure, trigger_figure
from restore_jax.report.purifying import power_content, power_lines
from restore_jax.report.recovery_page import recovery_page
from restore_jax.report.scan_page import scan_page
from restore_jax.report.scan_text import scan_text
from restore_jax.report.scans import (
    load_recoveries,
    load_scan,
    render_scan,
    scan_content,
    scan_figure,
)
from restore_jax.report.text import foremost, recovery_lines
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
    "load_scan",
    "load_trigger",
    "overview_figure",
    "power_content",
    "power_lines",
    "recovery_content",
    "recovery_lines",
    "recovery_page",
    "render_recovery",
    "render_scan",
    "scan_content",
    "scan_figure",
    "scan_page",
    "scan_text",
    "trigger_figure",
    "write_files",
    "write_recovery",
]
