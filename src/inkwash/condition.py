"""What a denoiser is told: prompts become a Cond, and so does the absence of a prompt.

A text encoder turns each prompt into L token vectors and one pooled vector. Classifier-free guidance (Ho and Salimans 2022,
arXiv:2207.12598) needs a second answer for "no prompt": here a learned null token, trained with the denoiser while prompts are
dropped per sample. A Cond of nothing and a Cond of a prompt have the same shapes, so both fit in one batch.

Encoding runs in batches of one fixed size: the vectors of a prompt have the same bits whatever else is asked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inkwash.cond import Cond
from inkwash.io.info import unknown_words
from inkwash.nn.config import NetworkConfig
from inkwash.tokenizer import Tokenizer, Tokens


@dataclass(frozen=True, repr=False)
class NullConfig(NetworkConfig):
    """Widths of the null condition: token vectors (`width`) and pooled vector (`pooled`)."""

    width: int
    pooled: int

    def build(self) -> Null:
        return Null(self)


class Null(nn.Module):
    """The learned condition of no prompt: one token (1, D) and one pooled vector (P,)."""

    def __init__(self, config: NullConfig) -> None:
        super().__init__()
        self.config = config
        self.token = nn.Parameter(torch.zeros(1, config.width))
        self.pooled = nn.Parameter(torch.zeros(config.pooled))

    def forward(self, batch: int, length: int) -> Cond:
        """Cond of `batch` samples: tokens (B, L, D) with the first one real, mask (B, L), pooled (B, P)."""
        rest = self.token.new_zeros(length - 1, self.token.shape[1])
        tokens = torch.cat([self.token, rest])[None].expand(batch, -1, -1)  # (B, L, D)
        mask = (torch.arange(length, device=self.token.device) == 0)[None].expand(batch, -1)  # (B, L)
        return Cond({"tokens": tokens, "mask": mask, "pooled": self.pooled[None].expand(batch, -1)}, batch)


class Conditioner(nn.Module, ABC):
    """Prompts to Cond, and the Cond of no prompt."""

    @abstractmethod
    def forward(self, prompts: Sequence[str]) -> Cond:
        """One condition per prompt; the empty prompt is a prompt like any other."""

    @abstractmethod
    def null(self, batch: int) -> Cond:
        """The condition of no prompt, `batch` times, in the shapes of `forward`."""

    def report(self, prompt: str) -> list[str]:
        """What of the prompt is lost on the way, one sentence each."""
        return []

    def drop(self, cond: Cond, keep: Tensor) -> Cond:
        """Replaces the samples where `keep` (B,) bool is False by the null condition; gradients reach the null parameters."""
        if keep.shape != (cond.batch,) or keep.dtype != torch.bool:
            raise ValueError(f"keep must be a bool tensor of shape ({cond.batch},), got {keep.dtype} {tuple(keep.shape)}")
        null = self.null(cond.batch)
        merged = {}
        for name, given in cond.items():
            where = keep.to(given.device).reshape(-1, *[1] * (given.dim() - 1))
            merged[name] = torch.where(where, given, null[name].to(given.device, given.dtype))
        return Cond(merged, cond.batch)


class NoConditioner(Conditioner):
    """For models that are told nothing; prompts are reported as inert."""

    def forward(self, prompts: Sequence[str]) -> Cond:
        return Cond.none(len(prompts))

    def null(self, batch: int) -> Cond:
        return Cond.none(batch)

    def report(self, prompt: str) -> list[str]:
        return ["the prompt is inert: this model is not conditioned on text"] if prompt.strip() else []


class TextConditioner(Conditioner):
    """Tokenizer, text encoder and learned null token, or, with `null` None, the empty prompt in its place, as most published models have it.

    `encoder(ids (N, L), mask (N, L))` has `.tokens` (N, L, D) and `.pooled` (N, P), and is frozen; only `empty` is trained with the denoiser.
    `micro_batch` prompts are encoded at a time, filled up when fewer are left.
    """

    def __init__(self, tokenizer: Tokenizer, encoder: nn.Module, null: Null | None, micro_batch: int = 1,
                 vocabulary: Mapping[str, int] | None = None) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.encoder = encoder.eval().requires_grad_(False)
        self.empty = null
        self.micro_batch = micro_batch
        self.vocabulary = dict(vocabulary or {})

    @torch.no_grad()
    def forward(self, prompts: Sequence[str]) -> Cond:
        found = self.tokenizer(prompts)
        parts = [self._encode(found, start) for start in range(0, len(prompts), self.micro_batch)]
        return Cond.cat(parts).take(range(len(prompts)))

    def _encode(self, found: Tokens, start: int) -> Cond:
        index = torch.arange(start, start + self.micro_batch).clamp(max=len(found.ids) - 1)
        device = next(self.encoder.parameters()).device
        ids, mask = found.ids[index].to(device), found.mask[index].to(device)
        text = self.encoder(ids, mask)
        return Cond({"tokens": text.tokens.float(), "mask": mask, "pooled": text.pooled.float()}, self.micro_batch)

    def null(self, batch: int) -> Cond:
        if self.empty is None:
            return self([""]).take([0] * batch)
        cond: Cond = self.empty(batch, self.tokenizer.length)
        return cond

    def report(self, prompt: str) -> list[str]:
        cut = self.tokenizer([prompt]).cut[0]
        return [f"the prompt has more than {self.tokenizer.length - 2} tokens; left out: {cut[:80]!r}"] if cut else []

    def unknown_words(self, prompt: str) -> list[str]:
        """Words that no training caption had; empty when no vocabulary is stored."""
        return unknown_words(prompt, self.vocabulary)

