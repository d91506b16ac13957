"""`inkwash data check` and `inkwash data make`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import cyclopts

if TYPE_CHECKING:
    from inkwash.data.arrays import Progress
    from inkwash.data.check import Report

app = cyclopts.App(name="data", help="Check data sets, or draw one.")


@app.command
def check(
    path: str,
    *more: str,
    json_: Annotated[bool, cyclopts.Parameter(name="--json")] = False,
    manifest: Path | None = None,
    limit: float = 0.02,
    quiet: bool = False,
) -> int:
    """List unreadable images, sizes, caption statistics and duplicates, and write or verify the SHA-256 manifest.

    Parameters
    ----------
    path
        A Parquet file or folder, a folder with metadata.jsonl or .txt captions, tar shards, or scenes:NUM.
    more
        More paths, checked together.
    json_
        Print one JSON object.
    manifest
        The file of SHA-256 sums. Default: data.sha256.jsonl in the folder, or NAME.sha256.jsonl beside the file.
    limit
        The share of unreadable images above which the exit status is 3.
    quiet
        No progress bar.
    """
    from inkwash.data.check import examine
    from inkwash.data.source import distinct, open_source
    from inkwash.errors import UsageError

    if not 0 <= limit <= 1:
        raise UsageError("bad_limit", f"--limit is a share from 0 to 1, got {limit}")
    source = distinct(open_source([path, *more]))
    target = manifest if manifest is not None else _manifest_for(path, more)
    with _Bar(quiet or json_) as bar:
        report = examine(source, manifest=target, limit=limit, progress=bar)
    print(report.as_json() if json_ else _text(report))
    return 3 if report.too_many or report.changed or report.missing else 0


@app.command
def make(
    kind: str,
    *,
    num: int,
    out: Path,
    seed: int = 0,
    size: int = 128,
    format: str = "parquet",
    quiet: bool = False,
) -> int:
    """Draw a data set: `scenes` are captioned pictures of simple objects with exact labels.

    Parameters
    ----------
    kind
        scenes
    num
        How many pictures.
    out
        A new or empty folder.
    seed
        Scene i depends on the seed and i alone.
    size
        The pictures' side in pixels.
    format
        parquet, folder (PNG files with metadata.jsonl) or tar (WebDataset shards).
    quiet
        No progress bar.
    """
    from inkwash.data.scenes.source import Scenes, write_scenes
    from inkwash.errors import UsageError

    if kind != "scenes":
        raise UsageError("bad_kind", f"nothing called {kind[:60]!r} can be made; known: scenes")
    with _Bar(quiet) as bar:
        path = write_scenes(Scenes(num, seed, size), out, format, bar)
    print(path)
    return 0


def _manifest_for(path: str, more: tuple[str, ...]) -> Path | None:
    """Where the sums of this data belong; nowhere for several paths or drawn scenes."""
    from inkwash.data.check import MANIFEST

    place = Path(path)
    if more or not place.exists():
        return None
    return place / MANIFEST if place.is_dir() else place.with_name(f"{place.stem}.sha256.jsonl")


def _text(report: Report) -> str:
    lines = [report.describe]
    bad = report.unreadable
    lines.append(f"unreadable: {len(bad)} of {report.images}" + (f" (more than the limit of {report.limit:.0%})" if report.too_many else ""))
    lines += [f"  {entry['where']}: {entry['reason']}" for entry in bad]
    common = ", ".join(f"{size} ({count})" for size, count in list(report.sizes.items())[:5])
    if report.sizes:
        lines.append(f"sizes: {len(report.sizes)} different, {report.smallest[0]}x{report.smallest[1]} to {report.largest[0]}x{report.largest[1]}; "
                     f"most often {common}")
    lines.append("captions: " + ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in report.captions.items()))
    for title, groups in (("duplicates", report.duplicates), ("near duplicates", report.near_duplicates)):
        lines.append(f"{title}: {sum(len(group) - 1 for group in groups)} in {len(groups)} groups")
        lines += ["  " + " = ".join(group[:6]) + (" ..." if len(group) > 6 else "") for group in groups[:10]]
    if report.manifest:
        lines.append(f"manifest: {report.manifest}")
        lines += [f"  changed: {key}" for key in report.changed[:20]] + [f"  missing: {key}" for key in report.missing[:20]]
    return "\n".join(lines)


class _Bar:
    """A progress bar on a terminal, silence elsewhere."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet or not sys.stderr.isatty()
        self._done = 0

    def __enter__(self) -> Progress | None:
        if self._quiet:
            return None
        from tqdm import tqdm

        self._bar = tqdm(unit="img", leave=False)
        return self._advance

    def _advance(self, done: int, total: int, what: str) -> None:
        self._bar.total = total
        self._bar.set_description(what, refresh=False)
        self._bar.update(done - self._done)
        self._done = done

    def __exit__(self, *details: object) -> None:
        if not self._quiet:
            self._bar.close()
