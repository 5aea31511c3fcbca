from __future__ import annotations

import io

from rich.console import Console

from rl_compress.evaluation.ledger import Progress
from rl_compress.report.live import ConsoleMonitor


def test_where_nothing_can_be_redrawn_each_fifth_of_the_search_is_a_line() -> None:
    shown = io.StringIO()
    monitor = ConsoleMonitor(Console(file=shown, width=40))
    monitor.budget = "macs ≤ 0.5, latency_ms ≤ 0.7"
    monitor.phase("search")
    for done in (0, 1, 19, 20, 20, 39, 45, 100):
        monitor.searched(Progress(done, 100, 0, 0, None))
    monitor.close()

    first, *lines = shown.getvalue().splitlines()
    assert first == "search …"
    assert [line.split(",")[0] for line in lines] == [
        f"search {done}/100" for done in (20, 45, 100)
    ]
    assert all("best –, macs ≤ 0.5, latency_ms ≤ 0.7, " in line for line in lines)
