"""Text to images: a denoiser, a codec and a conditioner, and the requests that run through them.

`generate` is the core: each request becomes a program (sampler's table, start noise), and all programs of one image size advance
together, one guided evaluation per row. Network calls have `micro_batch` rows, filled up when fewer are left, or another number that a
self-test found to give the same bits. So an image is a function of its request alone, and its bytes are the same in any company;
`determinism` proves that on this machine before it says "exact". `Pipeline.__call__` wraps the core in the argument names that users
of diffusers know.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import Any, Self

import torch
from torch import Tensor

from inkwash.calls import cut
from inkwash.codec import Codec, Latent, Pixels
from inkwash.companion import Classifier, load_classifier, require_same_space
from inkwash.cond import Cond
from inkwash.condition import Conditioner, NoConditioner, TextConditioner
from inkwash.core.coordinate import Coordinate
from inkwash.core.level import Gauge, Level
from inkwash.core.prediction import Prediction
from inkwash.core.schedule import Schedule
from inkwash.core.spacing import Spacing
from inkwash.denoiser import Denoiser
from inkwash.device import check_dtype, compute_dtype, on_host, parse_device
from inkwash.edit import from_picture
from inkwash.errors import CheckpointError, InkwashWarning, UsageError, expect
from inkwash.guide import CFG, Distilled, Guidance, NoGuidance
from inkwash.guide.evaluate import Cut
from inkwash.io.durable import new_folder
from inkwash.io.find import find_model
from inkwash.io.folder import load_info, load_part, load_tokenizer, model_hash, part_folder, part_hash, save_info, save_part, save_tokenizer
from inkwash.io.info import INFO, ModelInfo
from inkwash.io.path import as_path
from inkwash.job import by_shape, condition, images, prepare, step, undisturbed
from inkwash.output import Image, Output, deliver, seeds_for
from inkwash.picture import Source, fit_pictures
from inkwash.request import Request, check_guidance, check_int, sampler_and_spacing
from inkwash.sample import Plan, Program, Progress, Sampler, prior
from inkwash.value import parse

StepCallback = Callable[[Progress], None]


class Pipeline:
    """A model that is ready to make images. `schedule` is its noise process; `info` what its folder says of it.

    Made of parts it runs where the denoiser is, in the denoiser's number format; `to` moves and casts all parts together.
    """

    micro_batch = 2                                        # rows of a network call: guidance has two branches

    def __init__(self, denoiser: Denoiser, codec: Codec, conditioner: Conditioner, info: ModelInfo, source: Path | None = None, *,
                 weak: Denoiser | None = None, classifier: Classifier | None = None) -> None:
        self.denoiser = denoiser
        self.codec = codec.eval()
        self.conditioner = conditioner.eval()
        self.info = info
        self.source = source
        self.weak = weak
        self.classifier = classifier
        self.companions: dict[str, str] = {}
        self.schedule = parse(info.process, Schedule)  # type: ignore[type-abstract]
        own = next((one for one in denoiser.parameters() if one.is_floating_point()), torch.empty(0, dtype=torch.float32, device="cpu"))
        self.device, self.dtype = own.device, own.dtype
        self._calls: dict[tuple[int, tuple[int, ...]], tuple[int, Mapping[int, float]]] = {}
        self._progress: dict[str, Any] = {"disable": None}     # a bar on a terminal only

    @classmethod
    def from_pretrained(cls, model: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None,
                        weak: str | Path | None = None, classifier: str | Path | None = None) -> Self:
        """The model in a folder or of an embedded name. `dtype` is what the networks compute in, by default the fastest that is safe.

        `weak` is a model folder whose denoiser AutoGuidance compares with, `classifier` the folder of a finished classifier run for
        ClassifierGuidance. Raises CheckpointError: `model_not_found`, `model_damaged`, `ckpt_corrupt`, `model_too_new`, `wrong_companion`;
        UsageError: `bad_path`, `bad_device`, `bad_dtype`.
        """
        parse_device(device), check_dtype(dtype)           # before what takes long
        with on_host():
            return cls._load(find_model(model), device, dtype, weak, classifier)

    @classmethod
    def _load(cls, folder: Path, device: str | torch.device, dtype: torch.dtype | None, weak: str | Path | None,
              classifier: str | Path | None) -> Self:
        info = load_info(folder)
        denoiser = cls._denoiser(folder, info)
        codec: Codec = Pixels()
        if info.codec == "latent":
            codec = Latent(load_part(folder, "vae"), info.mean, info.std, info.factor)  # type: ignore[arg-type]
        conditioner: Conditioner = NoConditioner()
        if info.conditioning == "text":
            learned = (folder / "conditioner").is_dir() or part_hash(folder, "conditioner")
            null = load_part(folder, "conditioner") if learned else None
            conditioner = TextConditioner(load_tokenizer(folder, info.length), load_part(folder, "text_encoder"),
                                          null, vocabulary=info.vocabulary)  # type: ignore[arg-type]
        other = None
        if weak is not None:
            require_same_space(find_model(weak), folder)
            other = cls._denoiser(find_model(weak), load_info(find_model(weak))).eval()
        judge = load_classifier(classifier, folder) if classifier is not None else None
        pipe = cls(denoiser.eval(), codec, conditioner, info, folder, weak=other, classifier=judge).to(device, dtype)
        pipe.companions = {**({"weak": model_hash(find_model(weak))} if weak is not None else {}),
                           **({"classifier": part_hash(part_folder(classifier, "classifier"), "classifier")} if classifier is not None else {})}
        pipe.hash = model_hash(folder)                     # of what was loaded, whatever becomes of the folder
        return pipe

    @staticmethod
    def _denoiser(folder: Path, info: ModelInfo) -> Denoiser:
        try:
            parse(info.process, Schedule)  # type: ignore[type-abstract]
            prediction, gauge = parse(info.prediction, Prediction), Gauge(info.gauge)  # type: ignore[type-abstract]
            coordinate = parse(info.coordinate, Coordinate) if info.coordinate else None  # type: ignore[type-abstract]
        except (UsageError, ValueError) as error:
            raise CheckpointError("model_damaged", f'"{folder / INFO}": {error}; restore the file') from None
        return Denoiser(load_part(folder, info.network), prediction, gauge, sigma_data=info.sigma_data, coordinate=coordinate)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Writes the model folder, all or nothing. `dtype` is that of the stored weights; an older model there is replaced.

        None stores the numbers as the networks hold them, which where bfloat16 computes fastest are rounded to it: open a model with
        dtype=torch.float32 to save all that its files have.

        Raises UsageError: `bad_path`, `bad_dtype`, `bad_output`, `output_not_writable`; ResourceError `disk_full`.
        """
        path = as_path(folder, "the folder to save to")
        check_dtype(dtype)
        try:
            if path.exists() and not (path / INFO).is_file() and (not path.is_dir() or any(path.iterdir())):
                raise UsageError("bad_output", f'"{path}" is a file or a folder with other things in it; give a new folder or one that holds a model')
            path.parent.mkdir(parents=True, exist_ok=True)
            self._save(path, dtype)
        except OSError as error:
            raise UsageError("output_not_writable", f'cannot write to "{path}": {error.strerror}; give another folder') from None

    def _save(self, path: Path, dtype: torch.dtype | None) -> None:
        with new_folder(path) as target:
            save_part(target, self.info.network, self.denoiser.network, dtype=dtype)
            if isinstance(self.codec, Latent):
                save_part(target, "vae", self.codec.vae, dtype=dtype)
            if isinstance(self.conditioner, TextConditioner):
                save_part(target, "text_encoder", self.conditioner.encoder, dtype=dtype)
                if self.conditioner.empty is not None:
                    save_part(target, "conditioner", self.conditioner.empty)
                save_tokenizer(target, self.conditioner.tokenizer)
            save_info(target, self.info)

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> Self:
        """Moves the model; the networks get `dtype`, or what computes fastest there. Raises UsageError: `bad_device`, `bad_dtype`."""
        self.device = parse_device(device)
        self.dtype = check_dtype(dtype) or compute_dtype(self.device)
        for denoiser in (self.denoiser, self.weak):
            if denoiser is not None:
                _place(denoiser.network, self.device, self.dtype)
        if self.classifier is not None:
            self.classifier.network.to(self.device)        # stays float32: its gradient would lose too much
        self.codec.to(self.device)
        if isinstance(self.codec, Latent):
            _place(self.codec.vae, self.device, self.dtype)
        self.conditioner.to(self.device)
        self.__dict__.pop("determinism", None)
        self._calls = {}
        return self

    @cached_property
    def hash(self) -> str:
        """`model_hash` of the folder it was loaded from. Raises UsageError `not_saved` for a model that was never saved."""
        if self.source is None:
            raise UsageError("not_saved", "a model that was not loaded from a folder has no hash; save it and load it")
        return model_hash(self.source)

    @cached_property
    def determinism(self) -> str:
        """ "exact" when a self-test finds the same bits for a row in every slot of a network call and beside other rows, else "tolerance"."""
        from inkwash.selftest import same_bits

        with undisturbed(self):
            return "exact" if same_bits(self) else "tolerance"

    def call_seconds(self, shape: tuple[int, ...], most: int) -> Mapping[int, float]:
        """Seconds of one network call on x of `shape`, for each size up to `most` that gives a row the same bits as `micro_batch` rows do.

        A self-test finds them, once for each shape.
        """
        from inkwash.selftest import certified

        key = (self.micro_batch, shape)
        tried, seconds = self._calls.get(key, (0, {}))
        if tried < most:
            with undisturbed(self):
                self._calls[key] = most, (seconds := certified(self, shape, most))
        return seconds

    @property
    def models(self) -> dict[str, Callable[[Tensor, Level, Cond], Tensor]]:
        """What a guidance may name: the denoiser, a weaker one, and the shift of a classifier."""
        found: dict[str, Callable[[Tensor, Level, Cond], Tensor]] = {"main": self.denoiser}
        if self.weak is not None:
            found["weak"] = self.weak
        if self.classifier is not None:
            found["classifier"] = self.classifier.shift
        return found

    @property
    def distilled(self) -> bool:
        """Whether the denoiser is a student of guidance, which is told the scale."""
        return bool(getattr(getattr(self.denoiser.network, "config", None), "guidance", False))

    def guidance(self, request: Request) -> Guidance:
        """The Guidance that a request means: a scale is classifier-free guidance against the negative prompt, if any, else the null token.

        A student of guidance is told the scale instead. Raises UsageError `bad_guidance` for a Guidance that does not suit the model.
        """
        if isinstance(request.guidance, str):
            found = parse(request.guidance, Guidance)  # type: ignore[type-abstract]
            if self.distilled != isinstance(found, Distilled):
                state, name = ("is", "Distilled") if self.distilled else ("is not", "CFG")
                raise UsageError("bad_guidance", f"guidance {state} distilled into {self.info.name}; give a scale, or {name}(scale)")
            if request.negative and getattr(found, "against", None) == "null":
                found = dataclasses.replace(found, against="negative")  # type: ignore[type-var]
        elif self.distilled:
            found = Distilled(request.guidance)
        elif request.guidance == 1.0:
            found = NoGuidance()
        else:
            found = CFG(scale=request.guidance, against="negative" if request.negative else "null")
        return found.bind((-1.0, 1.0) if isinstance(self.codec, Pixels) else None)

    def plan(self, request: Request) -> Plan:
        """The request's table. Raises UsageError for a sampler, spacing or size that is not known, `bad_request` for what is no Request."""
        expect(request, Request, "a request", "bad_request")
        self.info.sizes.check(request.width, request.height)
        spacing, sampler = parse(request.spacing, Spacing), parse(request.sampler, Sampler)  # type: ignore[type-abstract]
        path = spacing.levels(self.schedule, request.steps)
        return sampler.plan(path if request.strength is None else path.cut(request.strength))

    def program(self, request: Request) -> Program:
        """The request's table and its start: noise, or its image with noise, which costs an encoding. The seed alone names the noise, so
        image i of a batch is the image of seed + i."""
        plan, shape = self.plan(request), self.codec.shape(request.width, request.height)
        if request.image is not None:
            return from_picture(self.codec, request, plan, self.device)
        return Program(plan, request.seed, 0, prior(plan, shape, request.seed, 0).to(self.device))

    def generate(self, requests: Sequence[Request], on_step: StepCallback | None = None, *, decode: bool = True) -> list[Image]:
        """One image per request, in order; unlike requests share the network calls. Everything is checked before the first call.

        Images of one size are made together, one size after another. `on_step` is told after each network call: done and total count the steps
        of that size, `which` are places in `requests`.
        A denoiser in training is put into eval mode meanwhile. Raises UsageError for what the model cannot make.
        """
        expect(requests, Sequence, "the requests of generate", "bad_request")
        expect(on_step, (Callable, NoneType), "on_step", "bad_callback")  # type: ignore[arg-type]
        jobs = [prepare(self, request) for request in requests]
        training = self.denoiser.training
        self.denoiser.eval()
        try:
            condition(self, jobs, self.encode)
            places = {id(job): place for place, job in enumerate(jobs)}
            for members in by_shape(jobs):
                total = max(len(job.rows) for job in members)
                while pending := [job for job in members if not job.done]:
                    x0 = step(self, pending)
                    if on_step is not None:
                        on_step(Progress(max(job.row for job in pending), total, torch.tensor([places[id(job)] for job in pending]), x0))
            return images(self, jobs, decode)
        finally:
            self.denoiser.train(training)

    def encode(self, text: str | None) -> Cond:
        """The condition of one prompt, or of the absence of a prompt."""
        with undisturbed(self):
            return (self.conditioner.null(1) if text is None else self.conditioner([text])).to(self.device)

    def calls(self, shape: tuple[int, ...], pending: int) -> Cut:
        """What cuts rows into network calls: by measurement where a test of the shape pays or was made, else `micro_batch` rows each."""
        tested = (self.micro_batch, shape) in self._calls
        if tested or (pending > self.micro_batch and shape == self.codec.shape(*self.info.sizes.default)):
            seconds = self.call_seconds(shape, 0 if tested else 8)
            return lambda count: cut(count, seconds)
        return lambda count: (self.micro_batch,) * -(-count // self.micro_batch)

    def __call__(self, prompt: str | Sequence[str], negative_prompt: str | None = None, num_inference_steps: int | None = None,
                 guidance_scale: float | str | Guidance | None = None, height: int | None = None, width: int | None = None,
                 generator: torch.Generator | Sequence[torch.Generator] | None = None, seed: int | None = None, num_images_per_prompt: int = 1,
                 sampler: str | Sampler | None = None, spacing: str | Spacing | None = None,
                 callback_on_step_end: Callable[[Pipeline, int, int, dict[str, Tensor]], object] | None = None,
                 output_type: str = "pil", image: Source | None = None, mask_image: Source | None = None, strength: float | None = None) -> Output:
        """Images of one or more prompts, under the names that diffusers made usual.

        Image i of all has the seed `seed + i`; a generator draws the first seed (a list draws one each); without either it is random.
        `callback_on_step_end(pipe, step, steps, {"latents": x0})` sees the denoised latents, for previews; what it returns is not used.
        `output_type`: "pil", "pt" (N, 3, H, W) in 0..1, "np" (N, H, W, 3) in 0..1, or "latent".
        `image` is what all of them start from, `strength` in (0, 1] how much of it changes, `mask_image` where: white is painted. Pictures of
        another size are cut to their middle and resized, with a warning.
        """
        if not isinstance(output_type, str) or output_type not in ("pil", "pt", "np", "latent"):
            raise UsageError("bad_output_type", f"output_type must be 'pil', 'pt', 'np' or 'latent', got {str(output_type)[:40]!r}")
        expect(callback_on_step_end, (Callable, NoneType), "callback_on_step_end", "bad_callback")  # type: ignore[arg-type]
        count = check_int(num_images_per_prompt, "num_images_per_prompt", "bad_count", 1, 10_000)
        expect(prompt, (str, list, tuple), "the prompt", "bad_prompt")
        if not prompt and not isinstance(prompt, str):
            raise UsageError("bad_prompt", "the list of prompts is empty; give at least one text")
        prompts = [text for text in ([prompt] if isinstance(prompt, str) else prompt) for _ in range(count)]
        default = self.info.defaults
        guidance = default.guidance if guidance_scale is None else guidance_scale
        wide, high = self.info.sizes.default
        chosen, spread = sampler_and_spacing(None if sampler is None else str(sampler), None if spacing is None else str(spacing),
                                             default.sampler, default.spacing)
        wide, high = wide if width is None else width, high if height is None else height
        if image is not None:
            wide, high = self.info.sizes.check(*(check_int(side, "width and height", "invalid_size", 1, 1 << 16) for side in (wide, high)))
        source, mask, note = fit_pictures(image, mask_image, wide, high)
        if note:
            warnings.warn(note, InkwashWarning, stacklevel=2)
        steps = default.steps if num_inference_steps is None else num_inference_steps
        requests = [Request(text, "" if negative_prompt is None else negative_prompt, number, steps, chosen, spread,
                            repr(guidance) if isinstance(guidance, Guidance) else check_guidance(guidance, "guidance_scale"),
                            wide, high, source, mask, strength)
                    for text, number in zip(prompts, seeds_for(len(prompts), seed, generator))]
        with self._bar(requests) as bar:
            def on_step(progress: Progress) -> None:
                bar.update(progress.done - bar.n)
                if callback_on_step_end is not None:
                    callback_on_step_end(self, progress.done - 1, progress.total, {"latents": progress.x0})

            made = self.generate(requests, on_step, decode=output_type != "latent")
        for text in dict.fromkeys(text for image in made for text in image.warnings):
            warnings.warn(text, InkwashWarning, stacklevel=2)
        return deliver(made, output_type)

    def _bar(self, requests: Sequence[Request]) -> Any:
        from tqdm.auto import tqdm

        plans = [self.plan(request).rows for request in requests[:1]]
        return tqdm(**{"total": max(plans, default=0), "leave": False, **self._progress})

    def set_progress_bar_config(self, *, disable: bool | None = None, leave: bool = False, desc: str | None = None) -> None:
        """Settings of the tqdm bar; disable=None shows it on a terminal only."""
        self._progress = {"disable": disable, "leave": leave, "desc": desc}

    def enable_vae_tiling(self, tile: int = 512) -> None:
        """Decodes images with a side above `tile` pixels in tiles, so that memory does not grow with the image. Raises UsageError `bad_tile`."""
        side = check_int(tile, "tile", "bad_tile", 16, 1 << 16)
        if isinstance(self.codec, Latent):
            self.codec.tile = side


def _place(module: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Moves and casts a network in place; convolutions want their channels last."""
    module.to(device, dtype)
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
