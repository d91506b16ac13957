"""Pictures in rows and columns, with a label over each column and beside each row."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

GAP = 6
INK, PAPER = (32, 32, 36), (250, 250, 248)


def draw(pictures: Sequence[Image.Image], columns: Sequence[str], rows: Sequence[str] | None) -> Image.Image:
    """The sheet; pictures come row by row and each cell is as large as the largest of them."""
    wide, high = max(picture.width for picture in pictures), max(picture.height for picture in pictures)
    size = max(11, min(24, wide // 10))
    font = ImageFont.load_default(size)
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    column_lines = [_wrap(pen, label, font, wide) for label in columns]
    row_lines = [_wrap(pen, label, font, max(60, wide // 2), most=6) for label in rows] if rows else []
    line = int(size * 1.3)
    top = GAP + line * max(map(len, column_lines))
    left = GAP + (max(int(pen.textlength(text, font)) for lines in row_lines for text in lines) + GAP if rows else 0)
    across, down = len(columns), len(rows or [""])
    sheet = Image.new("RGB", (left + across * (wide + GAP), top + GAP + down * (high + GAP)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for i, lines in enumerate(column_lines):
        middle = left + i * (wide + GAP) + wide // 2
        for k, text in enumerate(lines):
            pen.text((middle, top - line * (len(lines) - k) + line // 2), text, INK, font, anchor="mm")
    for j, lines in enumerate(row_lines):
        middle = top + GAP + j * (high + GAP) + high // 2
        for k, text in enumerate(lines):
            pen.text((GAP, middle + int((k - (len(lines) - 1) / 2) * line)), text, INK, font, anchor="lm")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (left + i % across * (wide + GAP), top + GAP + i // across * (high + GAP)))
    return sheet


def _wrap(pen: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, most: int = 3) -> list[str]:
    """The text in at most `most` lines of at most `width` pixels; what does not fit ends in dots."""
    lines: list[str] = [""]
    for word in text.split() or [""]:
        longer = f"{lines[-1]} {word}".strip()
        if pen.textlength(longer, font) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1] + " ..."]
    return [_shorten(pen, item, font, width) for item in lines]


def _shorten(pen: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if pen.textlength(text, font) <= width:
        return text
    while text and pen.textlength(text + "...", font) > width:
        text = text[:-1]
    return text + "..."
