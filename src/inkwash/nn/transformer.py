"""A plain pre-norm transformer block over tokens (Vaswani et al. 2017, arXiv 1706.03762; Xiong et al. 2020, arXiv 2002.04745)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.nn.attention import Attention
from inkwash.nn.layers import zero


class Mlp(nn.Module):
    """linear(gelu(linear(x))), hidden width `ratio` times as wide; the last layer starts at zero unless `zero_out` is False."""

    def __init__(self, width: int, ratio: float = 4.0, zero_out: bool = True) -> None:
        super().__init__()
        hidden = int(width * ratio)
        self.hidden = nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, width)
        if zero_out:
            zero(self.out)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.gelu(self.hidden(x), approximate="tanh"))


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), for tokens (B, L, width)."""

    def __init__(self, width: int, heads: int, causal: bool = False, form: str = "auto") -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads, form=form, causal=causal, zero_out=False)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = Mlp(width, zero_out=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask` (B, L) bool is True for tokens that exist."""
        x = x + self.attention(self.norm_attention(x), mask=mask)
        return x + self.mlp(self.norm_mlp(x))                                           # (B, L, width)
