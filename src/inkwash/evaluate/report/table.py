"""Tables of the page, from rows of text."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = "", numbers: int = 1) -> str:
    """A <table>; columns from `numbers` on are numbers, set to the right. Texts are escaped."""
    if not rows:
        return ""

    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f'<{tag}{" class=num" if i >= numbers else ""}>{escape(cell)}</{tag}>' for i, cell in enumerate(cells)) + "</tr>"

    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    body = "".join(row(cells, "td") for cells in rows)
    return f'<div class="wide"><table>{title}<thead>{row(head, "th")}</thead><tbody>{body}</tbody></table></div>'


def pairs(rows: Sequence[tuple[str, str]]) -> str:
    """A list of names with their texts."""
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in rows) + "</dl>"
