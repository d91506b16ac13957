"""What the commands that make pictures share: options to requests, and a progress bar. Imports torch only to run."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inkwash.io.find import find_model, read_info
from inkwash.io.info import ModelInfo
from inkwash.request import (
    MAX_SEED,
    MAX_STEPS,
    Request,
    check_guidance,
    check_int,
    check_size,
    check_text,
    random_seed,
    require_prompt,
    sampler_and_spacing,
)

if TYPE_CHECKING:
    from inkwash.output import Image
    from inkwash.pipeline import Pipeline

AT_ONCE = 4


@dataclasses.dataclass(frozen=True)
class Options:
    """The options as typed; None takes the model's default."""

    steps: str | None = None
    sampler: str | None = None
    spacing: str | None = None
    guidance: str | None = None
    negative: str | None = None
    seed: str | None = None
    size: str | None = None


def check_options(prompt: str, options: Options) -> None:
    """Refuses what no model could do, before one is looked up."""
    require_prompt(prompt)
    check_text(options.negative or "", "the negative prompt")
    if options.steps is not None:
        check_int(options.steps, "--steps", "bad_steps", 1, MAX_STEPS)
    if options.seed is not None:
        check_int(options.seed, "--seed", "bad_seed", 0, MAX_SEED)
    if options.guidance is not None:
        check_guidance(options.guidance, "--guidance")


def describe_model(model: str) -> tuple[Path, ModelInfo]:
    """Folder and description of a model, without its tensors. Raises CheckpointError."""
    folder = find_model(model)
    return folder, read_info(folder)


def first_request(prompt: str, options: Options, info: ModelInfo) -> Request:
    """The request of the first image, checked as far as it can be without torch. A seed that is not given is random."""
    default = info.defaults
    sampler, spacing = sampler_and_spacing(options.sampler, options.spacing, default.sampler, default.spacing)
    width, height = info.sizes.check(*check_size(options.size, str(info.sizes))) if options.size is not None else info.sizes.default
    return Request(prompt, check_text(options.negative or "", "the negative prompt"),
                   check_int(options.seed, "--seed", "bad_seed", 0, MAX_SEED) if options.seed is not None else random_seed(),
                   check_int(options.steps if options.steps is not None else default.steps, "--steps", "bad_steps", 1, MAX_STEPS),
                   sampler, spacing,
                   check_guidance(options.guidance if options.guidance is not None else default.guidance, "--guidance"), width, height)


def repeated(request: Request, number: int) -> list[Request]:
    """`number` requests with the seeds seed, seed + 1, ..."""
    check_int(request.seed + number - 1, "the last seed, --seed + n - 1,", "bad_seed", 0, MAX_SEED)
    return [dataclasses.replace(request, seed=request.seed + i) for i in range(number)]


def load(folder: Path, device: str, weak: str | None = None, classifier: str | None = None) -> Pipeline:
    """The model, ready to run, with its companions for guidance."""
    from inkwash.pipeline import Pipeline

    return Pipeline.from_pretrained(folder, device=device, weak=weak, classifier=classifier)


def produce(pipeline: Pipeline, requests: list[Request], quiet: bool) -> Iterator[Image]:
    """The images in order, as they are finished, AT_ONCE at a time; every request is checked before the first one runs."""
    rows_of = {kind: pipeline.plan(kind).rows for kind in {dataclasses.replace(request, seed=0) for request in requests}}
    for kind in rows_of:
        pipeline.guidance(kind)
    groups = [requests[start : start + AT_ONCE] for start in range(0, len(requests), AT_ONCE)]
    rows = [max(rows_of[dataclasses.replace(request, seed=0)] for request in group) for group in groups]
    with bar(sum(rows), quiet) as advance:
        for group, total in zip(groups, rows):
            state = {"done": 0}

            def on_step(progress: Any, state: dict[str, int] = state) -> None:
                state["done"] += 1
                advance(1)

            images = pipeline.generate(group, on_step)
            advance(total - state["done"])
            yield from images


@contextmanager
def bar(total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr where that is a terminal; silence elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("<"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("steps", total=total)
        yield lambda count: progress.advance(task, count)
