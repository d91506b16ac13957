"""Time to quality: CIFAR-10 from nothing for some core-minutes, Frechet distance along the way, ours against each peer's own recipe.

    python benchmarks/quality.py train PEER [--minutes 60] [--folder DIR]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import quality_train

FOLDER = Path("outputs") / "quality"
SHARES = (1 / 6, 1 / 3, 2 / 3, 1.0)                        # of the budget at which weights are kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("train",))
    parser.add_argument("who", choices=("diffusers", "lucidrains"))
    parser.add_argument("--minutes", type=float, default=60.0, help="core-minutes of the budget")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    quality_train.peer(arguments.who, arguments.folder, [round(share * arguments.minutes, 2) for share in SHARES])


if __name__ == "__main__":
    main()
