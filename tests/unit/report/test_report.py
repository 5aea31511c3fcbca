from __future__ import annotations

import shutil
import subprocess
import sys
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

from rl_compress.errors import CorruptFileError, RunDirectoryError
from rl_compress.report.report import build_report

if TYPE_CHECKING:
    from pathlib import Path

_VOID = {"meta", "br", "link", "img"}


class Page(HTMLParser):
    """Collects what a page refers to, its headings and its text, and checks its nesting."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.tags: list[str] = []
        self.headings: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in _VOID:
            self._open.append(tag)
        linked = {"src", "href", "xlink:href", "action", "data", "srcset"}
        self.references += [value or "" for name, value in attrs if name in linked]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("h1", "h2"):
            self.headings.append(data.replace("\N{NO-BREAK SPACE}", " "))
        self.text += data


def read(directory: Path) -> tuple[str, Page]:
    path = build_report(directory)
    assert path == directory / "report.html"
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


SECTIONS = [
    "Uncompressed and delivered",
    "Score and cost",
    "Course of the search",
    "What was pruned",
    "Sensitivity",
    "Groups that are not pruned",
    "Environment",
    "Job",
]


def test_a_finished_run_is_reported_in_full(finished: Path) -> None:
    _, page = read(finished)
    sentence = "30 % of the MACs at 98.9 % accuracy (uncompressed 99.2 %)"
    assert page.headings == [sentence, *SECTIONS]
    assert page.tags.count("svg") == 4
    for shown in (
        "34.5 kB",
        "96.5 %",
        "2.1x faster",
        "4 evaluations by ppo, 1 of them cached, on 2 processes",
        "2026-01-02 03:04 UTC",
        "3.11 & more",
        "objective: {score: fidelity}",
    ):
        assert shown in page.text
    assert "yet" not in page.text


def test_the_report_needs_nothing_from_outside(finished: Path) -> None:
    text, page = read(finished)
    assert all(reference.startswith(("#", "data:image/png")) for reference in page.references)
    assert not {"script", "link", "iframe", "img", "object"} & set(page.tags)
    assert "@import" not in text
    outside = text.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert "http://" not in outside
    assert "https://" not in outside
    assert "default-src 'none'" in text


def test_text_from_files_is_escaped(finished: Path) -> None:
    (finished / "job.yaml").write_text("name: <img src=x onerror=alert(1)>\nbudget: {macs: 0.3}\n")
    text, page = read(finished)
    assert "<img" not in text
    assert "<script" not in text
    assert "<b>out" not in text
    assert "<script>alert('layer')</script>" in page.text
    assert "<img src=x onerror=alert(1)>" in page.text


def test_a_run_that_has_just_started_says_so(started: Path) -> None:
    _, page = read(started)
    assert page.headings == ["Nothing delivered yet, and nothing evaluated", *SECTIONS]
    assert "svg" not in page.tags
    assert "No variant has been evaluated yet." in page.text


def test_a_run_before_delivery_shows_the_search(searched: Path) -> None:
    _, page = read(searched)
    assert page.headings[0] == "Nothing delivered yet: 4 evaluations, best fidelity -0.1"
    assert page.tags.count("svg") == 4
    assert "No model has been delivered yet." in page.text
    assert "The best policy so far." in page.text


@pytest.mark.parametrize(
    "name",
    [
        "environment.json",
        "space.json",
        "sensitivity.parquet",
        "pareto.parquet",
        "evaluations",
        "best/manifest.json",
        "best/policy.json",
    ],
)
def test_any_file_but_the_job_may_be_missing(finished: Path, name: str) -> None:
    path = finished / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    _, page = read(finished)
    assert page.headings[1:] == SECTIONS


def test_the_same_run_gives_the_same_report(finished: Path) -> None:
    first, _ = read(finished)
    second, _ = read(finished)
    assert first == second
    assert [path.name for path in finished.glob("*.tmp")] == []


def test_a_corrupt_run_keeps_its_older_report(finished: Path) -> None:
    before, _ = read(finished)
    (finished / "pareto.parquet").write_bytes(b"PAR1")
    with pytest.raises(CorruptFileError, match=r"pareto\.parquet"):
        build_report(finished)
    assert (finished / "report.html").read_text(encoding="utf-8") == before


def test_something_else_than_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError):
        build_report(tmp_path / "nowhere")
    with pytest.raises(RunDirectoryError):
        build_report(tmp_path)


def test_reporting_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys, rl_compress.report.report, rl_compress.report.summary;"
        "sys.exit(bool({'torch', 'ray'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
