"""Training a text encoder and an image tower on pairs (Radford et al. 2021, arXiv 2103.00020).

Each image must pick its caption among all captions of the global batch and the reverse: the symmetric InfoNCE loss. Two pairs with one
caption are both right, so equal captions are never each other's negatives. The tokenizer, a byte-level BPE, is learned first from the training
captions. Under several processes every process sees the embeddings of all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from inkwash.data.loader import Batch
from inkwash.errors import UsageError
from inkwash.io.folder import save_part, save_tokenizer
from inkwash.nn.clip import Clip
from inkwash.train.config import ContrastiveRun
from inkwash.train.features import require_captions, trained_tokenizer
from inkwash.train.setting import Setting
from inkwash.train.task import Draw, Loss

ROLE = "clip"


def info_nce(image: Tensor, text: Tensor, scale: Tensor, ids: Tensor, all_image: Tensor, all_text: Tensor, all_ids: Tensor, first: int) -> Tensor:
    """-(log p(text i | image i) + log p(image i | text i)) / 2 for rows `first` .. of the whole batch: (B, D) among (G, D) -> (B,).

    `ids` (B, L) and `all_ids` (G, L) are the captions' tokens; a pair with the same caption is no negative.
    """
    own = first + torch.arange(len(image), device=image.device)                         # (B,)
    same = (ids[:, None] == all_ids[None]).all(-1)                                      # (B, G)
    same[torch.arange(len(image)), own] = False
    to_text = (scale * image @ all_text.T).masked_fill(same, -torch.inf)                # (B, G)
    to_image = (scale * text @ all_image.T).masked_fill(same, -torch.inf)
    return (F.cross_entropy(to_text, own, reduction="none") + F.cross_entropy(to_image, own, reduction="none")) / 2


def retrieval(image: Tensor, text: Tensor, ids: Tensor) -> dict[str, float]:
    """Share of images whose most similar caption is theirs, and of captions whose most similar image has that caption."""
    similarity = image @ text.T                                                         # (N, N)
    same = (ids[:, None] == ids[None]).all(-1)
    rows = torch.arange(len(image))
    return {"image_to_text_top1": float(same[rows, similarity.argmax(1).cpu()].float().mean()),
            "text_to_image_top1": float(same[rows, similarity.argmax(0).cpu()].float().mean())}


class ContrastiveTask:
    """Trains `config.network`, a ClipConfig, whose vocabulary becomes the tokenizer's."""

    def __init__(self, config: ContrastiveRun, setting: Setting) -> None:
        if config.accumulate != 1:
            raise UsageError("bad_batch", "accumulate: a contrastive run compares the samples of one batch with each other, so accumulate must be 1")
        self.config, self.setting = config, setting
        require_captions(setting.train, 2)
        self.tokenizer = trained_tokenizer(setting, config.vocab, config.network.text.max_tokens)
        text = dataclasses.replace(config.network.text, vocab=self.tokenizer.size)
        self.network: Clip = dataclasses.replace(config.network, text=text).build()
        self.network.image.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.roles = {ROLE: self.network}
        self.loader = setting.loader(config, setting.train, "train", flip=config.data.flip)
        self.fingerprint = self.loader.fingerprint
        self.held_out = setting.held_out(config)

    def batch(self, micro_step: int) -> Batch:
        return self.loader.batch(micro_step)

    def keys(self, batch: Batch) -> list[str]:
        return batch.keys

    def losses(self, batch: Batch, draw: Draw) -> Iterator[Loss]:
        found = self.tokenizer(batch.captions)
        ids, mask = found.ids.to(self.setting.device), found.mask.to(self.setting.device)
        image, text, scale = self.network(self.setting.signed(batch.images), ids, mask)
        image, text = image.float(), text.float()
        value = info_nce(image, text, scale.float(), ids, everyone(image), everyone(text), everyone(ids), draw.rows.start)
        yield Loss(ROLE, value, {"scale": scale})

    def compile(self) -> None:
        self.network.compile()

    def validate(self) -> dict[str, float]:
        """Loss among held-out pairs, and retrieval."""
        if self.held_out is None:
            return {}
        found = self.tokenizer(self.held_out.captions)
        ids = found.ids.to(self.setting.device)
        text = self.network.embed_text(ids, found.mask.to(self.setting.device)).float()
        image = torch.cat([self.network.embed_image(self.setting.signed(part)).float() for part in self.held_out.images.split(32)])
        loss = info_nce(image, text, self.network.scale, ids, image, text, ids, 0)
        return {"loss": float(loss.mean()), **retrieval(image, text, ids.cpu())}

    def sample(self, path: Path) -> bool:
        return False

    def export(self, folder: Path, dtype: torch.dtype) -> None:
        """`text_encoder` and `tokenizer` for a denoiser, and the whole pair as `clip` for measuring."""
        save_part(folder, "text_encoder", self.network.text, dtype=dtype)
        save_tokenizer(folder, self.tokenizer)
        save_part(folder, "clip", self.network, dtype=dtype)

    def summary(self) -> str:
        return self.loader.summary()

    def close(self) -> None:
        self.loader.close()


def everyone(rows: Tensor) -> Tensor:
    """The rows of all processes in order of rank; gradients flow back to whom they belong."""
    if not dist.is_initialized():
        return rows
    if rows.requires_grad:
        from torch.distributed.nn.functional import all_gather

        return torch.cat(all_gather(rows))
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)
