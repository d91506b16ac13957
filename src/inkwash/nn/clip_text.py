"""CLIP's text transformer (Radford et al. 2021, arXiv 2103.00020), whose vectors condition Stable Diffusion: 123.06 M parameters for ViT-L/14.

Tokens read backwards only. Every token vector counts, those of the padding too: published denoisers were trained to read all 77. The
pooled vector is that of the first end mark, which has read the whole text. Names and shapes of all tensors are those of transformers'
CLIPTextModel files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.errors import UsageError
from inkwash.nn.attention import attend
from inkwash.nn.config import NetworkConfig, require
from inkwash.nn.text import Text

Activation = Literal["quick_gelu", "gelu"]


@dataclass(frozen=True, repr=False)
class ClipTextConfig(NetworkConfig):
    """Sizes of a ClipText; `clip_vit_l_14` is Stable Diffusion 1's. `end` is the id of the end mark; `projection` > 0 maps the pooled vector.

    `init` is the standard deviation of new vectors of tokens and places, as in TextEncoderConfig.
    """

    vocab: int = 49408
    width: int = 768
    inner: int = 3072
    layers: int = 12
    heads: int = 12
    max_tokens: int = 77
    activation: Activation = "quick_gelu"
    projection: int = 0
    end: int = 49407
    eps: float = 1e-5
    init: float = 0.02
    aliases = {"clip_vit_l_14": {}, "openclip_vit_h_14": {"width": 1024, "inner": 4096, "layers": 23, "heads": 16, "activation": "gelu"}}

    def __post_init__(self) -> None:
        require(min(self.vocab, self.width, self.inner, self.layers, self.heads, self.max_tokens) > 0, f"every size of {self!r} must be at least 1")
        require(self.width % self.heads == 0, f"a width of {self.width} cannot be split into {self.heads} heads")
        require(self.activation in get_args(Activation), f"activation={self.activation!r} is unknown; choose quick_gelu or gelu")
        require(self.init > 0, f"init={self.init} is the size of new token vectors and must be above 0")
        require(0 <= self.end < self.vocab, f"the end mark {self.end} is not one of {self.vocab} tokens")

    def build(self) -> ClipText:
        return ClipText(self)


class _SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj, self.v_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.q_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(attend(q, k, v, causal=True).transpose(1, 2).flatten(2))   # (B, L, width)


class _Mlp(nn.Module):
    def __init__(self, width: int, inner: int, activation: Activation) -> None:
        super().__init__()
        self.quick = activation == "quick_gelu"
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        return self.fc2(h * torch.sigmoid(1.702 * h) if self.quick else F.gelu(h))      # Hendrycks & Gimpel 2016, section 2, for the quick form


class _Layer(nn.Module):
    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.self_attn = _SelfAttention(config.width, config.heads)
        self.layer_norm1 = nn.LayerNorm(config.width, config.eps)
        self.mlp = _Mlp(config.width, config.inner, config.activation)
        self.layer_norm2 = nn.LayerNorm(config.width, config.eps)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class _Embeddings(nn.Module):
    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab, config.width)
        self.position_embedding = nn.Embedding(config.max_tokens, config.width)
        nn.init.normal_(self.token_embedding.weight, std=config.init)
        nn.init.normal_(self.position_embedding.weight, std=config.init / 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]


class _Layers(nn.Module):
    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))


class _TextModel(nn.Module):
    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.embeddings = _Embeddings(config)
        self.encoder = _Layers(config)
        self.final_layer_norm = nn.LayerNorm(config.width, config.eps)


class ClipText(nn.Module):
    """Network of a ClipTextConfig."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.config = config
        self.text_model = _TextModel(config)
        self.text_projection = nn.Linear(config.width, config.projection, bias=False) if config.projection else None

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Text:
        """`ids` (B, L) long -> Text with `tokens` (B, L, width) and `pooled` (B, width or projection). All tokens are read, so no mask is.

        Text.mask is `mask`, or all True: denoisers of this kind do not look at it. Raises UsageError `too_many_tokens`.
        """
        if ids.shape[1] > self.config.max_tokens:
            raise UsageError("too_many_tokens", f"a text of {ids.shape[1]} tokens does not fit this encoder; the limit is "
                                                f"{self.config.max_tokens}; shorten it or truncate it with a warning")
        x = self.text_model.embeddings(ids)                                             # (B, L, width)
        for layer in self.text_model.encoder.layers:
            x = layer(x)
        tokens = self.text_model.final_layer_norm(x)
        first = (ids == self.config.end).int().argmax(dim=1)                            # (B,)
        pooled = tokens[torch.arange(len(ids), device=ids.device), first]               # (B, width)
        if self.text_projection is not None:
            pooled = self.text_projection(pooled)
        return Text(tokens, pooled, torch.ones_like(ids, dtype=torch.bool) if mask is None else mask)
