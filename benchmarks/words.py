"""How often a model that draws scenes follows its words: unseen captions, one picture each, judged by inkwash.evaluate.judges.scenes.

    python benchmarks/words.py demo/model --scenes "scenes:100:7:32,objects=1,size=large" [--guidance 3] [--sheet words.png]

Captions come from scenes of another seed than the training's; those that were trained on, word for word, are counted as `seen`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inkwash.data.scenes.source import draw, open_scenes
from inkwash.evaluate.judges.scenes import bank, find, judge, shares
from inkwash.pipeline import Pipeline
from inkwash.request import Request
from inkwash.train.sheet import save_sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--scenes", action="append", required=True, help="unseen scenes; the picture size is that of the model")
    parser.add_argument("--guidance", type=float, default=None, help="the model's own without it")
    parser.add_argument("--steps", type=int, default=None, help="the model's own without it")
    parser.add_argument("--trained", action="append", default=[], help="scenes of the training, to count captions that occur there")
    parser.add_argument("--sheet", type=Path, default=None)
    args = parser.parse_args()
    pipe = Pipeline.from_pretrained(args.model)
    size = pipe.info.sizes.default[0]
    seen = {caption for text in args.trained for source in [open_scenes(text)] for caption in map(source.caption, range(len(source)))}
    pictures: list[np.ndarray] = []
    for text in args.scenes:
        source = open_scenes(text)
        known = bank(size, source.wanted)
        asked = [draw(source.seed, number, size, pixels=False, wanted=source.wanted) for number in range(len(source))]
        defaults = pipe.info.defaults
        start = time.perf_counter()
        images = pipe.generate([Request(scene.caption, seed=number, steps=args.steps or defaults.steps, width=size, height=size,
                                        guidance=defaults.guidance if args.guidance is None else args.guidance)
                                for number, scene in enumerate(asked)])
        drawn = [image.pixels.permute(1, 2, 0).contiguous().cpu().numpy() for image in images if image.pixels is not None]
        pictures += drawn
        verdicts = [judge(find(pixels, known), scene.labels) for pixels, scene in zip(drawn, asked, strict=True)]
        result: dict[str, Any] = {"scenes": text, "captions": len(asked), "seen": sum(scene.caption in seen for scene in asked)}
        result |= {kind: round(value, 3) for kind, value in shares(verdicts).items()}
        print(json.dumps(result | {"seconds": round(time.perf_counter() - start, 1)}), flush=True)
    if args.sheet is not None:
        save_sheet(args.sheet, torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2), 16)


if __name__ == "__main__":
    main()
