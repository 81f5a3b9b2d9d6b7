"""The look of a report: one HTML page that loads nothing, for screens of any width and for paper."""

import base64
from collections.abc import Iterable, Sequence
from html import escape


def page(title: str, body: str, *, wide: bool = False) -> str:
    """A whole document around the HTML of `body`; `wide` for tables of many columns, whose cells stay on one line."""
    start = '<main class="wide">' if wide else "<main>"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{start}{body}</main></body></html>
"""


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of ready HTML cells; the first cell of a row is its head."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>' for row in rows
    )
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def data_uri(png: bytes) -> str:
    """The picture itself as an address, so that the page needs no second file."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


_STYLE = """
:root { color-scheme: light; --ink: #1d2733; --soft: #4d5b69; --line: #d5dbe1; --tint: #f3f6f8; --accent: #1f6f8b; }
* { box-sizing: border-box; }
body { margin: 0; background: white; color: var(--ink); font: 16px/1.55 system-ui, "DejaVu Sans", sans-serif; }
main { max-width: 66rem; margin: 0 auto; padding: 2.5rem 1.5rem 3rem; }
h1 { margin: 0 0 .5rem; font-size: 2rem; line-height: 1.2; }
h2 { margin: 2.75rem 0 .75rem; font-size: 1.3rem; }
.lead { max-width: 46rem; margin: 0; font-size: 1.15rem; }
.note { max-width: 46rem; color: var(--soft); font-size: .9rem; }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; margin-top: 1.5rem; }
.tiles div { flex: 1 1 8rem; min-width: 0; padding: .9rem 1rem; background: var(--tint);
  border-top: 3px solid var(--accent); }
.tiles strong { display: block; font-size: 1.5rem; line-height: 1.25; }
.tiles span { color: var(--soft); font-size: .85rem; }
figure { margin: 0; }
img { display: block; width: 100%; height: auto; }
figcaption, caption { max-width: 46rem; color: var(--soft); font-size: .9rem; text-align: left; }
figcaption { margin-top: .5rem; }
caption { margin-bottom: .4rem; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .75rem .45rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { color: var(--soft); font-size: .85rem; font-weight: 600; }
tbody th { font-weight: 600; }
.swatch { display: inline-block; width: .9em; height: .9em; margin-right: .5em; border: 1px solid var(--soft);
  vertical-align: -.08em; }
.wide { max-width: 100rem; overflow-x: auto; font-size: .85rem; }
.wide td, .wide tbody th { white-space: nowrap; }
.wide img { max-width: 64rem; }
.bar { display: inline-block; height: .8em; background: var(--accent); }
@media print {
  @page { margin: 15mm; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { font-size: 10pt; }
  main, .wide { max-width: none; padding: 0; overflow: visible; }
  .wide { font-size: 6.5pt; }
  h2 { margin-top: 1.5rem; }
  .tiles { flex-wrap: nowrap; }
  figure, table, .tiles, h2 { break-inside: avoid; }
  h2 { break-after: avoid; }
}
"""
