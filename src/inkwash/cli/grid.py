"""`inkwash grid`: one picture for each pair of settings, on a labelled sheet."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

from cyclopts import Parameter

from inkwash._version import __version__
from inkwash.cli.main import print_json, warn
from inkwash.cli.settings import Options, check_options, describe_model, first_request, load, produce
from inkwash.errors import UsageError
from inkwash.io.png import Names, infotext, pixel_sha256, png_bytes
from inkwash.request import as_dict

if TYPE_CHECKING:
    from inkwash.io.info import ModelInfo
    from inkwash.request import Request

AXES = ("steps", "guidance", "seed", "sampler", "spacing", "negative", "prompt")
MAX_CELLS = 400


class Axis(NamedTuple):
    """One side of the sheet: the setting's name and its values as typed."""

    name: str
    values: tuple[str, ...]

    @property
    def labels(self) -> list[str]:
        return [value if self.name in ("prompt", "sampler", "spacing") else f"{self.name} {value}" for value in self.values]


def grid(prompt: str = "", /, *, x: str, y: str | None = None, out: Annotated[str | None, Parameter(name=["--out", "-o"])] = None,
         model: str = "mini", steps: str | None = None, sampler: str | None = None, spacing: str | None = None, guidance: str | None = None,
         negative: str | None = None, seed: str | None = None, size: str | None = None,
         device: str = "auto", weak: str | None = None, classifier: str | None = None,
         json: Annotated[bool, Parameter(negative="", show_default=False)] = False,
         quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="", show_default=False)] = False) -> int:
    """Make a labelled sheet over one or two settings.

    An axis is NAME=VALUES with NAME one of steps, guidance, seed, sampler, spacing, negative, prompt. VALUES are separated by commas, or by |
    where a value has commas itself; whole numbers may be a range such as 1..4. Example: --x guidance=1,3,7.5 --y seed=1..4
    The other options are those of inkwash generate, for all pictures.

    Parameters
    ----------
    prompt
        What to draw; not needed with an axis of prompts.
    x
        The settings of the columns.
    y
        The settings of the rows.
    out
        A .png file or a folder; default outputs/DATE/NUMBER-SEED.png.
    """
    columns, rows = read_axis(x, "--x"), read_axis(y, "--y") if y is not None else Axis("", ("",))
    if columns.name == rows.name:
        raise UsageError("bad_axis", f"--x and --y are both {columns.name}; give two different settings")
    if len(columns.values) * len(rows.values) > MAX_CELLS:
        raise UsageError("bad_axis", f"{len(columns.values)} x {len(rows.values)} pictures are more than {MAX_CELLS}; give fewer values")
    folder, info = describe_model(model)
    options = Options(steps, sampler, spacing, guidance, negative, seed, size)
    requests = _requests(prompt, options, columns, rows, info)
    names = Names(out)
    names.prepare()
    pipeline = load(folder, device, weak, classifier)
    images = list(produce(pipeline, requests, quiet))

    from inkwash.cli.sheet import draw
    from inkwash.output import to_pil

    pictures = [to_pil(image.pixels) for image in images if image.pixels is not None]
    sheet = draw(pictures, columns.labels, rows.labels if rows.name else None)
    record = {"format": 1, "version": __version__, "model": info.name, "model_hash": pipeline.hash,
              "grid": {"x": list(columns), "y": list(rows)}, "requests": [as_dict(request) for request in requests]}
    pairs = {"Grid x": x, "Grid y": y or "none", "Model": info.name, "Version": f"inkwash {__version__}"}
    text = infotext(requests[0].prompt, requests[0].negative, pairs)
    path = names.save(png_bytes(sheet, text, record), requests[0].seed)
    notes = list(dict.fromkeys(note for image in images for note in image.warnings))
    if json:
        print_json({"path": str(path), "size": f"{sheet.width}x{sheet.height}", "pictures": len(images), "warnings": notes,
                    "nfe": sum(image.nfe for image in images), "pixel_sha256": pixel_sha256(sheet)})
    elif not quiet:
        for note in notes:
            warn(note)
        print(path)
    return 0


def _requests(prompt: str, options: Options, columns: Axis, rows: Axis, info: ModelInfo) -> list[Request]:
    """Row by row; a seed that nobody gave is the same everywhere."""
    for axis in (columns, rows):
        if axis.name and (prompt if axis.name == "prompt" else getattr(options, axis.name)):
            raise UsageError("bad_axis", f"the {axis.name} is given beside an axis of it; leave one out")
    base: Request | None = None
    found = []
    for down in rows.values:
        for across in columns.values:
            given = {columns.name: across, **({rows.name: down} if rows.name else {})}
            text = given.pop("prompt", prompt)
            changed = dataclasses.replace(options, **given)
            check_options(text, changed)
            request = first_request(text, changed, info)
            base = base or request
            found.append(request if options.seed is not None or "seed" in given else dataclasses.replace(request, seed=base.seed))
    return found


def read_axis(text: str, option: str) -> Axis:
    """An Axis from NAME=VALUES. Raises UsageError `bad_axis`."""
    name, equals, values = text.partition("=")
    name = name.strip().lower()
    if not equals or name not in AXES:
        raise UsageError("bad_axis", f"{option} must be NAME=VALUES with NAME one of {', '.join(AXES)}, got {text[:60]!r}; "
                                     "for example guidance=1,3,7.5 or seed=1..4")
    found = [item.strip() for item in _split(values)]
    if not found or not all(found):
        raise UsageError("bad_axis", f"{option} has an empty value in {text[:60]!r}; separate values by commas")
    return Axis(name, tuple(one for item in found for one in _range(item, option)))


def _split(values: str) -> Sequence[str]:
    """At | where there is one, else at commas outside of brackets."""
    return values.split("|") if "|" in values else re.split(r",(?![^()]*\))", values)


def _range(item: str, option: str) -> list[str]:
    found = re.fullmatch(r"(\d{1,18})\.\.(\d{1,18})", item)
    if not found:
        return [item]
    first, last = int(found[1]), int(found[2])
    if not first <= last < first + MAX_CELLS:
        raise UsageError("bad_axis", f"{option}: the range {item} must rise and have at most {MAX_CELLS} numbers")
    return [str(number) for number in range(first, last + 1)]
