"""The report of a run: one self-contained HTML file in its directory."""

from __future__ import annotations

from pathlib import Path

from rl_compress.report import sections
from rl_compress.report.comparison import against_baselines
from rl_compress.report.page import Section, given, write_page
from rl_compress.report.run_files import RunFiles, read_run
from rl_compress.report.verification import verification

SECTIONS: tuple[Section[RunFiles], ...] = (
    Section(
        "Uncompressed and delivered",
        given("manifest"),
        "comparison.html",
        absent="No model has been delivered yet.",
    ),
    Section("Score and cost", sections.pareto, absent="No variant has been evaluated yet."),
    Section(
        "Course of the search",
        sections.search,
        "search.html",
        absent="No variant has been evaluated yet.",
    ),
    Section("Against baselines", against_baselines, "baselines.html"),
    Section("Search and fine-tuning", verification, "verification.html"),
    Section(
        "What was pruned",
        sections.policy,
        "policy.html",
        absent="No compression policy has been found yet.",
    ),
    Section("Sensitivity", sections.sensitivity, absent="Sensitivities have not been measured."),
    Section("Contributions", sections.contribution),
    Section(
        "Groups that are not pruned",
        given("space"),
        "groups.html",
        absent="The model has not been looked at yet.",
    ),
    Section("Environment", given("environment"), "environment.html", absent="Not recorded."),
    Section("Job", given("job_yaml"), "job.html"),
)


def build_report(directory: Path) -> Path:
    """Write the report of a run, finished or not, and return its path.

    The file needs nothing beside itself, and the same run directory gives the same file.

    Raises:
        RunDirectoryError: There is no such directory, or it is no run's.
        CorruptFileError: A file of the run cannot be read; the message names it.
        ConfigError: A newer release delivered the model.
    """
    files = read_run(directory)
    return write_page(
        directory,
        SECTIONS,
        files,
        name=str(files.job.get("name") or directory.resolve().name),
        headline=sections.headline_of(files),
    )
