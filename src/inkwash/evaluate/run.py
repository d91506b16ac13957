"""Evaluation of a model: which pictures are made, which numbers come out, and everything that they depend on.

All pictures are made first, by all processes; then one process computes. The same options, model and data give the same numbers, and a run that
was stopped goes on where it was. The cost is said before the first picture is made.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from inkwash._version import __version__
from inkwash.data.item import Source, fingerprint_of
from inkwash.data.source import open_source
from inkwash.data.transform import Mode
from inkwash.errors import DataError, UsageError, expect
from inkwash.evaluate.bits import Bits, bits, require_count
from inkwash.evaluate.collect import Pictures, Samples, data_pictures, features, requests_for, sample, sample_jobs
from inkwash.evaluate.curves import Curves, Point, curve_settings
from inkwash.evaluate.extractors.features import Extractor, TextExtractor
from inkwash.evaluate.measure import Views, compare_all, distances, measure, require_enough, saturation
from inkwash.evaluate.memory import Memory, memory
from inkwash.evaluate.metrics.compare import Comparison
from inkwash.evaluate.metrics.interval import LEVEL, Estimate
from inkwash.evaluate.metrics.slices import Slice, compare_slices, slice_table, slices_by_word
from inkwash.evaluate.parts import Reconstructed, reconstructed
from inkwash.evaluate.split import Split, split
from inkwash.evaluate.store import Job, Progress, Store, Team, Worker, key_of, silent
from inkwash.io.path import as_paths
from inkwash.pipeline import Pipeline
from inkwash.request import MAX_SEED, Request, as_dict, check_int

MAX_NUM = 1_000_000
Say = Callable[[str], None]
Check = Callable[[dict[str, Any]], None]
Judge = Callable[[Tensor, Sequence[str]], Tensor]          # uint8 (B, 3, H, W), captions -> (B,) in 0..1, NaN where nothing is asked


@dataclasses.dataclass(frozen=True)
class Options:
    """What is measured. `request` holds the settings of all samples (its prompt and seed are not used), `first` the first seed.

    reference: "held-out", "train" or "all". bits: pictures for likelihoods, 0 for none. minutes: the most that making pictures may take.
    """

    request: Request
    num: int = 256
    first: int = 0
    reference: str = "held-out"
    held_out: str | None = None
    mode: Mode = "crop"
    bits: int = 8
    unconditional: bool = False
    curves: Curves | None = None
    level: float = LEVEL
    minutes: float = math.inf

    def __post_init__(self) -> None:
        expect(self.request, Request, "request", "bad_request")
        check_int(self.num, "num", "bad_count", 2, MAX_NUM)
        check_int(self.first, "first", "bad_seed", 0, MAX_SEED)
        check_int(self.bits, "bits", "bad_count", 0, MAX_NUM)
        for name, least, most in (("level", 0.0, 1.0), ("minutes", 0.0, math.inf)):
            value = getattr(self, name)
            expect(value, (int, float), name, "bad_number")
            if not least <= value <= most or (name == "level" and value in (least, most)):
                raise UsageError("bad_number", f"{name} must be a number from {least:g} to {most:g}, got {value}")
        expect(self.reference, str, "reference")
        expect(self.held_out, (str, NoneType), "held_out")
        if self.mode not in ("crop", "pad"):
            raise UsageError("bad_fit", f"mode must be crop or pad, got {str(self.mode)[:40]!r}")


class Set(NamedTuple):
    """Samples and what is known of them."""

    samples: Samples
    views: Views


class Evaluation(NamedTuple):
    """Everything that was measured, for the result and the page."""

    about: dict[str, Any]
    request: Request                                       # the settings of the main samples
    real: Pictures
    captions: list[str]                                    # of the real pictures
    train: Source | None
    main: Set
    metrics: dict[str, Estimate]
    parts: dict[str, dict[str, Estimate]]
    psnr: Tensor | None
    bits: Bits | None
    memory: Memory | None
    unconditional: dict[str, Estimate] | None
    slices: dict[str, list[Slice]]
    curves: list[Point]
    other: Set | None
    comparison: dict[str, Comparison]
    compared_slices: dict[str, list[Slice]]


def evaluate(pipeline: Pipeline, data: Sequence[str | Path], options: Options, extractor: Extractor, *, clip: TextExtractor | None = None,
             judge: tuple[str, Judge] | None = None, other: tuple[Pipeline, Request] | None = None, folder: Path | None = None,
             progress: Progress = silent, say: Say = lambda text: None, check: Check = lambda about: None,
             team: Team | None = None) -> Evaluation | None:
    """Measures `pipeline` on `data`; None in processes that only helped. `judge` is a name with its hash, and the function.

    `other` is a second model with its settings, measured on the same captions and seeds. `folder` keeps pictures and features, so that the same
    call goes on after a stop. `check` is told what the numbers will depend on before the first picture is made, and may raise.
    Raises DataError and UsageError: `too_few`, `held_out_unknown`, `too_long`, `invalid_size`, and those of `Request`.
    """
    began = time.perf_counter()
    worker = Worker(Store(folder), team, progress)
    bench = _Bench(worker, extractor, clip, judge)
    data = as_paths(data, "data")
    expect(pipeline, Pipeline, "pipeline")
    expect(options, Options, "options")
    source = open_source(data)
    parts = split(source, pipeline.info.card, options.held_out)
    reference = parts.reference(options.reference)
    require_enough(options.num, len(reference))
    if options.bits:
        require_count(options.bits, len(reference))
    size = pipeline.info.sizes.check(options.request.width, options.request.height)
    real = data_pictures(reference, size, options.mode)
    captions = [reference.caption(i) for i in range(len(reference))]
    if pipeline.info.conditioning == "text" and not any(captions):
        raise DataError("no_captions", "the data has no captions, and the model draws from captions; give data that has some")
    wanted = requests_for(options.request, captions, options.num, options.first)
    against = requests_for(other[1], captions, options.num, options.first) if other is not None else ()
    free = requests_for(dataclasses.replace(options.request, guidance="CFG(scale=0.0)"), captions, options.num if options.unconditional else 0,
                        options.first)
    settings = curve_settings(options.curves, options.request) if options.curves is not None else []
    curved = [requests_for(setting, captions, options.curves.num, options.first) for setting in settings] if options.curves is not None else []
    about = _about(pipeline, data, source, parts, options, extractor, clip, judge, wanted, other, team=worker.team)
    check(about)
    if options.num > len(captions):
        say(f"{options.num} samples of {len(captions)} captions, which are drawn from more than once: intervals are of these captions, "
            "not of others like them")
    _tell_cost(worker, [*((pipeline, part) for part in (wanted, free, *curved)), *([(other[0], against)] if other is not None else [])],
               options.minutes, say)

    main = bench.samples(pipeline, wanted, "samples")
    of_other = bench.samples(other[0], against, "samples of the other model") if other is not None else None
    of_free = bench.samples(pipeline, free, "samples without captions") if free else None
    of_curves = [bench.samples(pipeline, part, f"curves, setting {i + 1} of {len(curved)}") for i, part in enumerate(curved)]
    of_real = bench.views(real, captions, "real pictures")
    rebuilt = reconstructed(pipeline, real, extractor, worker)
    remembered = None
    if parts.train is not None:
        remembered = memory(pipeline, parts, main.samples.pictures, main.views.features, extractor, worker, size, options.mode, options.level)
    cost = bits(pipeline, real, captions, worker, count=options.bits, seed=options.first, level=options.level) if options.bits else None
    if worker.team.rank != 0:
        return None

    metrics = measure(of_real, main.views, level=options.level)
    texts = [request.prompt for request in wanted]
    curves = [Point.of(setting, part.samples, measure(of_real, part.views, level=options.level)) for setting, part in zip(settings, of_curves)]
    return Evaluation(
        about={**about, "nfe": float(main.samples.nfe.double().mean()), "sampling_seconds": round(main.samples.seconds, 2),
               "wall_seconds": round(time.perf_counter() - began, 2)},
        request=options.request, real=real, captions=captions, train=parts.train, main=main, metrics=metrics,
        parts=_parts(of_real, rebuilt, main, options.level), psnr=rebuilt.psnr, bits=cost, memory=remembered,
        unconditional=distances(of_real.features, of_free.views.features, level=options.level) if of_free is not None else None,
        slices={name: _slices(values, texts, options.level) for name, values in scores(main.views).items()},
        curves=curves, other=of_other,
        comparison=compare_all(main.views, of_other.views, of_real, level=options.level) if of_other is not None else {},
        compared_slices={} if of_other is None else _compared(scores(main.views), scores(of_other.views), texts, options.level))


class _Bench:
    """The extractors, and the one way in which every set of images becomes numbers."""

    def __init__(self, worker: Worker, extractor: Extractor, clip: TextExtractor | None, judge: tuple[str, Judge] | None) -> None:
        self.worker, self.extractor, self.clip, self.judge = worker, extractor, clip, judge

    def samples(self, pipeline: Pipeline, requests: Sequence[Request], what: str) -> Set:
        made = sample(pipeline, requests, self.worker, what)
        return Set(made, self.views(made.pictures, [request.prompt for request in requests], f"features of {what}"))

    def views(self, pictures: Pictures, captions: Sequence[str], what: str) -> Views:
        judged = None
        if self.judge is not None:
            judged = self._per_image("adherence", self.judge[0], pictures, captions, self.judge[1], f"adherence of {what}")
        return Views(
            features(self.extractor, pictures, self.worker, what),
            features(self.clip, pictures, self.worker, f"CLIP of {what}") if self.clip is not None else None,
            self.clip.text(list(captions)) if self.clip is not None else None, judged,
            self._per_image("saturation", "1", pictures, captions, lambda images, texts: saturation(images), f"colours of {what}"))

    def _per_image(self, kind: str, version: str, pictures: Pictures, captions: Sequence[str], value: Judge, what: str) -> Tensor:
        """One number per image (N,), NaN allowed."""
        starts = [sum(pictures.sizes[:chunk]) for chunk in range(len(pictures.sizes))]

        def job(chunk: int) -> Job:
            texts = list(captions[starts[chunk] : starts[chunk] + pictures.sizes[chunk]])

            def make() -> dict[str, Tensor]:
                found = value(pictures.pixels(chunk), texts).double()
                return {"value": found.nan_to_num(0.0), "known": ~found.isnan()}

            return Job(key_of(kind, [version, pictures.keys[chunk], texts]), make, pictures.sizes[chunk])

        done = self.worker.do([job(chunk) for chunk in range(len(pictures.keys))], what)
        return torch.cat([torch.where(part["known"], part["value"], math.nan) for part in done])


def scores(views: Views) -> dict[str, Tensor]:
    """Numbers that every image has of its own, (N,) each: what slices and failures are made of."""
    found = {}
    if views.adherence is not None and bool(views.adherence.isfinite().any()):
        found["adherence"] = views.adherence
    if views.clip is not None and views.text is not None:
        found["clip"] = 100 * (views.clip.double() * views.text.double()).sum(1)
    return found


def _slices(values: Tensor, texts: Sequence[str], level: float) -> list[Slice]:
    """By word, among the images that have a value."""
    known = values.isfinite().nonzero().flatten()
    return slice_table(values[known], slices_by_word([texts[i] for i in known.tolist()]), level=level)


def _compared(a: dict[str, Tensor], b: dict[str, Tensor], texts: Sequence[str], level: float) -> dict[str, list[Slice]]:
    """A - B by word, among the images that have a value from both."""
    found = {}
    for name in a:
        if name in b:
            known = (a[name].isfinite() & b[name].isfinite()).nonzero().flatten()
            found[name] = compare_slices(a[name][known], b[name][known], slices_by_word([texts[i] for i in known.tolist()]), level=level)
    return found


def _parts(real: Views, rebuilt: Reconstructed, main: Set, level: float) -> dict[str, dict[str, Estimate]]:
    """The three distances of `inkwash.evaluate.parts`."""
    return {"real to reconstructed": distances(real.features, rebuilt.features, paired=True, level=level),
            "reconstructed to sampled": distances(rebuilt.features, main.views.features, level=level),
            "real to sampled": distances(real.features, main.views.features, level=level)}


def _tell_cost(worker: Worker, work: Sequence[tuple[Pipeline, Sequence[Request]]], minutes: float, say: Say) -> None:
    """Says what is still to be made and how long it will take, from the time of two small trials. Raises UsageError `too_long`."""
    seconds, images, there, evaluations = 0.0, 0, 0, 0
    known: set[str] = set()
    paces: dict[int, tuple[float, float]] = {}
    for pipeline, requests in work:                        # one setting each
        jobs = [job for job in sample_jobs(pipeline, requests) if job.key not in known]
        known |= {job.key for job in jobs}
        missing, whole = worker.missing(jobs), sum(job.images for job in jobs)
        images, there = images + missing, there + whole - missing
        if missing:
            calls = missing * evaluations_of(pipeline, requests[0])
            each, fixed = paces[id(pipeline)] = paces.get(id(pipeline)) or _pace(pipeline, requests[0])
            evaluations, seconds = evaluations + calls, seconds + each * calls + fixed * missing
    seconds /= worker.team.world
    if worker.team.rank == 0:
        say(f"{images} pictures to make, {evaluations:,} network evaluations, about {_long(seconds)} for that; {there} are there from before")
    if worker.team.any(seconds > 60 * minutes):
        raise UsageError("too_long", f"making {images} pictures takes about {_long(seconds)}, more than the {minutes:g} minutes allowed; "
                                     "lower --num or the curves, or allow more")


def evaluations_of(pipeline: Pipeline, request: Request) -> int:
    """Network evaluations of one image: the branches of its guidance, summed over the rows of its table."""
    guidance, plan = pipeline.guidance(request), pipeline.program(request).plan
    lam = (plan.alpha[:-1].log() - plan.sigma[:-1].log()).tolist()
    return sum(max(1, len(guidance.branches(at))) for at in lam[: plan.rows])


def _pace(pipeline: Pipeline, request: Request) -> tuple[float, float]:
    """Seconds of one evaluation of one image, and of everything else for one image."""
    times, calls = [], []
    for steps in (2, 2, 6):                                # the first one warms up
        part = [dataclasses.replace(request, steps=steps, seed=seed) for seed in range(4)]
        began = time.perf_counter()
        made = pipeline.generate(part)
        times.append((time.perf_counter() - began) / 4)
        calls.append(made[0].nfe)
    each = max(0.0, (times[2] - times[1]) / max(1, calls[2] - calls[1]))
    return each, max(0.0, times[1] - each * calls[1])


def _long(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _about(pipeline: Pipeline, data: Sequence[str | Path], source: Source, parts: Split, options: Options, extractor: Extractor,
           clip: TextExtractor | None, judge: tuple[str, Judge] | None, wanted: Sequence[Request], other: tuple[Pipeline, Request] | None, *,
           team: Team) -> dict[str, Any]:
    """Everything that the numbers depend on."""
    named = {"features": extractor, **({"clip": clip} if clip is not None else {})}
    texts = [request.prompt for request in wanted]
    return {
        "date": date.today().isoformat(), "inkwash": __version__, "torch": torch.__version__,
        "model": _model(pipeline), "settings": _settings(options.request),
        "num": options.num, "seeds": [options.first, options.first + options.num - 1], "captions": fingerprint_of("captions", texts),
        "other": None if other is None else {**_model(other[0]), "settings": _settings(other[1])},
        "extractors": {kind: {"name": found.name, "hash": found.hash, "dim": found.dim} for kind, found in named.items()},
        "judge": None if judge is None else judge[0],
        "data": {"names": [written(Path(str(path)).name) for path in data], "fingerprint": source.fingerprint, "reference": options.reference,
                 "reference_fingerprint": parts.reference(options.reference).fingerprint, "num_reference": len(parts.reference(options.reference)),
                 "num_train": 0 if parts.train is None else len(parts.train), "held_out": parts.rule, "fit": options.mode},
        "level": options.level, "processes": team.world, "threads": torch.get_num_threads(), "device": pipeline.device.type,
        "dtype": str(pipeline.dtype).removeprefix("torch."), "determinism": pipeline.determinism,
    }


def written(name: str) -> str:
    """The name of a file, which need not be UTF-8, as text that can be written."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _model(pipeline: Pipeline) -> dict[str, Any]:
    return {"name": pipeline.info.name, "hash": pipeline.hash, "companions": dict(pipeline.companions)}


def _settings(request: Request) -> dict[str, Any]:
    """The settings of samples; guidance in both conventions where it is a scale."""
    found = {name: value for name, value in as_dict(request).items() if name not in ("prompt", "seed")}
    return {**found, "guidance_minus_1": request.guidance - 1 if isinstance(request.guidance, float) else None}
