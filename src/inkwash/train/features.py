"""What a denoiser or classifier run reads at each step: latents and text features, computed once and kept on disk.

Both depend on frozen networks only, so after the first minutes a run touches no image and no text. Latents are means of the
autoencoder's posterior, of unit variance; text features are token vectors and the pooled vector. With aspect buckets an image's shape is
its batch's, and latents are computed in every step.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from inkwash.codec import Codec, Latent, Pixels
from inkwash.cond import Cond
from inkwash.condition import Null, NullConfig
from inkwash.data.cache import LatentCache, TokenCache
from inkwash.data.item import Source
from inkwash.data.loader import Loader, Pick
from inkwash.data.source import origin
from inkwash.errors import CheckpointError, DataError
from inkwash.io.durable import write_text
from inkwash.io.folder import load_info, load_part, load_tokenizer, part_folder
from inkwash.io.info import INFO
from inkwash.io.tensors import digest
from inkwash.io.tensors import read_text as read_text_of
from inkwash.nn.clip_text import ClipText
from inkwash.tokenizer import CLIP_END, CLIP_START, END, PAD, START, Tokenizer
from inkwash.train.config import RunConfig
from inkwash.train.setting import Setting

STATISTICS = "statistics.json"
TOKENIZER = "tokenizer.json"


def read_codec(path: Path | None) -> Codec:
    """The codec of a finished autoencoder: its run's folder, the model folder inside, or the folder of a whole model. Pixels without one.

    Raises CheckpointError: `no_part`, `model_damaged`, and those of `load_part`.
    """
    if path is None:
        return Pixels()
    folder = part_folder(path, "vae")
    vae = load_part(folder, "vae")
    if (folder / INFO).is_file():
        info = load_info(folder)
        return Latent(vae, info.mean, info.std, info.factor)  # type: ignore[arg-type]
    try:
        statistics = json.loads(read_text_of(folder, f"vae/{STATISTICS}"))
        return Latent(vae, statistics["mean"], statistics["std"], vae.config.factor)  # type: ignore[union-attr,arg-type]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise CheckpointError("model_damaged", f'cannot read "{folder / "vae" / STATISTICS}": {error}; export the autoencoder again') from None


def trained_tokenizer(setting: Setting, vocab: int, length: int, clip: bool = False) -> Tokenizer:
    """The BPE of a run, of CLIP's form for `clip`: learned from the training captions once, then read from the run's folder."""
    path = setting.out / TOKENIZER
    if not path.is_file() and setting.rank == 0:
        source, learn = setting.train, Tokenizer.train_clip if clip else Tokenizer.train
        write_text(path, learn((source.caption(i) for i in range(len(source))), vocab, length).text())
    setting.wait()
    return Tokenizer.load(path, length, (CLIP_END, CLIP_START, CLIP_END) if clip else (PAD, START, END))


@dataclass(frozen=True)
class TextPart:
    """A text encoder with its tokenizer: finished, or `trained` along with the denoiser."""

    tokenizer: Tokenizer
    encoder: nn.Module
    trained: bool = False

    @property
    def width(self) -> int:
        return int(self.encoder.config.width)  # type: ignore[union-attr,arg-type]

    def new_null(self) -> Null | None:
        """The condition of no prompt, to be trained; None for CLIP's encoder, whose denoisers take the empty prompt for it."""
        if isinstance(self.encoder, ClipText):
            return None
        null = NullConfig(self.width, self.width).build()
        for parameter in null.parameters():
            nn.init.normal_(parameter, std=0.02)
        return null


def read_text(path: Path | None) -> TextPart | None:
    """The text encoder of a finished contrastive run, None without a path."""
    if path is None:
        return None
    folder = part_folder(path, "text_encoder")
    encoder = load_part(folder, "text_encoder").eval().requires_grad_(False)
    return TextPart(load_tokenizer(folder, encoder.config.max_tokens), encoder)  # type: ignore[union-attr,arg-type]


def require_captions(source: Source, least: int = 1) -> None:
    """Raises DataError `no_captions` unless the items have `least` different captions that say something."""
    found: set[str] = set()
    for index in range(len(source)):
        found |= {source.caption(index)} - {""}
        if len(found) >= least:
            return
    raise DataError("no_captions", f"{source.describe()}: {f'all captions are {found.pop()[:60]!r}' if found else 'all captions are empty'}, "
                                   "and a run with text learns from them; put captions into .txt files beside the images, or into a column "
                                   "or field called caption or text")


class Features:
    """Batches of (x0, cond, index) from the training data of a setting, and from the held-out data."""

    def __init__(self, config: RunConfig, setting: Setting, codec: Codec, text: TextPart | None) -> None:
        self.config, self.setting, self.codec, self.text = config, setting, codec, text
        if text is not None:
            require_captions(setting.train)
        self.loader = setting.loader(config, setting.train, "train", flip=config.data.flip)
        self.fingerprint = self.loader.fingerprint
        self._kept = self._caches(self.loader) if config.data.cache else None

    def _caches(self, loader: Loader) -> _Kept:
        setting = self.setting
        told = setting.progress
        latents = None if loader.square is None else LatentCache(
            loader, setting.cache, self._encode, encoder=digest(self.codec.state_dict()) if self.codec.factor > 1 else "pixels",
            shape=self.codec.shape(loader.square, loader.square), dtype="float16", progress=told)
        if self.text is None:
            return _Kept(latents, None, None)
        length, width = self.text.tokenizer.length, self.text.width
        if self.text.trained:
            name = hashlib.sha256(self.text.tokenizer.text().encode()).hexdigest()
            ids = TokenCache(loader.forms, setting.cache, self._ids, encoder=f"ids {name}", shape=(2, length), dtype="int32", progress=told)
            return _Kept(latents, ids, None)
        encoder = digest(self.text.encoder.state_dict())
        tokens = TokenCache(loader.forms, setting.cache, self._describe, encoder=encoder, shape=(length + 1, width), dtype="float16", progress=told)
        masks = TokenCache(loader.forms, setting.cache, self._masks, encoder=f"mask {encoder}", shape=(length,), dtype="uint8", progress=told)
        return _Kept(latents, tokens, masks)

    @torch.no_grad()
    def _encode(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) to model space (B, C, h, w), a whole batch at a time."""
        if not isinstance(self.codec, Latent):
            return self.codec.encode(images).x
        mean = self.codec.vae.encode(self.setting.signed(images))[0].float()  # type: ignore[operator]
        return (mean - self.codec.mean) / self.codec.std

    def _describe(self, captions: list[str]) -> np.ndarray:
        cond = self.told(captions)
        return torch.cat([cond["tokens"], cond["pooled"][:, None]], dim=1).cpu().numpy()  # (B, L + 1, D)

    def _masks(self, captions: list[str]) -> np.ndarray:
        assert self.text is not None
        return self.text.tokenizer(captions).mask.numpy()

    def _ids(self, captions: list[str]) -> np.ndarray:
        assert self.text is not None
        found = self.text.tokenizer(captions)
        return torch.stack([found.ids, found.mask.long()], dim=1).numpy()              # (B, 2, L)

    @torch.no_grad()
    def told(self, captions: list[str]) -> Cond:
        """What batches have for these captions: text features, or token numbers for an encoder that is still being trained."""
        if self.text is None:
            return Cond.none(len(captions))
        if self.text.trained:
            return _numbers(torch.from_numpy(self._ids(captions))).to(self.setting.device)
        found = self.text.tokenizer(captions)
        encoder = self.text.encoder.to(self.setting.device)
        tokens, pooled, _ = encoder(found.ids.to(self.setting.device), found.mask.to(self.setting.device))
        return Cond({"tokens": tokens.float(), "mask": found.mask.to(self.setting.device), "pooled": pooled.float()})

    def batch(self, micro_step: int) -> tuple[Tensor, Cond, Tensor]:
        """This process's part of a micro-batch: x0 (B, C, h, w), its Cond, and the distinct items' numbers."""
        device = self.setting.device
        if self._kept is None or self._kept.latents is None:
            images, captions, _, index, _ = self.loader.batch(micro_step)
            cond = self.told(captions) if self._kept is None else self._kept.cond(self._forms(self.loader.pick(micro_step)))
            return self._encode(images).to(device), cond.to(device), index
        picked = self.loader.pick(micro_step)
        x0 = self._kept.latents.take(picked.index, picked.flipped if self.loader.flip else None)
        return x0.to(device), self._kept.cond(self._forms(picked)).to(device), picked.index

    def _forms(self, picked: Pick) -> Tensor:
        """Where the captions of a pick are among all forms of all captions."""
        return picked.form * len(self.loader.base) + picked.index

    def held_out(self, count: int) -> tuple[Tensor, Cond, Tensor] | None:
        """The first `count` held-out items; None when nothing is held out."""
        if not hasattr(self, "_held_out"):
            batch = self.setting.held_out(self.config)
            self._held_out = None if batch is None else (
                self._encode(batch.images[:count]), self.told(batch.captions[:count]), batch.index[:count])
        return self._held_out

    def key(self, index: int) -> str:
        return self.loader.base.key(index)

    @functools.cached_property
    def shown(self) -> list[int]:
        """The distinct items that training shows, as places in the data without repeats."""
        source = self.loader.source
        return [int(i) for i in np.unique(origin(source, np.arange(len(source))))]

    def captions(self) -> Iterator[str]:
        """The captions of all distinct items that training shows."""
        return (self.loader.base.caption(i) for i in self.shown)

    def close(self) -> None:
        self.loader.close()


def _numbers(both: Tensor) -> Cond:
    """(B, 2, L) of token numbers and mask as a Cond, for an encoder that is still being trained."""
    return Cond({"ids": both[:, 0].long(), "mask": both[:, 1].bool()})


@dataclass(frozen=True)
class _Kept:
    latents: LatentCache | None
    tokens: TokenCache | None
    masks: TokenCache | None

    def cond(self, index: Tensor) -> Cond:
        if self.tokens is None:
            return Cond.none(len(index))
        if self.masks is None:
            return _numbers(self.tokens.take(index))
        both = self.tokens.take(index).float()                                          # (B, L + 1, D)
        return Cond({"tokens": both[:, :-1], "mask": self.masks.take(index).bool(), "pooled": both[:, -1]})
