"""Is a model what its folder says? The files against the manifest, and the declared conventions against what the networks do.

A prediction, a direction of time, a noise coordinate, a gauge or a latent scale that is declared wrongly crashes nothing: it makes bad pictures.
But a trained network removes noise best when it is read and asked as it was trained. So each declaration is tried against all others on a few
clean pictures, which the package draws itself, and stands unless another one is clearly better. Nothing here needs the training data. Two
declarations that mean the same number (EDM of unit data and -v, Angle and the time index of the cosine schedule) are not told apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from types import NoneType

import torch
from torch import Tensor

from inkwash.codec import Latent
from inkwash.cond import Cond
from inkwash.core import noise
from inkwash.core.level import Clean, Level
from inkwash.core.prediction import require_solvable
from inkwash.errors import InkwashError, UsageError, expect
from inkwash.evaluate.denoisers.conventions import Asked, ask_otherwise
from inkwash.evaluate.denoisers.latents import other_statistics
from inkwash.evaluate.denoisers.probe import probe
from inkwash.io.find import find_model, read_info
from inkwash.io.foreign_info import is_foreign
from inkwash.io.path import as_path
from inkwash.pipeline import Pipeline
from inkwash.request import Request
from inkwash.verify.claim import Claim, Finding, Report
from inkwash.verify.files import disagreements, faults
from inkwash.verify.pictures import Pictures, drawn, read

LEAK = 0.1                                                 # Stable Diffusion's schedule leaks 0.068
BAND = (0.9, 1.1)                                          # of a latent's std, after the stored scale
DEVIATIONS = 3.0
WILD = 2.0                                                 # a std of latents that no autoencoder was made for; untrained networks make them
COUNT, FEW, MANY = 16, 8, 64                               # pictures for the probes, for the costly ones, for statistics of given data

CLAIMS = (
    Claim("files", "Every file has the bytes of the manifest, every tensor its name, shape, dtype and SHA-256, and all values are finite."),
    Claim("parts", "The parts agree on channels, latent size, text length and width, and every part can be built."),
    Claim("defaults", "A request with the default settings can be made, and none of them is inert."),
    Claim("terminal", f"The prediction gives x0 at the last level, and at most {LEAK:g} of the signal's amplitude is left there."),
    Claim("prediction", "No other prediction, sign or direction of time explains the network's answers clearly better than the declared one."),
    Claim("coordinate", "No other noise coordinate makes the network denoise clearly better."),
    Claim("gauge", "Neither of the other gauges makes the network denoise clearly better."),
    Claim("scale", "No other scale of the data makes the network denoise clearly better."),
    Claim("order", "The network does not denoise clearly better with the channels in reverse order."),
    Claim("statistics", "Under no other latent mean or std are pictures clearly more likely; and given pictures have std 0.9 to 1.1."),
    Claim("round trip", "Latents that the model makes come back from pixels with 0.9 to 1.1 of their std."),
    Claim("condition", "Right captions serve at least as well as none, and no caption at least as well as wrong ones."),
    Claim("repeat", "The same request gives the same bits again."),
)

CORRECT = "if the weights are right, correct {} in inkwash.json as the guide Verify shows"
NEXT = {                                                   # what to do when a claim fails
    "files": "restore that file from where the model came from, or export the model again",
    "parts": "export the model again from one training; parts of two models do not mix",
    "defaults": CORRECT.format("defaults"), "terminal": CORRECT.format("process or prediction"), "prediction": CORRECT.format("prediction"),
    "coordinate": CORRECT.format("coordinate"), "gauge": CORRECT.format("gauge"), "scale": CORRECT.format("sigma_data, or std of the latents,"),
    "order": "give the network its channels in the order of its training: convert the weights again",
    "statistics": CORRECT.format("mean and std"), "round trip": "export the model with the autoencoder that it was trained with",
    "condition": "export the model with the tokenizer, text encoder and null condition that it was trained with",
    "repeat": "run it with one thread; if the bits still differ, the machine or its torch is at fault",
}


def report(model: str | Path, only: str | None = None, data: str | Path | None = None) -> Report:
    """Findings about a model folder or an embedded model. `only` names one claim; `data` is a path to pictures of the kind it was trained on.

    Raises CheckpointError `model_not_found`, `model_damaged` for a folder without a readable inkwash.json, and UsageError `unknown_part`.
    """
    start = time.perf_counter()
    expect(only, (str, NoneType), "only", "unknown_part")
    if data is not None:
        as_path(data, "data")
    folder = find_model(model)
    info = read_info(folder)
    names = [claim.name for claim in CLAIMS]
    if only is not None and only not in names:
        raise UsageError("unknown_part", f"a model has no claim {only[:60]!r}; known: {', '.join(names)}")
    findings, pipe = open_model(folder, info.name)
    head: tuple[tuple[str, str], ...] = (
        ("folder", str(folder)), ("declared", f"{info.process}, {info.prediction}, gauge {info.gauge}, sigma_data {info.sigma_data:g}"))
    if pipe is not None:
        pictures = read(data, MANY, info.sizes.default) if data is not None else drawn(COUNT, info.sizes.default)
        head += (("pictures", f"{len(pictures.captions)} of {data}" if data is not None else f"{COUNT} drawn scenes"),)
        findings += examine(pipe, pictures, only)
    if only is not None:
        findings = [finding for finding in findings if finding.claim == only or not finding.passed]
    claims = tuple(claim for claim in CLAIMS if only in (None, claim.name))
    return Report(f"model {info.name}", claims, tuple(findings), time.perf_counter() - start, head, tall=True)


def open_model(folder: Path, name: str) -> tuple[list[Finding], Pipeline | None]:
    """What the files say, and the model, None where they are not fit to be run."""
    count, wrong = faults(folder)
    findings = [_finding(name, "files", not wrong, f"{wrong[0]}{_more(wrong)}" if wrong else
                         f"{count} tensors are finite; a folder of diffusers has no hashes to compare" if is_foreign(folder) else
                         f"{count} tensors match the manifest", "all match the manifest")]
    if wrong:
        return findings, None
    try:
        apart = disagreements(folder, read_info(folder))
        pipe = Pipeline.from_pretrained(folder)
    except (InkwashError, ValueError) as error:
        return [*findings, _finding(name, "parts", False, str(error), "parts that can be built")], None
    findings.append(_finding(name, "parts", not apart, f"{apart[0]}{_more(apart)}" if apart else "they agree", "one value in all parts"))
    return findings, None if apart else pipe


def examine(pipe: Pipeline, pictures: Pictures, only: str | None = None) -> list[Finding]:
    """What the networks do with clean pictures, compared with what is declared; all claims but `files` and `parts`, or `only` one."""
    return Examination(pipe, pictures).findings(only)


class Examination:
    """The checks of one model on one set of pictures."""

    def __init__(self, pipe: Pipeline, pictures: Pictures) -> None:
        self.pipe, self.all, self.few = pipe, pictures, pictures.first(COUNT)
        self.name = pipe.info.name

    def findings(self, only: str | None = None) -> list[Finding]:
        """One finding for each claim that applies. Without a solvable terminal level nothing else can be asked."""
        found = [self.defaults()] if only in (None, "defaults") else []
        found.append(terminal := self.terminal())
        checks: dict[str, Callable[[], Finding | None]] = {
            "prediction": self.prediction, **{kind: partial(self.way, kind) for kind in ("coordinate", "gauge", "scale", "order")},
            "statistics": self.statistics, "round trip": self.round_trip, "condition": self.condition, "repeat": self.repeat}
        for name, check in checks.items():
            if terminal.passed and only in (None, name):
                found += filter(None, [check()])
        return found

    @cached_property
    def x0(self) -> Tensor:
        """The pictures in model space (B, C, h, w)."""
        return self.pipe.codec.encode(self.few.pixels).x

    @cached_property
    def cond(self) -> Cond:
        """What the captions mean to the network."""
        with torch.no_grad():
            return self._told(self.pipe.conditioner(self.few.captions))

    def _told(self, cond: Cond) -> Cond:
        return Cond({**cond, "guidance": torch.ones(cond.batch)}, cond.batch) if self.pipe.distilled else cond

    @cached_property
    def asked(self) -> Asked:
        """Every way of asking the network."""
        return ask_otherwise(self.pipe.denoiser, self.pipe.schedule, self.x0, self.cond)

    def finding(self, claim: str, passed: bool, measured: str, expected: str, note: str = "", cell: str = "") -> Finding:
        return _finding(self.name, claim, passed, measured, expected, note, cell)

    def defaults(self) -> Finding:
        """Whether the default settings are those of a request, and guidance has something to guide by."""
        given, (wide, high) = self.pipe.info.defaults, self.pipe.info.sizes.default
        named = f"{given.sampler}, {given.spacing}, {given.steps} steps, guidance {given.guidance:g}"
        try:
            request = Request(self.few.captions[0], "", 0, given.steps, given.sampler, given.spacing, given.guidance, wide, high)
            self.pipe.program(request)
        except InkwashError as error:
            return self.finding("defaults", False, error.message, "settings that can be used")
        inert = self.pipe.info.conditioning == "none" and given.guidance != 1.0
        return self.finding("defaults", not inert, f"{named}{', which is inert: the model has no condition' if inert else ''}", "no inert setting")

    def terminal(self) -> Finding:
        """Whether sampling can start where the process ends."""
        leak = self.pipe.schedule.leak()
        try:
            require_solvable(self.pipe.denoiser.prediction, self.pipe.schedule)
        except UsageError as error:
            return self.finding("terminal", False, error.message.partition("; use")[0], "a prediction that gives x0 there")
        return self.finding("terminal", leak <= LEAK, f"{leak:.4g} of the signal's amplitude left", f"at most {LEAK:g}", cell=f"{leak:.3f}")

    def prediction(self) -> Finding:
        """The probe of predictions, signs and directions of time."""
        found = probe(self.pipe.denoiser, self.pipe.schedule, self.x0, self.cond)
        best = "{0} with error {0.error:.3g}".format(found.best if found.trained else found.readings[0])
        return self.finding("prediction", found.agrees, best if found.trained else f"{best}, no better than a guess: untrained, or asked wrongly",
                            f"{found.declared}, which has error {found.declared.error:.3g}", cell=f"{found.declared.error:.2f}")

    def way(self, kind: str) -> Finding | None:
        """Coordinate, gauge, scale or order."""
        if kind == "order" and self.x0.shape[1] < 2:
            return None
        other, nearest, own = self.asked.better(kind), self.asked.nearest(kind), self.asked.declared
        declared = {"coordinate": repr(self.pipe.denoiser.coordinate), "gauge": self.pipe.denoiser.gauge.value,
                    "scale": f"sigma_data {self.pipe.denoiser.sigma_data:g}", "order": "the declared order"}[kind]
        way = other or nearest
        return self.finding(kind, other is None, f"error {own.error:.3g} with {declared}, {way.error:.3g} with {way.name}",
                            "no other way clearly better")

    def statistics(self) -> Finding | None:
        """Mean and std of the latents, by the likelihood of pictures, and by counting where pictures were given."""
        codec = self.pipe.codec
        if not isinstance(codec, Latent):
            return None
        if self.all.own:
            low, high = spread(codec.encode(self.all.pixels).x / self.pipe.denoiser.sigma_data)
            if bool((high < BAND[0]).any() or (low > BAND[1]).any()):
                return self.finding("statistics", False, f"std of the given pictures by channel {in_words(low, high)}", "0.9 to 1.1")
        few = min(FEW, len(self.x0))
        best = other_statistics(self.pipe.denoiser, self.x0[:few] * codec.std + codec.mean, codec.mean.flatten(), codec.std.flatten(),
                                self.cond.take(range(few)))[0]
        word = "more" if best.gain > 0 else "less"
        return self.finding("statistics", not best.better, f"pictures are {abs(best.gain):.3f} nats per number {word} likely with {best.name}",
                            "no others under which they are clearly more likely")

    @torch.no_grad()
    def round_trip(self) -> Finding | None:
        """Own latents, to pixels and back."""
        if not isinstance(self.pipe.codec, Latent):
            return None
        wide, high = self.pipe.info.sizes.default
        prompts = self.few.captions[:FEW]
        made = self.pipe.generate([Request(prompt, "", seed, 12, "ddim", "trailing", 1.0, wide, high) for seed, prompt in enumerate(prompts)],
                                  decode=False)
        z = torch.stack([image.latent for image in made])
        size = float(z.std()) / self.pipe.denoiser.sigma_data
        if not 1 / WILD < size < WILD:
            return self.finding("round trip", True, f"nothing: the model makes latents of {size:.3g} times the std of its training",
                                "0.9 to 1.1")
        back = self.pipe.codec.encode(self.pipe.codec.decode(Clean(z))).x
        ratio = back.std((0, 2, 3)) / z.std((0, 2, 3))
        worst = float(ratio[(ratio - 1).abs().argmax()])
        return self.finding("round trip", BAND[0] <= worst <= BAND[1],
                            f"latents come back with {worst:.3f} of their std", "0.9 to 1.1", cell=f"{worst:.2f}")

    @torch.no_grad()
    def condition(self) -> Finding | None:
        """Errors under right captions, no caption, and captions of other pictures."""
        if self.pipe.info.conditioning != "text" or len(set(self.all.captions)) < 2:
            return None
        captions, x0 = self.all.captions, self.pipe.codec.encode(self.all.pixels).x
        size = len(captions)
        others = [next(j % size for j in range(i + 1, i + size) if captions[j % size] != caption) for i, caption in enumerate(captions)]
        told = self._told(self.pipe.conditioner(captions))
        right, none, wrong = (self._errors(x0, cond) for cond in (told, self._told(self.pipe.conditioner.null(size)), told.take(others)))
        if torch.equal(right, wrong):
            return self.finding("condition", False, "the same error with right and wrong captions", "a network that reads its condition")
        for better, worse, words in ((none, right, "no caption serves better than the right one"),
                                     (wrong, none, "wrong captions serve better than none")):
            gain = worse - better
            if gain.mean() / (gain.std() / gain.numel() ** 0.5).clamp(min=1e-12) >= DEVIATIONS:
                return self.finding("condition", False, f"{words}: error {better.mean():.3g} against {worse.mean():.3g}", "right <= none <= wrong")
        return self.finding("condition", True, f"error {right.mean():.3g} with right captions, {none.mean():.3g} with none, "
                            f"{wrong.mean():.3g} with wrong ones", "right <= none <= wrong")

    def _errors(self, x0: Tensor, cond: Cond) -> Tensor:
        """Squared errors (3 B,) at three noisy levels, where a condition matters."""
        found = []
        for k, at in enumerate((0.5, 0.7, 0.85)):
            level = Level(*(part.expand(len(x0)) for part in self.pipe.schedule(at)))
            x = level.mix(x0, noise.normal(x0.shape, 0, 0, k, "condition").to(x0))
            found.append((self.pipe.denoiser(x, level, cond) - x0).square().flatten(1).mean(1))
        return torch.cat(found)

    def repeat(self) -> Finding:
        """One request twice, and the self-test of the machine."""
        wide, high = self.pipe.info.sizes.default
        request = Request(self.few.captions[0], "", 0, 2, "ddim", "trailing", 1.0, wide, high)
        first, again = (self.pipe.generate([request], decode=False)[0].latent for _ in range(2))
        return self.finding("repeat", torch.equal(first, again), "the same bits" if torch.equal(first, again) else "other bits", "the same bits",
                            f"determinism in any company: {self.pipe.determinism}", cell=self.pipe.determinism)


def spread(x: Tensor) -> tuple[Tensor, Tensor]:
    """Between what the std of each channel (C,) of pictures x (B, C, h, w) lies, by three standard errors over pictures."""
    squares = (x - x.mean((0, 2, 3), keepdim=True)).square().mean((2, 3))               # (B, C)
    std = squares.mean(0).sqrt()
    error = DEVIATIONS * squares.std(0) / len(x) ** 0.5 / (2 * std).clamp(min=1e-12)
    return std - error, std + error


def in_words(low: Tensor, high: Tensor) -> str:
    """Intervals (C,) of which some lie outside the band."""
    return ", ".join(f"{float(a):.3g}..{float(b):.3g}" for a, b in zip(low, high, strict=True))


def _finding(name: str, claim: str, passed: bool, measured: str, expected: str, note: str = "", cell: str = "") -> Finding:
    return Finding("model", name, claim, passed, measured, expected, note if passed else f"next: {NEXT[claim]}", cell)


def _more(items: list[str]) -> str:
    return f" and {len(items) - 1} more" if len(items) > 1 else ""
