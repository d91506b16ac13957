"""A text encoder in the manner of CLIP (Radford et al. 2021, arXiv 2103.00020): token ids -> one vector per token, one per text.

Tokens read each other in both directions, or only backwards when `causal`. Padding has exactly zero weight everywhere, so a text's
vectors do not depend on how far it was padded. The pooled vector is the masked mean of the tokens, or the last real token when causal,
which alone has read the whole text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from inkwash.errors import UsageError
from inkwash.nn.attention import check_form
from inkwash.nn.config import NetworkConfig, require
from inkwash.nn.transformer import TransformerBlock


class Text(NamedTuple):
    """What a text encoder knows: `tokens` (B, L, width) for cross-attention, `pooled` (B, width), `mask` (B, L) True for real tokens."""

    tokens: Tensor
    pooled: Tensor
    mask: Tensor


@dataclass(frozen=True, repr=False)
class TextEncoderConfig(NetworkConfig):
    """Sizes of a TextEncoder: `vocab` token ids, at most `max_tokens` of them in a text, start and end marks included.

    `init` is the standard deviation of a new token's vector (a position's is half of that). Below about 0.1 a new layer's mixture of all
    words drowns the word itself; at 1 every word is told apart from the first step, which short runs need that train the encoder along.
    """

    vocab: int = 2048
    width: int = 192
    layers: int = 4
    heads: int = 4
    max_tokens: int = 32
    causal: bool = False
    form: str = "auto"
    init: float = 0.02

    def __post_init__(self) -> None:
        require(self.init > 0, f"init={self.init} is the size of new token vectors and must be above 0")
        require(min(self.vocab, self.width, self.layers, self.heads, self.max_tokens) > 0, f"every size of {self!r} must be at least 1")
        require(self.width % self.heads == 0, f"a width of {self.width} cannot be split into {self.heads} heads")
        check_form(self.form)

    def build(self) -> TextEncoder:
        return TextEncoder(self)


class TextEncoder(nn.Module):
    """Network of a TextEncoderConfig."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.token = nn.Embedding(config.vocab, config.width)
        self.position = nn.Embedding(config.max_tokens, config.width)
        self.blocks = nn.ModuleList(TransformerBlock(config.width, config.heads, config.causal, config.form) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        nn.init.normal_(self.token.weight, std=config.init)
        nn.init.normal_(self.position.weight, std=config.init / 2)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Text:
        """`ids` (B, L) long and `mask` (B, L) bool, True for real tokens, which stand first; no mask means that all are real.

        Raises UsageError `too_many_tokens` when L exceeds max_tokens: who calls decides where to cut, and says so.
        """
        length = ids.shape[1]
        if length > self.config.max_tokens:
            raise UsageError("too_many_tokens", f"a text of {length} tokens does not fit this encoder; the limit is {self.config.max_tokens}; "
                                                f"shorten it or truncate it with a warning")
        if mask is None:
            mask = torch.ones_like(ids, dtype=torch.bool)
        x = self.token(ids) + self.position(torch.arange(length, device=ids.device))    # (B, L, width)
        for block in self.blocks:
            x = block(x, mask)
        tokens = self.norm(x)
        return Text(tokens, self._pool(tokens, mask), mask)

    def _pool(self, tokens: Tensor, mask: Tensor) -> Tensor:
        if self.config.causal:
            last = mask.sum(dim=1).clamp(min=1) - 1                                     # (B,)
            return tokens[torch.arange(tokens.shape[0], device=tokens.device), last]    # (B, width)
        kept = tokens.masked_fill(~mask[..., None], 0.0)
        return kept.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1).to(tokens.dtype)
