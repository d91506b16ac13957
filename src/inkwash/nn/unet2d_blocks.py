"""Blocks of the U-Nets and autoencoders whose weights the field shares, under the names that their checkpoints use.

A residual block is norm, SiLU, convolution, twice, with the noise embedding added between (Ho et al. 2020, arXiv 2006.11239). An attention
block is group norm, then either one attention over all pixels, or a stack of transformer layers: self-attention, attention to the
text, gated feed-forward (Rombach et al. 2021, arXiv 2112.10752). The last layer of every branch starts at 0, so a new block changes
nothing. Attribute names are those of diffusers' modules, so a state dict loads as it is. Everything works on channels-last memory, where
pixels (B, H W, C) are a view of an image (B, C, H, W).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.nn import native
from inkwash.nn.attention import attend
from inkwash.nn.embed import sinusoidal
from inkwash.nn.layers import zero


class Context(NamedTuple):
    """What every block of one forward pass may read: `embedding` (B, E) after SiLU, `tokens` (B, L, text_dim), `mask` (B, L) bool."""

    embedding: Tensor | None = None
    tokens: Tensor | None = None
    mask: Tensor | None = None


def pixels_of(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H W, C); a view when the memory is channels last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def image_of(pixels: Tensor, like: Tensor) -> Tensor:
    """(B, H W, C) -> (B, C, H, W) with the height and width of `like`; a channels-last view."""
    return pixels.unflatten(1, like.shape[-2:]).permute(0, 3, 1, 2)


def waves(value: Tensor, width: int, flip: bool, shift: float) -> Tensor:
    """Sinusoidal features (..., width) float32 with frequencies 10000 ** (-i / (width / 2 - shift)); cosines first when `flip`.

    shift = 1 is the form of Vaswani et al. 2017, section 3.5, as DDPM has it; shift = 0 that of Stable Diffusion.
    """
    half = width // 2
    if shift == 0 and flip:
        return sinusoidal(value, width)
    frequency = 10000.0 ** (-torch.arange(half, dtype=torch.float32, device=value.device) / (half - shift))
    angle = value.float()[..., None] * frequency                                        # (..., width / 2)
    parts = [angle.cos(), angle.sin()] if flip else [angle.sin(), angle.cos()]
    return torch.cat(parts, dim=-1)


def normed(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """norm(x)."""
    return native.group_norm(x, norm, act=False) if native.ready(x) else norm(x)


class Mlp(nn.Module):
    """linear, SiLU, linear: the MLP behind sinusoidal features (B, width_in).

    `told` > 0 adds a map of as many other features to its input, which starts as nothing.
    """

    def __init__(self, width_in: int, width: int, told: int = 0) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width_in, width)
        self.linear_2 = nn.Linear(width, width)
        self.cond_proj = zero(nn.Linear(told, width_in, bias=False)) if told else None

    def forward(self, x: Tensor, told: Tensor | None = None) -> Tensor:
        if self.cond_proj is not None:
            x = x + self.cond_proj(told)
        return self.linear_2(F.silu(self.linear_1(x)))                                  # (B, width)


class ResnetBlock(nn.Module):
    """shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))) + linear(embedding)))). `embed_dim` = 0 leaves the embedding out."""

    def __init__(self, width_in: int, width_out: int, embed_dim: int, groups: int, eps: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, width_in, eps)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(embed_dim, width_out) if embed_dim else None
        self.norm2 = nn.GroupNorm(groups, width_out, eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero(nn.Conv2d(width_out, width_out, 3, padding=1))
        self.conv_shortcut = nn.Conv2d(width_in, width_out, 1) if width_in != width_out else None

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        if native.ready(x) and not (self.training and self.dropout.p):
            add = None if self.time_emb_proj is None or embedding is None else self.time_emb_proj(embedding)
            return native.group_block(x, add, self.norm1, self.conv1, self.norm2, self.conv2, self.conv_shortcut)
        h = self.conv1(F.silu(self.norm1(x)))                                           # (B, D, H, W)
        if self.time_emb_proj is not None and embedding is not None:
            h = h + self.time_emb_proj(embedding)[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class CrossAttention(nn.Module):
    """Multi-head attention from pixels (B, T, width) to `context` (B, L, context_dim), or to themselves when that is None."""

    def __init__(self, width: int, heads: int, context_dim: int = 0, bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=bias)
        self.to_k = nn.Linear(context_dim or width, width, bias=bias)
        self.to_v = nn.Linear(context_dim or width, width, bias=bias)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        source = x if context is None else context
        q, k, v = self._split(self.to_q(x)), self._split(self.to_k(source)), self._split(self.to_v(source))
        out: Tensor = self.to_out[0](attend(q, k, v, mask).transpose(1, 2).flatten(2))  # (B, T, width)
        return out

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)                        # (B, N, T, d)


class GEGLU(nn.Module):
    """a gelu(b) with (a, b) = proj(x) (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)                                                     # (B, T, inner)


class FeedForward(nn.Module):
    """linear(geglu(x)), four times as wide inside."""

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.net = nn.ModuleList([GEGLU(width, 4 * width), nn.Dropout(dropout), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net:
            x = layer(x)
        return x


class TransformerLayer(nn.Module):
    """Self-attention, attention to the text, feed-forward; each behind a layer norm and added to x (B, T, width)."""

    def __init__(self, width: int, heads: int, text_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = CrossAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = CrossAttention(width, heads, text_dim)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width, dropout)

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), tokens, mask)
        return x + self.ff(self.norm3(x))


class TextTransformer(nn.Module):
    """x + proj_out(layers(proj_in(norm(x)))) on the pixels of x (B, C, H, W). `linear` stores the projections as matrices, not 1 x 1 kernels."""

    def __init__(self, width: int, heads: int, depth: int, text_dim: int, groups: int, linear: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, 1e-6)
        self.proj_in = nn.Linear(width, width) if linear else nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList(TransformerLayer(width, heads, text_dim, dropout) for _ in range(depth))
        self.proj_out = zero(nn.Linear(width, width) if linear else nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        assert context.tokens is not None
        h = F.linear(pixels_of(normed(x, self.norm)), self.proj_in.weight.flatten(1), self.proj_in.bias)        # (B, H W, C)
        for block in self.transformer_blocks:
            h = block(h, context.tokens, context.mask)
        return x + image_of(F.linear(h, self.proj_out.weight.flatten(1), self.proj_out.bias), x)


class PixelAttention(nn.Module):
    """x + attention over the pixels of x (B, C, H, W), behind a group norm."""

    def __init__(self, width: int, heads: int, groups: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.group_norm = nn.GroupNorm(groups, width, eps)
        self.to_q, self.to_k, self.to_v = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.to_out = nn.ModuleList([zero(nn.Linear(width, width))])

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        pixels = pixels_of(normed(x, self.group_norm))                                  # (B, H W, C)
        q, k, v = (layer(pixels).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.to_q, self.to_k, self.to_v))
        return x + image_of(self.to_out[0](attend(q, k, v).transpose(1, 2).flatten(2)), x)


class Downsample(nn.Module):
    """3 x 3 convolution with stride 2. padding = 1 pads all sides; padding = 0 pads right and bottom only, as DDPM does."""

    def __init__(self, width: int, padding: int) -> None:
        super().__init__()
        self.padding = padding
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x if self.padding else F.pad(x, (0, 1, 0, 1)))                 # (B, C, H/2, W/2)


class Upsample(nn.Module):
    """Nearest-neighbour enlargement by 2, then a 3 x 3 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")                          # (B, C, 2H, 2W)
        return native.conv(x, self.conv) if native.ready(x) else self.conv(x)


class Stage(nn.Module):
    """Residual blocks of one resolution, each with its attention if any, and a step to the next resolution."""

    def __init__(self, resnets: list[ResnetBlock], attentions: list[nn.Module], down: nn.Module | None = None, up: nn.Module | None = None) -> None:
        super().__init__()
        if attentions:
            self.attentions = nn.ModuleList(attentions)
        self.resnets = nn.ModuleList(resnets)
        self.attending = bool(attentions)
        self.downsamplers = nn.ModuleList([down]) if down is not None else None
        self.upsamplers = nn.ModuleList([up]) if up is not None else None

    def block(self, index: int, x: Tensor, context: Context) -> Tensor:
        """Residual block `index` and the attention behind it."""
        x = self.resnets[index](x, context.embedding)
        return self.attentions[index](x, context) if self.attending else x

    def forward(self, x: Tensor, context: Context, skips: list[Tensor]) -> Tensor:
        """On the way down appends what each block and the downsampling leave to `skips`; on the way up takes them back from its end."""
        raise NotImplementedError


class DownStage(Stage):
    """One resolution of the way down."""

    def forward(self, x: Tensor, context: Context, skips: list[Tensor]) -> Tensor:
        for index in range(len(self.resnets)):
            x = self.block(index, x, context)
            skips.append(x)
        if self.downsamplers is not None:
            x = self.downsamplers[0](x)
            skips.append(x)
        return x


class UpStage(Stage):
    """One resolution of the way up."""

    def forward(self, x: Tensor, context: Context, skips: list[Tensor]) -> Tensor:
        for index in range(len(self.resnets)):
            x = self.block(index, torch.cat([x, skips.pop()], dim=1), context)
        return x if self.upsamplers is None else self.upsamplers[0](x)


class MidStage(Stage):
    """Block, attention, block at the coarsest resolution."""

    def forward(self, x: Tensor, context: Context, skips: list[Tensor]) -> Tensor:
        x = self.resnets[0](x, context.embedding)
        if self.attending:
            x = self.attentions[0](x, context)
        return self.resnets[1](x, context.embedding)
