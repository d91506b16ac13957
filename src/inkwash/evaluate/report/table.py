"""Tables of the page, from rows of text."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = "", numbers: int = 1, words: Sequence[int] = ()) -> str:
    """A <table>; columns from `numbers` on are numbers, set to the right, but those in `words` are not. Texts are escaped."""
    if not rows:
        return ""

    def row(cells: Sequence[str], tag: str) -> str:
        right = [" class=num" if i >= numbers and i not in words else "" for i in range(len(cells))]
        return "<tr>" + "".join(f"<{tag}{side}>{escape(cell)}</{tag}>" for side, cell in zip(right, cells, strict=True)) + "</tr>"

    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    body = "".join(row(cells, "td") for cells in rows)
    return f'<div class="wide"><table>{title}<thead>{row(head, "th")}</thead><tbody>{body}</tbody></table></div>'


def pairs(rows: Sequence[tuple[str, str]]) -> str:
    """A list of names with their texts."""
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in rows) + "</dl>"
