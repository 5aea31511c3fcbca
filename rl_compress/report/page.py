"""The HTML page: escaped text, tables, sections, and one style sheet within the file."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_CSS = """
:root { color-scheme: light dark; --paper: #fdfdfe; --raised: #ffffff; --ink: #1c2733;
  --muted: #66717e; --grid: #dde3e9; }
@media (prefers-color-scheme: dark) { :root { --paper: #12171d; --raised: #1a2129;
  --ink: #e4e9ee; --muted: #98a3af; --grid: #323c47; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
header { margin-bottom: 2rem; }
.run { color: var(--muted); font-size: .9rem; margin: 0; overflow-wrap: anywhere; }
h1 { font-size: 1.75rem; line-height: 1.2; letter-spacing: -.015em; margin: .3rem 0 0;
  text-wrap: balance; }
h2 { font-size: 1.15rem; margin: 0 0 .25rem; letter-spacing: -.005em; }
section { background: var(--raised); border: 1px solid var(--grid); border-radius: 10px;
  padding: 1.25rem 1.4rem; margin: 0 0 1.1rem; }
p { margin: .3rem 0 .8rem; }
p.note { color: var(--muted); font-size: .9rem; max-width: 48rem; }
p.absent { color: var(--muted); font-style: italic; margin-bottom: 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .8rem;
  margin: 0 0 1.1rem; padding: 0; list-style: none; }
.tiles li { background: var(--raised); border: 1px solid var(--grid); border-radius: 10px;
  padding: .8rem 1rem; }
.tiles b { display: block; font-size: 1.4rem; line-height: 1.25; font-weight: 650;
  letter-spacing: -.01em; white-space: nowrap; }
.tiles span { color: var(--muted); font-size: .85rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; }
th, td { text-align: left; padding: .38rem .9rem .38rem 0; border-bottom: 1px solid var(--grid);
  vertical-align: top; }
th { color: var(--muted); font-weight: 500; font-size: .85rem; }
tr:last-child td { border-bottom: 0; }
table.figures td:not(:first-child), table.figures th:not(:first-child) { text-align: right;
  font-variant-numeric: tabular-nums; white-space: nowrap; padding-right: 0;
  padding-left: 1.2rem; }
table:not(.figures) { width: auto; }
table:not(.figures) td, table:not(.figures) th { padding-right: 2.5rem; }
code, pre { font: .85rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
td code { overflow-wrap: anywhere; }
pre { margin: .4rem 0 0; overflow-x: auto; }
ul { margin: .4rem 0 0; padding-left: 1.2rem; }
svg { display: block; width: 100%; height: auto; margin-top: .6rem; }
@media (max-width: 40rem) { main { padding: 1.25rem .75rem 2rem; } h1 { font-size: 1.45rem; }
  section { padding: 1rem .9rem; } .scroll svg { min-width: 34rem; } }
@media print { section { break-inside: avoid; } }
"""


class Markup(str):
    """Text that is HTML already and must not be escaped again."""

    __slots__ = ()


def html(text: object) -> str:
    """Escape a value for the page, unless it is :class:`Markup`."""
    return text if isinstance(text, Markup) else escape(str(text))


def paragraph(text: object, kind: str = "") -> Markup:
    """Return a paragraph; ``kind`` is ``note``, ``absent`` or nothing."""
    return Markup(f'<p class="{kind}">{html(text)}</p>' if kind else f"<p>{html(text)}</p>")


def code(text: object) -> Markup:
    """Return a name or value in fixed width."""
    return Markup(f"<code>{html(text)}</code>")


def listing(text: str) -> Markup:
    """Return a block of text with its line breaks."""
    return Markup(f"<pre>{html(text)}</pre>")


def bullets(items: Iterable[object]) -> Markup:
    """Return an unordered list."""
    return Markup("<ul>" + "".join(f"<li>{html(item)}</li>" for item in items) + "</ul>")


def tiles(figures: Iterable[tuple[str, str]]) -> Markup:
    """Return key figures, each with its caption."""
    items = (f"<li><b>{html(figure)}</b><span>{html(text)}</span></li>" for figure, text in figures)
    return Markup(f'<ul class="tiles">{"".join(items)}</ul>')


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, figures: bool) -> Markup:
    """Return a table.

    Args:
        header: Titles of the columns; empty: no head.
        rows: Cells, as many as there are columns.
        figures: Align all columns but the first as numbers.
    """
    head = "".join(f"<th>{html(title)}</th>" for title in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    kind = ' class="figures"' if figures else ""
    head = f"<thead><tr>{head}</tr></thead>" if header else ""
    return Markup(f'<div class="scroll"><table{kind}>{head}<tbody>{body}</tbody></table></div>')


def drawing(svg: str) -> Markup:
    """Return a plot, which scrolls sideways where the screen is narrow."""
    return Markup(f'<div class="scroll">{svg}</div>')


def section(title: str, *parts: Markup) -> Markup:
    """Return a titled part of the page."""
    return Markup(f"<section><h2>{html(title)}</h2>{''.join(parts)}</section>")


def page(name: str, headline: str, *parts: Markup) -> str:
    """Return the whole page, which loads nothing from outside and runs no script."""
    # A figure and its unit stay on one line.
    headline = headline.replace(" %", "\N{NO-BREAK SPACE}%")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html(name)}: rl-compress report</title><style>{_CSS}</style></head>"
        f'<body><main><header><p class="run">{html(name)}</p><h1>{html(headline)}</h1></header>'
        f"{''.join(parts)}</main></body></html>\n"
    )
