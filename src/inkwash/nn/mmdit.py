"""Multimodal diffusion transformer (Esser et al. 2024, arXiv 2403.03206): text and picture are two streams that attend to each other.

Each stream has weights of its own for everything but the attention, which is one, over the tokens of both: the picture reads the words and the
words read the picture, where a DiT's cross-attention lets only the picture read. Per block and stream x + gate_1 out(attended), then
x + gate_2 mlp(modulate(norm(x))), the vectors linear in the embedding of noise and pooled text and zero at init. In the last block
the text is only read, since nothing comes after it that could use its own tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.nn.attention import attend
from inkwash.nn.config import require
from inkwash.nn.layers import modulate, zero
from inkwash.nn.tokens import PatchConfig, PatchNetwork, read_text, token_norm
from inkwash.nn.transformer import Mlp


def _published(depth: int) -> dict[str, Any]:
    """The paper's form at a depth d: d heads of 64 channels, on 16-channel latents, with text of 4096 channels and pooled text of 2048."""
    return {"in_channels": 16, "out_channels": 16, "patch": 2, "width": 64 * depth, "depth": depth, "heads": depth, "text_dim": 4096,
            "pooled_dim": 2048}


@dataclass(frozen=True, repr=False)
class MMDiTConfig(PatchConfig):
    """Sizes of an MM-DiT. `text_dim` is that of the tokens, which it cannot do without; all other fields as in a DiT.

    The short names `mmdit_24` and `mmdit_38` are the paper's form at these depths: 2 and 8 thousand million parameters.
    """

    aliases: ClassVar[dict[str, dict[str, Any]]] = {"mmdit_24": _published(24), "mmdit_38": _published(38)}

    depth: int = 6
    text_dim: int = 192

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.text_dim > 0, f"text_dim={self.text_dim}: a network of two streams needs tokens of text; a DiT does without")

    def build(self) -> MMDiT:
        return MMDiT(self)


class Stream(nn.Module):
    """The weights of one kind of token in a block. A stream that does not go on gives keys and values and has no more to say."""

    def __init__(self, config: MMDiTConfig, goes_on: bool = True) -> None:
        super().__init__()
        width, self.heads, self.qk_norm, self.goes_on = config.width, config.heads, config.qk_norm, goes_on
        self.modulation = zero(nn.Linear(width, 6 * width if goes_on else 2 * width))
        self.key_value = nn.Linear(width, 2 * width)
        if goes_on:
            self.query = nn.Linear(width, width)
            self.out = nn.Linear(width, width)
            self.mlp = Mlp(width, config.mlp_ratio, zero_out=False)

    def vectors(self, embedding: Tensor) -> tuple[Tensor, ...]:
        """Scale and shift before attention; then its gate, and scale, shift and gate of the MLP: (B, 1, width) each."""
        return self.modulation(embedding)[:, None].chunk(6 if self.goes_on else 2, dim=-1)

    def keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, N, L, d) of modulated tokens (B, L, width)."""
        key, value = map(self._split, self.key_value(x).chunk(2, dim=-1))
        return self._normed(key), value

    def queries(self, x: Tensor) -> Tensor:
        """(B, N, L, d) of modulated tokens (B, L, width)."""
        return self._normed(self._split(self.query(x)))

    def add(self, x: Tensor, attended: Tensor, vectors: tuple[Tensor, ...]) -> Tensor:
        """Tokens x (B, L, width) after the block, given what they read, (B, N, L, d)."""
        _, _, gate_1, scale_2, shift_2, gate_2 = vectors
        x = x + gate_1 * self.out(attended.transpose(1, 2).flatten(2))
        return x + gate_2 * self.mlp(modulate(token_norm(x), scale_2, shift_2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)                        # (B, N, L, d)

    def _normed(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:]) if self.qk_norm else x


class MMDiTBlock(nn.Module):
    """One block on the tokens of a picture (B, T, width) and of a text (B, L, width) with embedding (B, width); the identity at init."""

    def __init__(self, config: MMDiTConfig, last: bool = False) -> None:
        super().__init__()
        self.form, self.slice_size = config.form, config.attention_slice
        self.picture, self.text = Stream(config), Stream(config, goes_on=not last)

    def forward(self, x: Tensor, text: Tensor, embedding: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """`mask` (B, T + L) is True for the tokens that exist, those of the picture first."""
        of_x, of_text = self.picture.vectors(embedding), self.text.vectors(embedding)
        into_x, into_text = (modulate(token_norm(h), *vectors[:2]) for h, vectors in ((x, of_x), (text, of_text)))
        pairs = zip(self.picture.keys(into_x), self.text.keys(into_text), strict=True)
        k, v = (torch.cat(pair, dim=2) for pair in pairs)                               # (B, N, T + L, d) each
        q = self.picture.queries(into_x)
        if self.text.goes_on:
            q = torch.cat([q, self.text.queries(into_text)], dim=2)
        read = attend(q, k, v, mask, self.form, self.slice_size)
        count = x.shape[1]
        x = self.picture.add(x, read[:, :, :count], of_x)
        return x, self.text.add(text, read[:, :, count:], of_text) if self.text.goes_on else text


class MMDiT(PatchNetwork):
    """Network of an MMDiTConfig: x (B, in_channels, H, W), noise (B,) in 0..1000, cond -> (B, out_channels, H, W).

    cond as for a UNet. Raises UsageError `missing_condition` when a tensor is absent, `bad_size` unless H and W are multiples of patch.
    """

    def __init__(self, config: MMDiTConfig) -> None:
        super().__init__(config, (MMDiTBlock(config, last=number == config.depth - 1) for number in range(config.depth)))
        self.words = nn.Linear(config.text_dim, config.width)

    def forward(self, x: Tensor, noise: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        h = self.tokens(x)                                                              # (B, T, width)
        embedding = F.silu(self.embed(noise, cond))                                     # (B, width)
        tokens, mask = read_text(cond, x)
        text = self.words(tokens)                                                       # (B, L, width)
        if mask is not None:
            mask = torch.cat([mask.new_ones(h.shape[:2]), mask], dim=1)                 # (B, T + L)
        for block in self.blocks:
            h, text = block(h, text, embedding, mask)
        return self.picture(h, embedding, x)
