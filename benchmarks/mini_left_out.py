"""Combinations that were left out of training: does the model put together what it knows? "woman firefighter dark skin tone" from its parts.

The left-out captions are those that the patterns in the model's card name: all such emoji, photos of garments, and drawn scenes. Each kind is
judged as in its own part. An emoji is right when the nearest real one has the name but for skin tone and gender. Where a skin tone was left out
with a person, that asks for the person alone; the row of the very name asks for both.
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
    """Rows of each kind that has such captions."""
    patterns = [pattern.pattern for pattern in bench.left_out]
    if not patterns:
        return [], ["nothing was left out of training: the model's card names no such captions, and no --held-out was given"]
    named = bench.pipeline.info.card.get("left_out")
    notes = [f"left out: {', '.join(f'`{pattern}`' for pattern in patterns)}",
             "the model's card says the same" if named == patterns else f"not sure: the model's card says that it left out {named or 'nothing'}"]
    found: dict[str, list[bool]] = {}
    if emoji := by_hash([text for text in mini_emoji.all_captions(bench) if bench.leaves_out(text)]):
        judged = mini_emoji.judged(bench, num, captions=emoji)
        found |= {"emoji: the nearest has the name but for skin tone and gender": judged.right,
                  "emoji: the nearest has the very name": mini_emoji.exact(judged)}
    clothing = (bench.clothing.caption(i) for i in range(len(bench.clothing)))
    if photos := by_hash(sorted({text for text in clothing if bench.leaves_out(text) and None not in asked(text)[:2]})):
        found["garments: garment and colour as asked"] = mini_garments.judged(bench, num, captions=photos).right
    if bench.scenes and len(scenes := mini_scenes.fresh(bench, num, left_out=True)):
        found["scenes: all of the caption"] = mini_scenes.judged(bench, num, source=scenes).right
    if not found:
        notes.append("no caption of the data has such a combination")
    return [Row(what, proportion(sum(right), len(right)), GOAL) for what, right in found.items()], notes
