"""Diffusion transformer (Peebles & Xie 2022, arXiv 2212.09748): patches as tokens, no skips, modulation by adaLN-Zero.

Each block is x + gate_1 attention(modulate(norm(x))), then x + gate_2 mlp(modulate(norm(x))), its six vectors linear in the embedding of
noise (and label, and pooled text) and all zero at init: a new block is the identity and a new network predicts 0. Between the two, the
tokens of the text are read by cross-attention (Chen et al. 2023, arXiv 2310.00426). Positions are sines and cosines of row and column,
computed for whatever size comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.nn.attention import Attention
from inkwash.nn.layers import modulate, zero
from inkwash.nn.tokens import PatchConfig, PatchNetwork, read_text, token_norm
from inkwash.nn.transformer import Mlp


def _published(width: int, depth: int, heads: int) -> dict[str, Any]:
    """The paper's class-conditional form on 4-channel latents, table 1; it predicts noise and variance, hence 8 channels out."""
    return {"in_channels": 4, "out_channels": 8, "patch": 2, "width": width, "depth": depth, "heads": heads, "num_classes": 1000}


@dataclass(frozen=True, repr=False)
class DiTConfig(PatchConfig):
    """Sizes of a DiT. `text_dim` = 0 means no cross-attention; `pooled_dim` and `num_classes` add to the embedding, as in a UNet.

    `guidance` as in a UNet. `qk_norm` normalises queries and keys per head. The short names `dit_s_2` to `dit_xl_2` are the paper's sizes at patch 2.
    """

    aliases: ClassVar[dict[str, dict[str, Any]]] = {
        "dit_s_2": _published(384, 12, 6), "dit_b_2": _published(768, 12, 12),
        "dit_l_2": _published(1024, 24, 16), "dit_xl_2": _published(1152, 28, 16),
    }

    def build(self) -> DiT:
        return DiT(self)


class DiTBlock(nn.Module):
    """One block on tokens x (B, T, width) with embedding (B, width); the identity at init."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width, heads, form, size = config.width, config.heads, config.form, config.attention_slice
        self.modulation = zero(nn.Linear(width, 6 * width))
        self.attention = Attention(width, heads, 0, form, size, zero_out=False, qk_norm=config.qk_norm)
        self.cross = Attention(width, heads, config.text_dim, form, size, qk_norm=config.qk_norm) if config.text_dim else None
        self.mlp = Mlp(width, config.mlp_ratio, zero_out=False)

    def forward(self, x: Tensor, embedding: Tensor, tokens: Tensor | None, mask: Tensor | None) -> Tensor:
        scale_1, shift_1, gate_1, scale_2, shift_2, gate_2 = self.modulation(embedding)[:, None].chunk(6, dim=-1)    # (B, 1, width) each
        x = x + gate_1 * self.attention(modulate(token_norm(x), scale_1, shift_1))
        if self.cross is not None:
            x = x + self.cross(token_norm(x), tokens, mask)
        return x + gate_2 * self.mlp(modulate(token_norm(x), scale_2, shift_2))


class DiT(PatchNetwork):
    """Network of a DiTConfig: x (B, in_channels, H, W), noise (B,) in 0..1000, cond -> (B, out_channels, H, W).

    cond as for a UNet. Raises UsageError `missing_condition` when a tensor is absent, `bad_size` unless H and W are multiples of patch.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__(config, (DiTBlock(config) for _ in range(config.depth)))
        self.reads_text = config.text_dim > 0

    def forward(self, x: Tensor, noise: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        h = self.tokens(x)                                                              # (B, T, width)
        embedding = F.silu(self.embed(noise, cond))                                     # (B, width)
        text, mask = read_text(cond, x) if self.reads_text else (None, None)            # (B, L, text_dim), (B, L)
        for block in self.blocks:
            h = block(h, embedding, text, mask)
        return self.picture(h, embedding, x)
