"""Does `inkwash verify MODEL` catch a folder that says what is not so, and leave alone one that is right?

    python benchmarks/mislabelings.py --date 2026-11-21

Small models are trained here, of latents and of pixels, with several predictions, processes, coordinates and seeds; the embedded `mini` comes
beside them. Right ones: each as it is, and one of them in fourteen other words. Wrong ones: every fault of inkwash.verify.mislabel, planted in a
copy of a folder. For the small models all claims are asked, with pictures of the training's kind; for mini those that should fail, with the
scenes that verify draws itself. A fault that does not change a folder (eps declared as eps) is left out there.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "verify"))

from verify_toys import RIGHT, converted, pictures, trained, write  # noqa: E402

from inkwash.core.coordinate import Coordinate, TimeIndex  # noqa: E402
from inkwash.core.prediction import EDM, X0, Eps, Prediction, V, Velocity  # noqa: E402
from inkwash.core.schedule import Cosine, Linear, ScaledLinear, Schedule, Sigmoid, Straight, ZeroTerminal  # noqa: E402
from inkwash.io.find import find_model, read_info  # noqa: E402
from inkwash.verify.mislabel import MISLABELS, suited  # noqa: E402
from inkwash.verify.model import examine, report  # noqa: E402

Kind = tuple[str, bool, int, Schedule, Prediction, Coordinate | None]
MODELS: tuple[Kind, ...] = (
    *(("latent", True, seed, Cosine(), V(), None) for seed in range(3)), *(("pixels", False, seed, Cosine(), V(), None) for seed in range(3)),
    ("latent", True, 3, Linear(), Eps(), None), ("latent", True, 4, Straight(), Velocity(), TimeIndex(Straight(), 1000.0, 0.0)),
    ("latent", True, 5, Cosine(), X0(), None), ("latent", True, 6, ZeroTerminal(ScaledLinear()), V(), TimeIndex(ScaledLinear())),
    ("pixels", False, 7, Linear(), Eps(), TimeIndex(Linear())), ("pixels", False, 8, Straight(), Velocity(), None),
    ("pixels", False, 9, Cosine(), EDM(), None), ("pixels", False, 10, Sigmoid(), X0(), None),
)
PLANTED = (0, 3, 6, 11)                                    # of MODELS, those in which faults are planted; the first has them all


def plant_all(name: str, folder: Path, data: Path | None, work: Path) -> list[dict[str, Any]]:
    """Every fault that a folder can have: the claims that fail, the first failure, and what was expected to fail."""
    found = []
    for fault in suited(read_info(folder)):
        copy = work / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        fault.plant(copy)
        if all(path.read_bytes() == (folder / path.relative_to(copy)).read_bytes() for path in copy.rglob("*") if path.is_file()):
            continue
        reports = [report(copy, data=data)] if data is not None else [report(copy, claim) for claim in fault.claims]
        failures = [finding for one in reports for finding in one.failures]
        found.append({"model": name, "fault": fault.name, "expected": list(fault.claims), "failed": sorted({finding.claim for finding in failures}),
                      "says": failures[0].line().replace(str(copy), "model") if failures else ""})
        print(f"{name:<28} {fault.name:<46} {', '.join(found[-1]['failed']) or 'MISSED'}", flush=True)
    return found


def examine_right(work: Path) -> tuple[list[dict[str, Any]], dict[int, Path], dict[bool, Path]]:
    """Alarms on models that are right; the folders of those that will be spoilt; pictures for both kinds."""
    seen = {True: pictures(64, 7, 16), False: pictures(64, 7, 8, 2)}
    data = {latent: write(given, work / f"pictures{latent}") for latent, given in seen.items()}
    found: list[dict[str, Any]] = []
    folders = {}

    def note(name: str, failures: list[str]) -> None:
        found.append({"model": name, "alarms": failures})
        print(f"{name:<80} {'; '.join(failures) or 'no alarm'}", flush=True)

    for k, (kind, latent, seed, process, prediction, coordinate) in enumerate(MODELS):
        pipe = trained(latent, 300 if latent else 150, seed, process, prediction, coordinate)
        name = f"{kind}, seed {seed}, {process}, {prediction}, {pipe.denoiser.coordinate}"
        folder = folders[k] = work / f"{kind}{k}"
        pipe.save_pretrained(folder)
        note(name, [finding.line() for finding in report(folder, data=data[latent]).failures])
        if k == 0:
            for words in RIGHT:
                given = examine(converted(pipe, *words), seen[True])
                note("in other words: " + ", ".join(map(str, words)), [finding.line() for finding in given if not finding.passed])
    note("mini", [finding.line() for finding in report("mini").failures])
    return found, folders, data


def table(right: list[dict[str, Any]], wrong: list[dict[str, Any]], head: dict[str, Any]) -> str:
    """The result in Markdown."""
    models = list(dict.fromkeys(row["model"] for row in wrong))
    cells = {(row["fault"], row["model"]): ", ".join(row["failed"]) or "**missed**" for row in wrong}
    lines = ["# Planted mislabelings", "", *(f"- {name}: {value}" for name, value in head.items()), "", "## Wrong folders: the claims that fail", "",
             "For mini only the claims that should fail were asked. A dash: the model cannot have the fault, or it changes nothing there.", "",
             f"| fault | {' | '.join(models)} |", f"|{' --- |' * (len(models) + 1)}"]
    lines += [f"| {fault.name} | {' | '.join(cells.get((fault.name, model), '-') for model in models)} |" for fault in MISLABELS]
    lines += ["", "## Right models", "", "| model | alarms |", "| --- | --- |"]
    return "\n".join(lines + [f"| {row['model']} | {'; '.join(row['alarms']) or 'none'} |" for row in right]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--date", required=True, help="of the files that are written, as YYYY-MM-DD")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks")
    args = parser.parse_args()
    torch.set_num_threads(1)
    start, used = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        right, folders, data = examine_right(work)
        wrong = []
        for k in PLANTED:
            kind, latent, _, process, prediction, _ = MODELS[k]
            wrong += plant_all(f"{kind}, {process}, {prediction}", folders[k], data[latent], work)
        wrong += plant_all("mini", find_model("mini"), None, work)
    caught = {row["fault"] for row in wrong} - {row["fault"] for row in wrong if not row["failed"]}
    by_name = {row["fault"] for row in wrong} - {row["fault"] for row in wrong if not set(row["failed"]) & set(row["expected"])}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    head = {"date": args.date, "commit": commit, "machine": f"{platform.machine()}, 1 thread", "python": platform.python_version(),
            "torch": torch.__version__, "command": f"python benchmarks/mislabelings.py --date {args.date}",
            "caught": f"{sum(bool(row['failed']) for row in wrong)} of {len(wrong)} wrong folders; of {len(MISLABELS)} different faults, "
                      f"{len(caught)} wherever they were planted, {len(by_name)} of these by the claim that names them",
            "false alarms": f"{sum(bool(row['alarms']) for row in right)} of {len(right)} right models",
            "seconds": f"{time.perf_counter() - start:.0f}, of which {time.process_time() - used:.0f} of the processor"}
    name = args.out / f"{args.date}-mislabelings"
    name.with_suffix(".json").write_text(json.dumps({**head, "wrong": wrong, "right": right}, indent=1) + "\n", "utf-8")
    name.with_suffix(".md").write_text(table(right, wrong, head), "utf-8")
    print(f"\n{head['caught']}\n{head['false alarms']}\n{name}.md")


if __name__ == "__main__":
    main()
