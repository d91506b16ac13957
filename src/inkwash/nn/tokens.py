"""Pictures as sequences of patches, what every transformer on pictures begins and ends with (Dosovitskiy et al. 2020, arXiv 2010.11929)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.errors import UsageError
from inkwash.nn.attention import check_form
from inkwash.nn.config import NetworkConfig, require
from inkwash.nn.embed import GlobalEmbedding, grid_positions, needed
from inkwash.nn.layers import modulate, zero


@dataclass(frozen=True, repr=False)
class PatchConfig(NetworkConfig):
    """Sizes of a network whose tokens are patches."""

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


def token_norm(x: Tensor) -> Tensor:
    """(x - mean) / sqrt(var + 1e-6) of every token of x (B, T, width)."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def read_text(cond: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Tokens (B, L, text_dim) in the type of x, and which of them exist (B, L). Raises UsageError `missing_condition` without tokens."""
    return needed(cond, "tokens").to(x.dtype), cond.get("mask")


class PatchNetwork(nn.Module):
    """A network whose tokens are patches: what comes before its blocks and after them. Sides must be multiples of `config.patch`."""

    def __init__(self, config: PatchConfig, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.config = config
        self.embed = GlobalEmbedding(config.width, config.pooled_dim, config.num_classes, guidance=config.guidance)
        self.patches = nn.Linear(config.in_channels * config.patch**2, config.width)
        self.blocks = nn.ModuleList(blocks)
        self.modulation = zero(nn.Linear(config.width, 2 * config.width))
        self.out = zero(nn.Linear(config.width, config.out_channels * config.patch**2))

    def tokens(self, x: Tensor) -> Tensor:
        """x (B, in_channels, H, W) -> (B, T, width), each patch with its position. Raises UsageError `bad_size` where x does not fit."""
        config, patch, (height, width) = self.config, self.config.patch, x.shape[-2:]
        if height % patch or width % patch:
            raise UsageError("bad_size", f"this {type(self).__name__} cannot take {width} x {height}; both must be multiples of {patch}")
        if x.shape[1] != config.in_channels:
            raise UsageError("bad_size", f"this {type(self).__name__} takes {config.in_channels} channels, got {x.shape[1]}")
        h = self.patches(F.pixel_unshuffle(x, patch).flatten(2).transpose(1, 2))        # (B, T, width)
        return h + grid_positions(height // patch, width // patch, config.width, x.device).to(h.dtype)

    def picture(self, h: Tensor, embedding: Tensor, like: Tensor) -> Tensor:
        """Tokens (B, T, width) with embedding (B, width) -> (B, out_channels, H, W), the sides those of `like`; zero at init."""
        patch, (height, width) = self.config.patch, like.shape[-2:]
        scale, shift = self.modulation(embedding)[:, None].chunk(2, dim=-1)             # (B, 1, width) each
        h = self.out(modulate(token_norm(h), scale, shift))                             # (B, T, out_channels patch^2)
        return F.pixel_shuffle(h.transpose(1, 2).unflatten(2, (height // patch, width // patch)), patch)
