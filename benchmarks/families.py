"""GAN, VAE and diffusion beside each other: every cell of the table that articles fill with words is a number here.

Two worlds. In the plane (`families_plane.py`) modes, density and entropy are known, and training is cheap enough for several seeds: stability,
coverage and likelihood come from there. On small pictures (`families_images.py`) the families draw what they are told: quality, coverage, speed
and control. All get the same counted training compute, and none was tuned beyond what its papers recommend; the table says what these three small
models did, not what their families can do.

    python benchmarks/families.py [--seeds 5] [--part plane|images] [--out FILE.json]

writes the JSON file, a table beside it (.md) and a sheet of pictures (.png). Trainings in the plane that the file has already are kept.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import torch
from families_images import BUDGET, CLASSES, COMPARED, FAMILIES, HELD_OUT, TRAIN, WORLD, compared, drawn, measured, trained
from families_plane import plane
from PIL import Image
from torch import Tensor

from inkwash.evaluate.extractors.features import extract
from inkwash.evaluate.extractors.load import load_extractor


def images(budget: float, sheet: Path | None) -> dict[str, Any]:
    """All families on pictures, and a row of each in `sheet` below a row of held-out ones."""
    extractor, data, held_out = load_extractor("ink"), drawn(TRAIN, 1), drawn(HELD_OUT, 2)
    real, other = (extract(extractor, part.images.split(100)) for part in (held_out, drawn(HELD_OUT, 3)))
    found: dict[str, Any] = {"world": WORLD, "classes": CLASSES, "train": TRAIN, "held_out": HELD_OUT, "budget": budget, "extractor": extractor.hash,
                             "data": compared(real, other)}
    rows = [held_out.images]
    for name in FAMILIES:
        family, about = trained(name, data, budget)
        numbers, made = measured(family, held_out, real, extractor)
        found[name] = {**about, **numbers}
        rows.append(made)
        print(name, json.dumps(found[name]), flush=True)
    if sheet is not None:
        Image.fromarray(sheet_of(rows)).save(sheet)
    return found


def sheet_of(rows: list[Tensor], columns: int = 16, times: int = 2) -> Any:
    """The first pictures of every set, one set a row, enlarged."""
    whole = torch.cat([torch.cat(list(row[:columns]), dim=2) for row in rows], dim=1)    # (3, H, W)
    return whole.repeat_interleave(times, 1).repeat_interleave(times, 2).permute(1, 2, 0).numpy()


def table(found: dict[str, Any]) -> str:
    """The table: one line a property, one column a family."""
    names, lines = list(FAMILIES), []
    if "plane" in found:
        part = found["plane"]
        runs = {name: part[name] for name in names}
        lines += [["**In the plane**, 25 modes", f"{len(runs['GAN'])} seeds, the data itself", *[""] * len(names)]]
        lines += [row("stability: seeds that find all modes", "all", [f"{sum(r['modes'] == 25 for r in runs[n])} of {len(runs[n])}" for n in names]),
                  row("stability: worst / best distance late in training, median", "1",
                      [f"{median([r['late_swing'] for r in runs[n]]):.2f}" for n in names]),
                  row("quality: sliced distance, median", f"{part['distance_of_data']:.4f}",
                      [f"{median([r['distance'] for r in runs[n]]):.4f}" for n in names]),
                  row("quality: samples within 4 deviations of a mode", "99.97 %",
                      [f"{100 * median([r['near'] for r in runs[n]]):.1f} %" for n in names]),
                  row("coverage: modes found, worst seed", "25", [str(min(r["modes"] for r in runs[n])) for n in names]),
                  row("coverage: KL(counts, uniform), median", "0", [f"{median([r['divergence'] for r in runs[n]]):.4f}" for n in names]),
                  row("likelihood: nats a point, median", f"{part['entropy']:.3f}", [f"{median([r['nats'] for r in runs[n]]):.3f}" for n in names]),
                  row("speed: microseconds a sample, median", "", [f"{median([r['microseconds'] for r in runs[n]]):.1f}" for n in names])]
    if "images" in found:
        part = found["images"]
        lines += [["**Pictures**, 32 x 32", "held-out pictures", *[""] * len(names)]]
        lines += [row(text, interval(part["data"][key]), [interval(part[n][key]) for n in names]) for key, text in COMPARED.items()]
        lines += [row("likelihood: bits a colour value (GAN: kernel estimate, no density of its own)", "",
                      [f"{part[n]['bits'][0]:.2f} ± {1.96 * part[n]['bits'][1]:.2f}" for n in names]),
                  row("speed: milliseconds a picture", "", [f"{1000 * part[n]['seconds_per_image']:.2f}" for n in names]),
                  row("control: asked colour", "", [f"{100 * part[n]['color_right']:.1f} %" for n in names]),
                  row("control: asked shape", "", [f"{100 * part[n]['shape_right']:.1f} %" for n in names]),
                  row("training: processor seconds", "", [f"{part[n]['training_sec']:.0f}" for n in names]),
                  row("parameters", "", [f"{part[n]['parameters']:,}" for n in names])]
    head = [["", "data", *names], ["---"] * (2 + len(names))]
    return "\n".join("| " + " | ".join(line) + " |" for line in [*head, *lines])


def row(text: str, data: str, cells: list[str]) -> list[str]:
    return [text, data, *cells]


def interval(values: list[float]) -> str:
    return f"{values[0]:.3f} ({values[1]:.3f} to {values[2]:.3f})"


def median(values: list[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).median())


def write(out: Path | None, found: dict[str, Any]) -> None:
    if out:
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", type=float, default=BUDGET, help="operations of one training on pictures")
    parser.add_argument("--part", choices=("plane", "images"))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found: dict[str, Any] = {"command": f"python benchmarks/families.py --seeds {given.seeds} --budget {given.budget:g}", "torch": torch.__version__,
                             "python": platform.python_version(), "machine": f"{platform.machine()}, {torch.get_num_threads()} threads"}
    if given.out and given.out.exists():
        found = {**json.loads(given.out.read_text("utf-8")), **found}
    if given.part != "images":
        found["plane"] = plane(given.seeds, found.get("plane", {}), lambda part: write(given.out, {**found, "plane": part}))
    if given.part != "plane":
        found["images"] = images(given.budget, given.out.with_suffix(".png") if given.out else None)
    write(given.out, found)
    if given.out:
        page = f"# GAN, VAE and diffusion with the same compute\n\n`{found['command']}`\n\n{table(found)}\n"
        given.out.with_suffix(".md").write_text(page, encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
