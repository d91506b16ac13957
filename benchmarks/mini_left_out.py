"""Combinations that were left out of training: does the model put together what it knows? "woman firefighter dark skin tone" from its parts.

The left-out captions are those that the recipe's patterns name: all such emoji, photos of garments, and drawn scenes. Each kind is judged as in its
own part. An emoji is right when the nearest real one has the name but for skin tone and gender; the stricter row asks for the very name.
"""

from __future__ import annotations

import mini_emoji
import mini_garments
import mini_scenes
from mini_bench import Bench, by_hash
from mini_result import Row

from inkwash.evaluate.judges.adherence import asked
from inkwash.evaluate.metrics.interval import proportion

GOAL = 0.4


def part(bench: Bench, num: int) -> tuple[list[Row], list[str]]:
    """Rows of each kind that has such captions, and of all together."""
    patterns = [pattern.pattern for pattern in bench.left_out]
    if not patterns:
        return [], ["nothing was left out of training: the recipe has no data.leave_out, and no --held-out was given"]
    named = bench.pipeline.info.card.get("left_out")
    notes = [f"left out: {', '.join(f'`{pattern}`' for pattern in patterns)}",
             "the model's card says the same" if named == patterns else f"NOT SURE: the model's card says that it left out {named or 'nothing'}"]
    every: list[bool] = []
    rows: list[Row] = []

    def add(what: str, right: list[bool]) -> None:
        every.extend(right)
        rows.append(Row(what, proportion(sum(right), len(right))))

    if emoji := by_hash([text for text in mini_emoji.all_captions(bench) if bench.leaves_out(text)]):
        found = mini_emoji.judged(bench, num, captions=emoji)
        add("emoji: the nearest has the name but for skin tone and gender", found.right)
        rows.append(Row("emoji: the nearest has the very name", proportion(sum(mini_emoji.exact(found)), len(found.right))))
    clothing = (bench.clothing.caption(i) for i in range(len(bench.clothing)))
    if photos := by_hash(sorted({text for text in clothing if bench.leaves_out(text) and None not in asked(text)[:2]})):
        add("garments: garment and colour as asked", mini_garments.judged(bench, num, captions=photos).right)
    if bench.scenes and len(scenes := mini_scenes.fresh(bench, num, left_out=True)):
        add("scenes: all of the caption", mini_scenes.judged(bench, num, source=scenes).right)
    if not every:
        return rows, [*notes, "no caption of the data has such a combination"]
    return [Row("left-out combinations, all kinds", proportion(sum(every), len(every)), GOAL), *rows], notes
