"""Training a denoiser: at a random noise level, from a noisy image and what it is told, estimate y = a x0 + b eps.

    L = w(level) |network(x_t, level, cond) - y|^2,   x_t = alpha x0 + sigma eps,   one t, eps and coin per sample

The coin replaces the condition by the learned null token with probability `drop`, which classifier-free guidance needs (Ho & Salimans 2022,
arXiv 2207.12598). Latents and text features are computed once and read from disk: a step touches no image. Losses are kept by t, because
levels differ by orders of magnitude and a single number hides which of them gets worse.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from inkwash.codec import Latent
from inkwash.cond import Cond
from inkwash.condition import Conditioner, NoConditioner, Null, TextConditioner
from inkwash.core.noise import generator
from inkwash.core.prediction import require_solvable
from inkwash.data.heldout import bound
from inkwash.denoiser import Denoiser
from inkwash.io.folder import save_info, save_part, save_tokenizer
from inkwash.io.info import Defaults, ModelInfo, Sizes, count_words
from inkwash.nn.clip_text import ClipTextConfig
from inkwash.train.config import DenoiserRun
from inkwash.train.features import Features, TextPart, require_captions, trained_tokenizer
from inkwash.train.setting import Setting
from inkwash.train.start import read_start
from inkwash.train.task import Draw, Loss

ROLE = "denoiser"
NUM_BINS = 10


class Trained(nn.Module):
    """What a denoiser run trains: the network, for text the null condition, and the text encoder unless it is finished."""

    def __init__(self, network: nn.Module, null: Null | None, text: nn.Module | None = None) -> None:
        super().__init__()
        self.network = network
        self.null = null
        self.text = text

    @property
    def units(self) -> list[nn.Module]:
        """What is called on its own."""
        return [unit for unit in (self.network, self.null, self.text) if unit is not None]


class Examples(NamedTuple):
    """Clean samples in model space x0 (B, C, h, w), their conditions, and their places in the data."""

    x0: Tensor
    cond: Cond
    index: Tensor  # type: ignore[assignment]


class Histogram:
    """Mean of a loss in equal parts of [0, 1]."""

    def __init__(self, bins: int = NUM_BINS) -> None:
        self.total, self.count = torch.zeros(bins), torch.zeros(bins)

    def add(self, t: Tensor, value: Tensor) -> None:
        """t and value (B,)."""
        where = (t * len(self.total)).ceil().long().clamp(1, len(self.total)) - 1
        self.total.index_add_(0, where, value.detach().float().cpu())
        self.count.index_add_(0, where, torch.ones(len(where)))

    def means(self) -> list[float | None]:
        """One mean per part, None where nothing was added."""
        return [round(float(total / count), 6) if count else None for total, count in zip(self.total, self.count)]


class DenoiserTask:
    """Trains `config.network` on latents of `config.autoencoder` (pixels without one), told the text of `config.text` (nothing without)."""

    def __init__(self, config: DenoiserRun, setting: Setting) -> None:
        require_solvable(config.prediction, config.process)
        self.config, self.setting = config, setting
        start = read_start(config)
        self.codec = start.codec.to(setting.device)
        text = self._new_text() if config.text_network is not None else start.text
        if text is not None and config.train_text:
            text = dataclasses.replace(text, trained=True)
        null = text.new_null() if text is not None else None
        self.network: nn.Module = config.network.build()
        for part, weights in ((self.network, start.network), (null, start.null)):
            if part is not None and weights is not None:
                part.load_state_dict(weights)
        self.network.to(memory_format=torch.channels_last)
        setting.require_multiple(config, self.multiple)
        self.conditioner: Conditioner = TextConditioner(text.tokenizer, text.encoder, null) if text is not None else NoConditioner()
        self.text = text.encoder.requires_grad_(True) if text is not None and text.trained else None
        self.roles = {ROLE: Trained(self.network, null, self.text)}
        self.denoiser = Denoiser(self.network, config.prediction, config.process.gauge, sigma_data=config.sigma_data,
                                 coordinate=config.coordinate)
        self.features = Features(config, setting, self.codec, text)
        self.empty = self.features.told([""])                                           # of one sample
        self.fingerprint = self.features.fingerprint
        self.seen = Histogram()

    def _new_text(self) -> TextPart:
        """A text encoder to be trained along, whose vocabulary is that of a BPE of the training captions."""
        require_captions(self.setting.train)
        network: Any = self.config.text_network
        clip = isinstance(network, ClipTextConfig)
        tokenizer = trained_tokenizer(self.setting, self.config.vocab, network.max_tokens, clip)
        ends = {"end": tokenizer.end} if clip else {}
        return TextPart(tokenizer, dataclasses.replace(network, vocab=tokenizer.size, **ends).build(), trained=True)

    def _told(self, cond: Cond) -> Cond:
        """The condition that the network reads: token numbers go through the text encoder when it is being trained."""
        if self.text is None:
            return cond
        tokens, pooled, mask = self.text(cond["ids"], cond["mask"])
        return Cond({"tokens": tokens.float(), "mask": mask, "pooled": pooled.float()})

    def _dropped(self, cond: Cond, keep: Tensor) -> Cond:
        """What the network reads when the samples where `keep` (B,) is False are told nothing."""
        if self.text is None or self.roles[ROLE].null is not None:
            cond = self._told(cond)
            return self.conditioner.drop(cond, keep) if len(cond) else cond
        empty = self.empty.to(cond["ids"].device)
        return self._told(Cond({name: torch.where(keep[:, None].to(given.device), given, empty[name]) for name, given in cond.items()}, cond.batch))

    def batch(self, micro_step: int) -> Examples:
        return Examples(*self.features.batch(micro_step))

    def keys(self, batch: Examples) -> list[str]:
        return [self.features.key(int(i)) for i in batch.index]

    def losses(self, batch: Examples, draw: Draw) -> Iterator[Loss]:
        config, device = self.config, self.setting.device
        t = config.levels.times(draw.uniform((), "level"), draw.position, draw.total)   # (B,)
        eps = draw.normal(tuple(batch.x0.shape[1:]), "noise").to(device)
        keep = draw.uniform((), "drop") >= config.drop
        value, weight = self.error(batch.x0, t, eps, self._dropped(batch.cond, keep.to(device)))
        self.seen.add(t, value)
        yield Loss(ROLE, weight * value, {"mse": value})

    def error(self, x0: Tensor, t: Tensor, eps: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        """(mean |y - y*|^2, weight), (B,) each, at times t (B,)."""
        level = self.config.process(t)
        x = level.mix(x0, eps).to(memory_format=torch.channels_last)                    # (B, C, h, w)
        out = self.denoiser.output(x, level, cond)
        target = self.config.prediction.target(out.level, x0 / self.config.sigma_data, eps)
        value = (out.y.float() - target).square().flatten(1).mean(1)
        return value, self.config.weighting(out.level, self.config.prediction).to(value)

    def compile(self) -> None:
        self.network.compile()

    def validate(self) -> dict[str, float]:
        """Losses of held-out samples at fixed levels and noise, `loss` and by level; and the training losses by t since the last time."""
        found: dict[str, float] = {f"train_t{i}": mean for i, mean in enumerate(self.seen.means()) if mean is not None}
        self.seen = Histogram()
        held_out = self.features.held_out(64)
        if held_out is None:
            return found
        examples = Examples(*held_out)
        cond = self._told(examples.cond)
        eps = torch.randn(examples.x0.shape, generator=generator(0, 0, 0, "validation")).to(self.setting.device)
        means = []
        for k in range(NUM_BINS):
            t = torch.full((len(eps),), (k + 0.5) / NUM_BINS, dtype=torch.float64)
            means.append(float(self.error(examples.x0, t, eps, cond)[0].mean()))
        return {"loss": sum(means) / NUM_BINS, **{f"t{k}": mean for k, mean in enumerate(means)}, **found}

    def info(self) -> ModelInfo:
        """What the model folder says of itself."""
        config, text = self.config, isinstance(self.conditioner, TextConditioner)
        latent = isinstance(self.codec, Latent)
        size = config.data.size
        statistics = [tuple(getattr(self.codec, name).flatten().tolist()) if latent else () for name in ("mean", "std")]
        multiple = self.multiple
        return ModelInfo(
            name=config.name, process=repr(config.process), prediction=repr(config.prediction), gauge=config.process.gauge.value,
            coordinate=repr(config.coordinate) if config.coordinate is not None else "",
            sigma_data=config.sigma_data, network=self.folder, codec="latent" if latent else "pixels", channels=self.codec.channels,
            factor=self.codec.factor, mean=statistics[0], std=statistics[1], conditioning="text" if text else "none",
            length=self.conditioner.tokenizer.length if isinstance(self.conditioner, TextConditioner) else 0,
            sizes=Sizes((size, size), max(multiple, size // 2 // multiple * multiple), 2 * size, multiple),
            defaults=Defaults(config.sample.steps, config.sample.sampler, config.sample.spacing, config.sample.guidance if text else 1.0),
            card={**config.card, "data": list(self.setting.names), "images": len(self.features.shown), "steps": config.steps,
                  "batch": config.batch, **({"left_out": list(config.data.leave_out)} if config.data.leave_out else {}),
                  **({"held_out": bound(validation)} if (validation := self.setting.validation) is not None else {})},
            vocabulary=count_words(self.features.captions()) if text else {})

    @property
    def multiple(self) -> int:
        """Height and width of images must be multiples of this, in pixels."""
        network = self.config.network
        return self.codec.factor * int(getattr(network, "factor", getattr(network, "patch", 1)))

    @property
    def folder(self) -> str:
        """The network's folder in the diffusers layout."""
        return "unet" if "UNet" in type(self.config.network).__name__ else "transformer"

    def sample(self, path: Path) -> bool:
        """The sheet of the configured prompts and seeds, made by `setting.preview`."""
        if self.setting.preview is None or not self.config.sample.prompts:
            return False
        self.setting.preview(path, self.denoiser, self.codec, self.conditioner, self.info(), self.config.sample)
        return True

    def export(self, folder: Path, dtype: torch.dtype) -> None:
        """A complete model: the denoiser with its null condition, and copies of the autoencoder and the text encoder."""
        save_part(folder, self.folder, self.network, dtype=dtype)
        if isinstance(self.codec, Latent):
            save_part(folder, "vae", self.codec.vae, dtype=dtype)
        if isinstance(self.conditioner, TextConditioner):
            save_part(folder, "text_encoder", self.conditioner.encoder, dtype=dtype)
            if self.conditioner.empty is not None:
                save_part(folder, "conditioner", self.conditioner.empty)
            save_tokenizer(folder, self.conditioner.tokenizer)
        save_info(folder, self.info())

    def summary(self) -> str:
        return self.features.loader.summary()

    def close(self) -> None:
        self.features.close()
