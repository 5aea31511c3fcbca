"""Validate a job before it is run."""

from __future__ import annotations

from rl_compress.commands.options import JobFile, Overrides, opened_job


def check(job: JobFile, set_: Overrides = None) -> None:
    """Validate a job, build its target, show groups and costs, and try the budget."""
    with opened_job(job, set_) as (loaded, monitor):
        from rl_compress import execution
        from rl_compress.report.console import print_check

        session = execution.check(loaded, monitor=monitor)
        monitor.close()
        print_check(loaded.name, session.problem.describe_space(), session.soundness)
