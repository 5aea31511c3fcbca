"""The HTML page: what a report shows, section by section, through templates that escape it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from rl_compress.report import formatting, summary
from rl_compress.runs.written import whole

REPORT_FILE = "report.html"

Files = TypeVar("Files")
Content = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Section(Generic[Files]):
    """A titled part of a page."""

    title: str
    content: Callable[[Files], Content | None]
    """What its template shows, and ``title`` where it is another; None: there is nothing yet."""
    template: str = "plain.html"
    absent: str = ""
    """Shown where there is nothing yet; empty: the section is left out."""

    def render(self, files: Files) -> tuple[str, Markup] | None:
        """Return title and body, or None where it is left out."""
        content = self.content(files)
        if content is not None:
            text = _TEMPLATES.get_template(self.template).render(run=files, **content)
            return content.get("title", self.title), Markup(text)
        absent = Markup('<p class="absent">{}</p>').format(self.absent)
        return (self.title, absent) if self.absent else None


def given(name: str) -> Callable[[Any], Content | None]:
    """Return a section's content: one attribute of the files, by its name."""

    def content(files: Any) -> Content | None:
        value = getattr(files, name)
        return None if value is None else {name: value}

    return content


def write_page(
    directory: Path,
    sections: Iterable[Section[Files]],
    files: Files,
    *,
    name: str,
    headline: str,
) -> Path:
    """Write the report of a directory whole, and return its path.

    The page loads nothing from outside and runs no script.

    Args:
        directory: A run's or a sweep's.
        sections: In the order in which they stand.
        files: What the directory holds.
        name: Of the run or sweep.
        headline: What came of it.
    """
    rendered = list(filter(None, [section.render(files) for section in sections]))
    text = _TEMPLATES.get_template("page.html").render(
        run=files, sections=rendered, name=name, headline=headline
    )
    path = directory / REPORT_FILE
    with whole(path) as file:
        file.write_text(text, encoding="utf-8")
    return path


def _flow(text: str) -> Markup:
    """Return prose without the line breaks of its template."""
    return Markup(" ").join(escape(text).split())


_TEMPLATES = Environment(
    loader=PackageLoader("rl_compress.report"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
_TEMPLATES.filters["flow"] = _flow
_TEMPLATES.globals |= vars(formatting) | vars(summary)
