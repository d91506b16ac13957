"""The embedded model's task beside two peers: the same pictures, the same time on the wall, and how near each comes to pictures that none has seen.

    python benchmarks/mini_peers.py                              everybody for 20 minutes on all cores, one after the other, then the distances
    python benchmarks/mini_peers.py train diffusers              one contestant; also lucidrains, inkwash, and the three with -latents behind
    python benchmarks/mini_peers.py measure --out FILE           the distances of those that are done; FILE.json and FILE.md

A command that was stopped goes on when it is given again. Peers that are not installed are left out, with a word.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import time
from pathlib import Path

import mini_peers_data
import mini_peers_measure
import mini_peers_ours
import peers
import quality_train
from harness import machine
from mini_peers_recipes import CONTESTANTS, SIZE
from quality_sample import Way

from inkwash.errors import InkwashError
from inkwash.io.durable import write_text
from inkwash.io.find import find_model

HERE = Path(__file__).resolve().parent
NOTES = ("time is that on the wall, all cores: for a peer of its training steps alone; for ours of whole commands of inkwash train, with start, "
         "export and the encoding of all pictures and captions, which peers on latents find done",
         "peers: networks, schedules and losses are theirs, the loop is ours (bfloat16 autocast, channels last), for their trainers need torchvision",
         "nobody mirrors pictures; to decode the files and draw the scenes once is free for all",
         "the given autoencoder and text encoder are the embedded model's, and were trained on some of the held-out pictures; no denoiser was",
         "a contestant that reads captions is told those of the held-out pictures, which is itself a help; told captions of training pictures it has "
         "the next row, which takes no part in the ratio",
         "all are sampled by one sampler, on the schedule that each was trained on")


def installed(name: str) -> bool:
    """Whether the contestant can take part here; says so where it cannot."""
    module = {"diffusers": peers.diffusers, "lucidrains": peers.lucidrains}.get(CONTESTANTS[name].library)
    if module is None or module() is not None:
        return True
    print(f"{name} is left out: its library is not installed", file=sys.stderr)
    return False


def train(name: str, data: mini_peers_data.Data, folder: Path, minutes: float) -> None:
    """One contestant. Raises SystemExit where the folder holds a comparison on other data."""
    same(data, folder)
    mini_peers_data.prepare(data, folder)
    contestant = CONTESTANTS[name]
    if contestant.recipe is not None:
        quality_train.train(name, contestant.recipe, mini_peers_data.examples(data, contestant, folder), folder, [minutes], time.perf_counter)
        return
    common = [word for path in data.names for word in ("--data", path)]
    common += ["--cache", str(data.cache), "--set", f"data.size={SIZE}", "--set", f"data.validation={data.count}", "--set", "data.flip=false"]
    given = contestant.group == "latents"
    parts = {part: find_model(data.parts) for part in ("autoencoder", "text")} if given else {}
    mini_peers_ours.train(folder / f"{name}-{minutes:g}", minutes, common, parts,
                          mini_peers_ours.GIVEN_PARTS if given else mini_peers_ours.FROM_NOTHING, mini_peers_ours.inkwash)


def same(data: mini_peers_data.Data, folder: Path) -> None:
    path = folder / "data.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, data.same())
    if path.read_text("utf-8") != data.same():
        raise SystemExit(f"{folder} holds a comparison on other data or with another model; name another --folder")


def measure(data: mini_peers_data.Data, folder: Path, count: int, way: Way, minutes: float, out: Path, notes: list[str]) -> None:
    """Writes `out`.json and `out`.md."""
    same(data, folder)
    found = {"what": "the embedded model's task beside two peers", "minutes": minutes, "machine": machine(), "notes": [*NOTES, *notes],
             **mini_peers_measure.results(data, folder, count, way, minutes, lambda line: print(line, flush=True))}
    write_text(out.with_suffix(".json"), json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    write_text(out.with_suffix(".md"), mini_peers_measure.page(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", nargs="?", choices=("all", "train", "measure"), default="all")
    parser.add_argument("who", nargs="?", choices=tuple(CONTESTANTS), help="whom to train; everybody without it")
    parser.add_argument("--minutes", type=float, default=20.0, help="of each, on the wall")
    parser.add_argument("--num", type=int, default=600, help="pictures of each contestant")
    parser.add_argument("--held-out", type=int, default=600, help="pictures that nobody trains on, at most a tenth")
    parser.add_argument("--data", nargs="+", default=list(mini_peers_data.DATA), help="as inkwash train takes it")
    parser.add_argument("--model", default="mini", help="whose autoencoder and text encoder are given to the contestants on latents")
    parser.add_argument("--sampler", default=Way().sampler)
    parser.add_argument("--steps", type=int, default=Way().steps, help="of the sampler")
    parser.add_argument("--folder", type=Path, default=HERE.parent / "outputs" / "mini-peers")
    parser.add_argument("--note", action="append", default=[], help="a line for the result")
    parser.add_argument("--out", type=Path, default=HERE / f"{datetime.date.today().isoformat()}-mini-peers")
    asked = parser.parse_args()
    data = mini_peers_data.Data(tuple(asked.data), asked.held_out, asked.folder / "cache", asked.model)
    wanted = [name for name in ([asked.who] if asked.who else CONTESTANTS) if installed(name)]
    try:
        if asked.stage != "measure" and asked.who:
            for name in wanted:
                train(name, data, asked.folder, asked.minutes)
        elif asked.stage != "measure":
            given = ["--minutes", f"{asked.minutes:g}", "--held-out", str(asked.held_out), "--model", asked.model, "--folder", str(asked.folder),
                     "--data", *asked.data]
            for name in wanted:                                                         # each in a process of its own, for its memory and threads
                subprocess.run([sys.executable, __file__, "train", name, *given], check=True)
        if asked.stage != "train":
            measure(data, asked.folder, asked.num, Way(asked.sampler, asked.steps), asked.minutes, asked.out, asked.note)
    except InkwashError as error:
        sys.exit(f"error [{error.code}]: {error}")


if __name__ == "__main__":
    main()
