"""The report: one self-contained HTML file in the run directory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rl_compress.report import sections
from rl_compress.report.comparison import comparison_with_baselines
from rl_compress.report.page import page
from rl_compress.report.run_files import read_run
from rl_compress.report.verification import verification

if TYPE_CHECKING:
    from pathlib import Path

REPORT_FILE = "report.html"


def build_report(directory: Path) -> Path:
    """Write the report of a run, finished or not, and return its path.

    The file needs nothing beside itself, and the same run directory gives the same file.

    Raises:
        RunDirectoryError: There is no such directory, or it is no run's.
        CorruptFileError: A file of the run cannot be read; the message names it.
        ConfigError: A newer release delivered the model.
    """
    files = read_run(directory)
    text = page(
        str(files.job.get("name") or directory.resolve().name),
        sections.headline_of(files),
        sections.key_figures(files),
        sections.comparison(files),
        sections.pareto(files),
        sections.search(files),
        comparison_with_baselines(files),
        verification(files),
        sections.policy(files),
        sections.sensitivity(files),
        sections.contribution(files),
        sections.groups(files),
        sections.environment(files),
        sections.job(files),
    )
    path = directory / REPORT_FILE
    unfinished = path.with_name(f"{REPORT_FILE}.tmp")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
    return path
