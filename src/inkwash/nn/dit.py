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

from inkwash.errors import UsageError
from inkwash.nn.attention import Attention, check_form
from inkwash.nn.config import NetworkConfig, require
from inkwash.nn.embed import GlobalEmbedding, grid_positions, needed
from inkwash.nn.layers import modulate, zero
from inkwash.nn.transformer import Mlp


def _published(width: int, depth: int, heads: int) -> dict[str, Any]:
    """The paper's class-conditional form on 4-channel latents, table 1; it predicts noise and variance, hence 8 channels out."""
    return {"in_channels": 4, "out_channels": 8, "patch": 2, "width": width, "depth": depth, "heads": heads, "num_classes": 1000}


@dataclass(frozen=True, repr=False)
class DiTConfig(NetworkConfig):
    """Sizes of a DiT. `text_dim` = 0 means no cross-attention; `pooled_dim` and `num_classes` add to the embedding, as in a UNet.

    `guidance` as in a UNet. `qk_norm` normalises queries and keys per head. The short names `dit_s_2` to `dit_xl_2` are the paper's sizes at patch 2.
    """

    aliases: ClassVar[dict[str, dict[str, Any]]] = {
        "dit_s_2": _published(384, 12, 6), "dit_b_2": _published(768, 12, 12),
        "dit_l_2": _published(1024, 24, 16), "dit_xl_2": _published(1152, 28, 16),
    }

    in_channels: int = 8
    out_channels: int = 8
    patch: int = 2
    width: int = 256
    depth: int = 8
    heads: int = 4
    mlp_ratio: float = 4.0
    text_dim: int = 0
    pooled_dim: int = 0
    num_classes: int = 0
    qk_norm: bool = False
    form: str = "auto"
    attention_slice: int = 0
    guidance: bool = False

    def __post_init__(self) -> None:
        require(min(self.in_channels, self.out_channels, self.patch, self.width, self.depth, self.heads) > 0,
                f"every size of {self!r} must be at least 1")
        require(self.width % self.heads == 0, f"a width of {self.width} cannot be split into {self.heads} heads")
        require(self.width % 4 == 0, f"positions need a width that is a multiple of 4, got {self.width}")
        require(self.mlp_ratio > 0, f"mlp_ratio={self.mlp_ratio} is not positive")
        check_form(self.form, self.attention_slice)

    @property
    def factor(self) -> int:
        """Height and width of an input must be multiples of this."""
        return self.patch

    def build(self) -> DiT:
        return DiT(self)


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


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
        x = x + gate_1 * self.attention(modulate(_norm(x), scale_1, shift_1))
        if self.cross is not None:
            x = x + self.cross(_norm(x), tokens, mask)
        return x + gate_2 * self.mlp(modulate(_norm(x), scale_2, shift_2))


class DiT(nn.Module):
    """Network of a DiTConfig: x (B, in_channels, H, W), noise (B,) in 0..1000, cond -> (B, out_channels, H, W).

    cond as for a UNet. Raises UsageError `missing_condition` when a tensor is absent, `bad_size` unless H and W are multiples of patch.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.embed = GlobalEmbedding(width, config.pooled_dim, config.num_classes, guidance=config.guidance)
        self.patches = nn.Linear(config.in_channels * config.patch**2, width)
        self.blocks = nn.ModuleList(DiTBlock(config) for _ in range(config.depth))
        self.modulation = zero(nn.Linear(width, 2 * width))
        self.out = zero(nn.Linear(width, config.out_channels * config.patch**2))

    def forward(self, x: Tensor, noise: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        config, patch, (height, width) = self.config, self.config.patch, x.shape[-2:]
        if height % patch or width % patch:
            raise UsageError("bad_size", f"this DiT cannot take {width} x {height}; both must be multiples of {patch}")
        if x.shape[1] != config.in_channels:
            raise UsageError("bad_size", f"this DiT takes {config.in_channels} channels, got {x.shape[1]}")
        embedding = F.silu(self.embed(noise, cond))                                     # (B, width)
        tokens = needed(cond, "tokens").to(x.dtype) if config.text_dim else None        # (B, L, text_dim)
        mask = cond.get("mask") if config.text_dim else None                            # (B, L)
        h = self.patches(F.pixel_unshuffle(x, patch).flatten(2).transpose(1, 2))        # (B, T, width)
        h = h + grid_positions(height // patch, width // patch, config.width, x.device).to(h.dtype)
        for block in self.blocks:
            h = block(h, embedding, tokens, mask)
        scale, shift = self.modulation(embedding)[:, None].chunk(2, dim=-1)             # (B, 1, width) each
        h = self.out(modulate(_norm(h), scale, shift))                                  # (B, T, out_channels patch^2)
        return F.pixel_shuffle(h.transpose(1, 2).unflatten(2, (height // patch, width // patch)), patch)
