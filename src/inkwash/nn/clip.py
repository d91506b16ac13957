"""A contrastive pair of text and image encoder (Radford et al. 2021, arXiv 2103.00020).

Both map to unit vectors of one space. The logits of a batch are their cosines times a learned temperature exp(log_scale), which is
clamped at 100 as in the paper. Trained so that each text finds its image among the batch and the reverse: `contrastive_loss`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.nn.config import NetworkConfig, require
from inkwash.nn.image_tower import ImageTowerConfig
from inkwash.nn.text import Text, TextEncoderConfig

MAX_LOG_SCALE = math.log(100.0)


@dataclass(frozen=True, repr=False)
class ClipConfig(NetworkConfig):
    """A text encoder, an image tower and the width of the space they share."""

    text: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    image: ImageTowerConfig = field(default_factory=ImageTowerConfig)
    shared_dim: int = 128

    def __post_init__(self) -> None:
        require(self.shared_dim > 0, "shared_dim is at least 1")

    def build(self) -> Clip:
        return Clip(self)


class Clip(nn.Module):
    """Network of a ClipConfig. `.text` is the text encoder whose tokens condition a denoiser."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.text = config.text.build()
        self.image = config.image.build()
        self.text_projection = nn.Linear(config.text.width, config.shared_dim, bias=False)
        self.image_projection = nn.Linear(config.image.out_dim, config.shared_dim, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    @property
    def scale(self) -> Tensor:
        """exp(log_scale), at most 100."""
        return self.log_scale.clamp(max=MAX_LOG_SCALE).exp()

    def embed_text(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Unit vectors (B, shared_dim) of texts, from ids (B, L) and mask (B, L)."""
        return self.project_text(self.text(ids, mask))

    def project_text(self, text: Text) -> Tensor:
        """Unit vectors (B, shared_dim) of texts that the text encoder has read."""
        return F.normalize(self.text_projection(text.pooled).float(), dim=-1)

    def embed_image(self, image: Tensor) -> Tensor:
        """Unit vectors (B, shared_dim) of images (B, channels, H, W) in [-1, 1]."""
        return F.normalize(self.image_projection(self.image(image)).float(), dim=-1)

    def forward(self, image: Tensor, ids: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(image vectors, text vectors, scale): what `contrastive_loss` takes."""
        return self.embed_image(image), self.embed_text(ids, mask), self.scale


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Symmetric cross-entropy of scale * image text^T with the diagonal as truth: (B, D), (B, D) -> (B,), one value per pair."""
    logits = scale.float() * image.float() @ text.float().T                             # (B, B)
    truth = torch.arange(logits.shape[0], device=logits.device)
    return 0.5 * (F.cross_entropy(logits, truth, reduction="none") + F.cross_entropy(logits.T, truth, reduction="none"))
