"""How a number, a label or a position becomes a vector that a network can read.

A scalar becomes sines and cosines of geometric frequencies (Vaswani et al. 2017, arXiv 1706.03762; Ho et al. 2020, arXiv 2006.11239),
then passes a small MLP. The noise scalar is bounded: 0 is clean data, 1000 pure noise. Angles are computed in float32, because bfloat16
cannot tell neighbouring noise levels apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.errors import UsageError
from inkwash.nn.layers import zero

GUIDANCE_SCALE = 10.0


def sinusoidal(value: Tensor, width: int, max_period: float = 10000.0) -> Tensor:
    """[cos(value w_i), sin(value w_i)] with w_i = max_period ** (-i / (width / 2)): (...,) -> (..., width) float32. `width` is even."""
    half = width // 2
    frequency = torch.exp(torch.arange(half, dtype=torch.float32, device=value.device) * (-math.log(max_period) / half))
    angle = value.float()[..., None] * frequency                                        # (..., width / 2)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def grid_positions(height: int, width: int, channels: int, device: torch.device | None = None) -> Tensor:
    """Sine-cosine positions (height * width, channels) of a grid, float32; rows fill one half of the channels, columns the other.

    Works for any height and width. `channels` is a multiple of 4.
    """
    rows = sinusoidal(torch.arange(height, device=device), channels // 2)               # (H, C/2)
    columns = sinusoidal(torch.arange(width, device=device), channels // 2)             # (W, C/2)
    both = torch.cat([columns[None].expand(height, -1, -1), rows[:, None].expand(-1, width, -1)], dim=-1)
    return both.flatten(0, 1)                                                           # (H W, C)


class NoiseEmbedding(nn.Module):
    """Noise scalar (B,) in 0..1000 -> (B, width): sinusoidal features, linear, SiLU, linear."""

    def __init__(self, width: int, features: int = 256) -> None:
        super().__init__()
        self.features = features
        self.hidden = nn.Linear(features, width)
        self.out = nn.Linear(width, width)

    def forward(self, noise: Tensor) -> Tensor:
        waves = sinusoidal(noise, self.features).to(self.hidden.weight.dtype)           # (B, features)
        return self.out(F.silu(self.hidden(waves)))


class GlobalEmbedding(nn.Module):
    """One vector per sample: noise, plus the pooled text, the label and the guidance scale where the network has them. (B,) and cond -> (B, width).

    Label `num_classes` is the null class of classifier-free training, so labels run from 0 to num_classes inclusive. A guidance scale w
    is embedded as noise is, as 10 w in 0..1000, and starts as nothing: a network that gets it keeps its outputs (Meng et al. 2022, 2210.03142).
    """

    def __init__(self, width: int, pooled_dim: int = 0, num_classes: int = 0, features: int = 256, *, guidance: bool = False) -> None:
        super().__init__()
        self.noise = NoiseEmbedding(width, features)
        self.pooled = nn.Linear(pooled_dim, width) if pooled_dim else None
        self.label = nn.Embedding(num_classes + 1, width) if num_classes else None
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=0.02)
        self.guidance = NoiseEmbedding(width, features) if guidance else None
        if self.guidance is not None:
            zero(self.guidance.out)

    def forward(self, noise: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """Raises UsageError `missing_condition` when cond lacks "pooled", "label" or "guidance" and the network reads it."""
        out = self.noise(noise)                                                         # (B, width)
        if self.pooled is not None:
            out = out + self.pooled(needed(cond, "pooled").to(out.dtype))
        if self.label is not None:
            out = out + self.label(needed(cond, "label"))
        if self.guidance is not None:
            out = out + self.guidance(GUIDANCE_SCALE * needed(cond, "guidance").float())
        return out


def needed(cond: Mapping[str, Tensor], name: str) -> Tensor:
    """cond[name]. Raises UsageError `missing_condition` when it is absent."""
    if name not in cond:
        raise UsageError("missing_condition", f"this network reads {name!r} but the condition has only {sorted(cond) or 'nothing'}; "
                                              f"give {name!r}, the null condition included")
    return cond[name]
