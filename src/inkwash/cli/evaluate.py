"""`inkwash evaluate MODEL --data PATH`: how good a model is, with intervals, curves and pictures."""

from __future__ import annotations

import errno
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from inkwash.cli.main import print_json, warn
from inkwash.cli.settings import Options as Settings
from inkwash.cli.settings import describe_model, first_request, load
from inkwash.errors import UsageError
from inkwash.io.path import as_path
from inkwash.request import check_guidance, check_int

if TYPE_CHECKING:
    from inkwash.evaluate.curves import Curves
    from inkwash.evaluate.metrics.interval import Estimate
    from inkwash.evaluate.store import Progress

FLAG = Parameter(negative="", show_default=False)
MAX_NUM = 1_000_000
PAGE, RESULT, CACHE = "index.html", "result.json", "cache"


def evaluate(
    model: str = "mini",
    /,
    *,
    data: Annotated[list[str], Parameter(negative=())],
    num: Annotated[str, Parameter(name=["--num", "-n"])] = "256",
    report: str | None = None,
    against: str | None = None,
    curves: Annotated[bool, FLAG] = False,
    steps: str | None = None,
    sampler: str | None = None,
    spacing: str | None = None,
    guidance: str | None = None,
    seed: str = "0",
    size: str | None = None,
    reference: str = "held-out",
    held_out: str | None = None,
    fit: str = "crop",
    extractor: str = "ink",
    clip: str | None = None,
    bits: str = "8",
    unconditional: Annotated[bool, FLAG] = False,
    curve_samplers: str | None = None,
    curve_steps: str | None = None,
    curve_guidance: str | None = None,
    curve_num: str | None = None,
    baseline: str | None = None,
    allow: str = "0.10",
    budget: Annotated[list[str] | None, Parameter(negative=())] = None,
    card: Annotated[bool, FLAG] = False,
    minutes: str | None = None,
    device: str = "auto",
    weak: str | None = None,
    json: Annotated[bool, FLAG] = False,
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="", show_default=False)] = False,
) -> int:
    """Measure how good a model is, with intervals, and write a report.

    The same command again goes on where it was stopped, when there is a report. Under torchrun, processes share the work.

    Parameters
    ----------
    model
        An embedded model or the folder of one.
    data
        Pictures with captions to compare with, as for training; repeat it for more.
    num
        How many samples to make; their captions are those of the reference pictures, from the start again when they run out.
    report
        A folder for index.html, result.json, and the pictures and features that were made.
    against
        Another model: is the first one better, on the same captions and seeds?
    curves
        Also measure quality against cost, for several samplers, and against guidance.
    steps
        1..1000 steps of the sampler; these settings are the model's own unless given.
    sampler
        A name or a text such as DDIM(eta=0.5).
    spacing
        Which noise levels the steps visit.
    guidance
        A scale, where 1 is no guidance, or a text such as CFG(scale=4.0).
    seed
        Of the first sample; sample i has seed + i.
    size
        SIDE or WIDTHxHEIGHT in pixels.
    reference
        held-out: pictures that training never saw; train: those that it saw; all: both.
    held_out
        How many of the data the run held out, or all, where the model's card does not say it.
    fit
        How pictures of other sizes are made to fit: crop or pad.
    extractor
        What pictures are compared by: ink, clip:FOLDER, or the path of a feature network.
    clip
        An image-text encoder for the CLIP score and CMMD: the folder of a contrastive run, or a CLIP of transformers.
    bits
        On how many real pictures to compute likelihoods; 0 for none.
    unconditional
        Also measure samples without a caption.
    curve_samplers
        Samplers of the curves, separated by commas, or every; seven usual ones unless given.
    curve_steps
        Numbers of steps of the curves; 5,10,20,40 unless given.
    curve_guidance
        Guidance scales of the curve; 1,2,3,5,8 unless given.
    curve_num
        Samples at every point of the curves; 128 unless given.
    baseline
        An earlier result: exit with 8 when quality is worse by more than --allow.
    allow
        How much worse than the baseline is accepted: 0.10 is a tenth, for Fréchet and kernel distance.
    budget
        A limit such as fd=2.5 or coverage=0.8: exit with 8 when it is not kept. Repeat it for more.
    card
        Write a summary into the card of the model's folder, and its README.md.
    minutes
        Refuse to start when making the pictures would take longer.
    device
        cpu, cuda, cuda:1, mps or auto.
    weak
        A weaker model of the same parts, for --guidance AutoGuidance(scale=2).
    json
        Print the result as JSON.
    quiet
        Print nothing but errors.
    """
    place = None if report is None else as_path(report, "--report")
    settings = Settings(steps, sampler, spacing, guidance, None, seed, size)
    number = check_int(num, "--num", "bad_count", 2, MAX_NUM)
    limits = _limits(budget or (), clip is not None)
    share, longest = _share(allow, "--allow"), _share(minutes, "--minutes") if minutes is not None else math.inf
    if fit not in ("crop", "pad"):
        raise UsageError("bad_fit", f"--fit is {fit[:40]!r}; give crop or pad")
    folder, info = describe_model(model)
    request = first_request("", settings, info)

    from inkwash.evaluate.extractors.features import TextExtractor
    from inkwash.evaluate.extractors.load import load_extractor
    from inkwash.evaluate.judges.adherence import adherence, judge_name
    from inkwash.evaluate.report.card import update_card
    from inkwash.evaluate.report.result import as_json, check_baseline, check_budget, read_result, require_comparable, text_of
    from inkwash.evaluate.run import Options
    from inkwash.evaluate.run import evaluate as run
    from inkwash.evaluate.store import Team
    from inkwash.io.durable import remove_orphans, write_text
    from inkwash.job import inert

    before = read_result(as_path(baseline, "--baseline")) if baseline is not None else None
    if place is not None and baseline is not None and (place / RESULT).resolve() in (Path(baseline).resolve(), Path(baseline, RESULT).resolve()):
        raise UsageError("baseline_replaced", f'--report would replace the baseline "{baseline}", whatever came of it; give a new folder')
    asked = {"--curve-samplers": curve_samplers, "--curve-steps": curve_steps, "--curve-guidance": curve_guidance, "--curve-num": curve_num}
    if not curves and (idle := [name for name, text in asked.items() if text is not None]):
        raise UsageError("curves_off", f"{' and '.join(idle)} without --curves changes nothing; add --curves")
    points = _curves(curve_samplers, curve_steps or "5,10,20,40", curve_guidance or "1,2,3,5,8", curve_num or "128") if curves else None
    if place is not None:
        _prepare(place)
    features = load_extractor(extractor, device)
    texts = load_extractor(clip if clip.startswith("clip:") else f"clip:{clip}", device) if clip is not None else None
    if texts is not None and not isinstance(texts, TextExtractor):
        raise UsageError("unknown_extractor", f"--clip {clip!r} has no text encoder; give the folder of a contrastive run, or a CLIP of transformers")
    pipeline = load(folder, device, weak)
    if not quiet:
        for text in inert(pipeline, request, pipeline.plan(request)):
            warn(text)
    other = None
    if against is not None:
        there, about_other = describe_model(against)
        other = (load(there, device), first_request("", settings, about_other))
        if (other[1].width, other[1].height) != (request.width, request.height):
            warn(f"{about_other.name} draws {other[1].width}x{other[1].height} pixels and {info.name} {request.width}x{request.height}; "
                 f"real pictures of {request.width}x{request.height} stand beside both; --size gives both one size")
    options = Options(request, number, request.seed, reference, held_out, "pad" if fit == "pad" else "crop",
                      check_int(bits, "--bits", "bad_count", 0, MAX_NUM), unconditional, points, minutes=longest)
    team = Team()
    speak = not quiet and team.rank == 0
    if place is not None and team.rank == 0:
        remove_orphans(place)
        remove_orphans(place / CACHE)
    try:
        with _progress(speak) as progress:
            found = run(pipeline, data, options, features, clip=texts, judge=(judge_name(), adherence), other=other,
                        folder=place / CACHE if place is not None else None, progress=progress, say=_say if speak else lambda text: None,
                        check=lambda about: require_comparable({"about": about}, before) if before is not None else None, team=team)
    except KeyboardInterrupt:
        if speak and place is not None:
            _say(f'stopped; the same command goes on from what is in "{place / CACHE}"')
        raise
    finally:
        team.close()
    if found is None:
        return 0
    result = as_json(found)
    if place is not None:
        from inkwash.evaluate.report.page import page

        write_text(place / RESULT, text_of(result))
        write_text(place / PAGE, page(found, pipeline))
    if card:
        update_card(folder, result)
    if json:
        print_json(result)
    elif not quiet:
        print("\n".join(lines(found.metrics, result)))
        if place is not None:
            print(place / PAGE)
    if before is not None:
        _tell(check_baseline(result, before, share), speak and not json)
    if limits:
        _tell(check_budget(result, limits), speak and not json)
    return 0


def lines(metrics: Mapping[str, Estimate], result: Mapping[str, Any]) -> list[str]:
    """The result for people, one number a line."""
    from inkwash.evaluate.measure import METRICS

    about = result["about"]
    found = [f"{about['model']['name']} {about['model']['hash'][:10]}, {about['num']} samples against {about['data']['num_reference']} "
             f"{about['data']['reference']} pictures, features {about['extractors']['features']['name']} "
             f"{about['extractors']['features']['hash'][:10]}"]
    found += [f"  {METRICS[name].title:<42}{estimate.text()}" for name, estimate in metrics.items()]
    if about["judge"] is not None and "adherence" not in metrics:
        found.append(f"  {METRICS['adherence'].title:<42}not judged: fewer than 2 captions ask for a photo of a garment or a scene that can be read")
    for name, row in result["against"].items():
        gap = row["difference"]
        verdict = {"a": "better", "b": "worse", "undecided": "undecided"}[row["better"]]
        more = f", about {row['num_to_decide']} samples decide it" if row["better"] == "undecided" and row["num_to_decide"] else ""
        found.append(f"  against, {METRICS[name].title:<33}{gap['value']:+.4g} [{gap['low']:+.4g}, {gap['high']:+.4g}], p = {row['p']:.2g}: "
                     f"{verdict}{more}")
    return found


def _tell(texts: list[str], speak: bool) -> None:
    if speak:
        print("\n".join(texts))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _prepare(folder: Path) -> None:
    """Makes the report's folder. Raises UsageError `output_not_writable`, or `bad_output` for a folder with other things in it."""
    try:
        if folder.exists() and (not folder.is_dir() or ({path.name for path in folder.iterdir()} and not (folder / CACHE).is_dir())):
            raise UsageError("bad_output", f'--report "{folder}" has other things in it; give a new folder, or one of an earlier report')
        (folder / CACHE).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise UsageError("output_not_writable", f'cannot write to "{folder}": {error.strerror}; give another place by --report') from None


def _limits(texts: Sequence[str], has_clip: bool) -> dict[str, float]:
    """The limits by name. Raises UsageError `bad_budget`, also for two limits of one name and for a metric that needs --clip without it."""
    limits: dict[str, float] = {}
    for name, number in map(_limit, texts):
        if name in limits:
            raise UsageError("bad_budget", f"--budget names {name} twice, with {limits[name]:g} and {number:g}; give one limit for each name")
        if name == "clip" and not has_clip:
            raise UsageError("bad_budget", "--budget clip needs an image-text encoder; name one by --clip")
        limits[name] = number
    return limits


def _limit(text: str) -> tuple[str, float]:
    """("fd", 2.5) of "fd=2.5". Raises UsageError `bad_budget`."""
    from inkwash.evaluate.measure import METRICS

    name, equals, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not equals or name not in METRICS or not math.isfinite(number):
        raise UsageError("bad_budget", f"--budget is {text[:60]!r}; give NAME=NUMBER with NAME one of {', '.join(METRICS)}")
    return name, number


def _share(text: str, option: str) -> float:
    """A finite number of at least 0. Raises UsageError `bad_number`."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise UsageError("bad_number", f"{option} must be a number of at least 0, got {text[:40]!r}")
    return value


def _curves(samplers: str | None, steps: str, guidance: str, num: str) -> Curves:
    """What the options for curves ask for; names are checked before anything is made."""
    from inkwash.cli.grid import read_axis
    from inkwash.evaluate.curves import USUAL, Curves, every_sampler
    from inkwash.request import MAX_STEPS

    names = USUAL if samplers is None else every_sampler() if samplers == "every" else read_axis(f"sampler={samplers}", "--curve-samplers").values
    counts = tuple(check_int(text, "--curve-steps", "bad_steps", 1, MAX_STEPS) for text in read_axis(f"steps={steps}", "--curve-steps").values)
    scales = []
    for text in guidance.split(","):
        scale = check_guidance(text.strip(), "--curve-guidance")
        if isinstance(scale, str):
            raise UsageError("bad_guidance", f"--curve-guidance takes numbers, got {text[:40]!r}; 1 is no guidance")
        scales.append(scale)
    return Curves(tuple(names), counts, tuple(scales), check_int(num, "--curve-num", "bad_count", 2, MAX_NUM))


@contextmanager
def _progress(speak: bool) -> Iterator[Progress]:
    """A bar for each stage on a terminal, elsewhere a line at its end."""
    if not speak or not sys.stderr.isatty():
        def tell(done: int, total: int, what: str) -> None:
            if speak and done == total:
                _say(f"{what}: {done}")

        yield tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("<"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        tasks: dict[str, Any] = {}

        def show(done: int, total: int, what: str) -> None:
            if what not in tasks:
                for old in tasks.values():
                    progress.update(old, visible=False)
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done)

        yield show
