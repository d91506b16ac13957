"""U-Net: a ladder of resolutions with skips (Ronneberger et al. 2015, arXiv 1505.04597; Ho et al. 2020, arXiv 2006.11239).

On the way down every block's output is remembered, on the way up it is concatenated again. Each residual block is modulated by the
noise level (scale and shift after its norm, Dhariwal & Nichol 2021, arXiv 2105.05233), each attention site reads the pixels
themselves, or the text (Rombach et al. 2021, arXiv 2112.10752). The last layer starts at zero, so that a new network predicts 0.

    x -> conv_in -> [block (+ self) (+ cross)] x n -> down -> ... -> mid -> ... -> up -> [skip, block (+ self) (+ cross)] x (n + 1) -> y
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.errors import UsageError
from inkwash.nn import native
from inkwash.nn.attention import SpatialAttention, check_form
from inkwash.nn.config import NetworkConfig, require
from inkwash.nn.embed import GlobalEmbedding, needed
from inkwash.nn.layers import Down, Up, channel_norm, conv1, conv3, modulate, silu_norm, zero


@dataclass(frozen=True, repr=False)
class UNetConfig(NetworkConfig):
    """Sizes of a UNet. Tuples have one entry per resolution, finest first.

    `attention` and `cross` say at which resolutions pixels read each other and the text. `cross_down`, `cross_mid`, `cross_up` switch
    the text sites of one path off, `mid_attention` the self-attention of the middle. `text_dim` = 0 means a network without text;
    `pooled_dim` and `num_classes` add the pooled text and a label (null label = num_classes) to the noise embedding. A site has
    max(1, width // head_dim) heads. `guidance` is for students of guidance: they are told the scale w as "guidance" (B,). `patch` = p
    folds p x p pixels into channels before the first layer and unfolds them after the last (Shi et al. 2016, arXiv 1609.05158): the
    finest resolution is then 1/p of the input's, which for images straight from pixels costs p^2 times less.
    """

    in_channels: int = 8
    out_channels: int = 8
    widths: tuple[int, ...] = (128, 256, 256)
    blocks: int = 1
    attention: tuple[bool, ...] = (False, True, True)
    cross: tuple[bool, ...] = (False, True, True)
    mid_attention: bool = True
    cross_down: bool = True
    cross_mid: bool = True
    cross_up: bool = True
    head_dim: int = 64
    text_dim: int = 0
    pooled_dim: int = 0
    num_classes: int = 0
    embed_dim: int = 0
    dropout: float = 0.0
    form: str = "auto"
    attention_slice: int = 0
    guidance: bool = False
    patch: int = 1

    def __post_init__(self) -> None:
        levels = len(self.widths)
        require(levels > 0 and min(self.widths) > 0, f"a U-Net needs positive widths, got {self.widths}")
        require(len(self.attention) == len(self.cross) == levels,
                f"attention {self.attention} and cross {self.cross} need {levels} flags, one per width")
        require(self.blocks > 0 and self.head_dim > 0, "blocks and head_dim are at least 1")
        require(min(self.in_channels, self.out_channels) > 0, "in_channels and out_channels are at least 1")
        require(self.patch > 0, f"patch={self.patch} is not a number of pixels; 1 means no patches")
        require(0.0 <= self.dropout < 1.0, f"dropout={self.dropout} is not in [0, 1)")
        require(all(width % self.heads(width) == 0 for width in self.widths),
                f"widths {self.widths} are not multiples of their number of heads at head_dim={self.head_dim}")
        sites = self.cross_mid or (any(self.cross) and (self.cross_down or self.cross_up))
        require(not self.text_dim or sites, f"text_dim={self.text_dim} but no site reads the text; set text_dim=0 or switch a site on")
        check_form(self.form, self.attention_slice)

    @property
    def factor(self) -> int:
        """Height and width of an input must be multiples of this."""
        return self.patch * 2 ** (len(self.widths) - 1)

    def heads(self, width: int) -> int:
        """Attention heads at a site of this width."""
        return max(1, width // self.head_dim)

    def build(self) -> UNet:
        return UNet(self)


class ResBlock(nn.Module):
    """skip(x) + conv(silu(norm(conv(silu(norm(x)))) (1 + scale) + shift)), scale and shift linear in the embedding (B, E)."""

    def __init__(self, width_in: int, width_out: int, embed_dim: int, dropout: float) -> None:
        super().__init__()
        self.conv_in = conv3(width_in, width_out)
        self.film = nn.Linear(embed_dim, 2 * width_out)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = zero(conv3(width_out, width_out))
        self.skip = conv1(width_in, width_out) if width_in != width_out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        if native.ready(x) and not (self.training and self.dropout.p):
            return native.block(x, self.film(embedding), self.conv_in, self.conv_out, self.skip)
        h = self.conv_in(F.silu(channel_norm(x)))                                       # (B, D, H, W)
        scale, shift = self.film(embedding)[:, :, None, None].chunk(2, dim=1)           # (B, D, 1, 1) each
        h = F.silu(modulate(channel_norm(h), scale, shift))
        return self.skip(x) + self.conv_out(self.dropout(h))


class Site(nn.Module):
    """A residual block, then self-attention and attention to the text where asked for."""

    def __init__(self, config: UNetConfig, width_in: int, width_out: int, attention: bool, cross: bool) -> None:
        super().__init__()
        embed_dim = config.embed_dim or 4 * config.widths[0]
        heads, form, size = config.heads(width_out), config.form, config.attention_slice
        self.block = ResBlock(width_in, width_out, embed_dim, config.dropout)
        self.attention = SpatialAttention(width_out, heads, 0, form, size) if attention else None
        self.cross = SpatialAttention(width_out, heads, config.text_dim, form, size) if cross and config.text_dim else None

    def forward(self, x: Tensor, embedding: Tensor, tokens: Tensor | None, mask: Tensor | None) -> Tensor:
        x = self.block(x, embedding)
        if self.attention is not None:
            x = self.attention(x)
        if self.cross is not None:
            x = self.cross(x, tokens, mask)
        return x


class UNet(nn.Module):
    """Network of a UNetConfig: x (B, in_channels, H, W), noise (B,) in 0..1000, cond -> (B, out_channels, H, W).

    cond has "tokens" (B, L, text_dim) and optionally "mask" (B, L) bool when text_dim > 0, "pooled" when pooled_dim > 0, "label" when
    num_classes > 0. Raises UsageError `missing_condition` when one is absent, `bad_size` when H or W does not suit.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, last = config.widths, len(config.widths) - 1
        self.embed = GlobalEmbedding(config.embed_dim or 4 * widths[0], config.pooled_dim, config.num_classes, guidance=config.guidance)
        self.conv_in = conv3(config.in_channels * config.patch**2, widths[0])
        self.down, self.downsample = nn.ModuleList(), nn.ModuleList()
        skips, width = [widths[0]], widths[0]
        for level, target in enumerate(widths):
            for _ in range(config.blocks):
                self.down.append(Site(config, width, target, config.attention[level], config.cross[level] and config.cross_down))
                width = target
                skips.append(width)
            if level < last:
                self.downsample.append(Down(width, width))
                skips.append(width)
        self.mid_in = Site(config, width, width, config.mid_attention, config.cross_mid)
        self.mid_out = Site(config, width, width, False, False)
        self.up, self.upsample = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(last + 1)):
            for _ in range(config.blocks + 1):
                cross = config.cross[level] and config.cross_up
                self.up.append(Site(config, width + skips.pop(), widths[level], config.attention[level], cross))
                width = widths[level]
            if level > 0:
                self.upsample.append(Up(width, width))
        self.out = zero(conv3(widths[0], config.out_channels * config.patch**2))

    def forward(self, x: Tensor, noise: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        config = self.config
        self._check(x)
        embedding = F.silu(self.embed(noise, cond))                                     # (B, E)
        tokens = needed(cond, "tokens").to(x.dtype) if config.text_dim else None        # (B, L, text_dim)
        mask = cond.get("mask") if config.text_dim else None                            # (B, L)
        x = self.conv_in(F.pixel_unshuffle(x, config.patch) if config.patch > 1 else x)  # (B, D, H/p, W/p)
        skips = [x]
        for index, site in enumerate(self.down):
            x = site(x, embedding, tokens, mask)
            skips.append(x)
            level, within = divmod(index + 1, config.blocks)
            if within == 0 and level <= len(self.downsample):
                x = self.downsample[level - 1](x)
                skips.append(x)
        x = self.mid_out(self.mid_in(x, embedding, tokens, mask), embedding, tokens, mask)
        for index, site in enumerate(self.up):
            x = site(torch.cat([x, skips.pop()], dim=1), embedding, tokens, mask)
            level, within = divmod(index + 1, config.blocks + 1)
            if within == 0 and level <= len(self.upsample):
                x = self.upsample[level - 1](x)
        x = self.out(silu_norm(x))                                                      # (B, out_channels p^2, H/p, W/p)
        return F.pixel_shuffle(x, config.patch) if config.patch > 1 else x              # (B, out_channels, H, W)

    def _check(self, x: Tensor) -> None:
        factor, (height, width) = self.config.factor, x.shape[-2:]
        if height % factor or width % factor:
            raise UsageError("bad_size", f"this U-Net cannot take {width} x {height}; both must be multiples of {factor}")
        if x.shape[1] != self.config.in_channels:
            raise UsageError("bad_size", f"this U-Net takes {self.config.in_channels} channels, got {x.shape[1]}")
