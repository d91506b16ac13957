"""CLIP as a feature extractor (Radford et al. 2021, arXiv 2103.00020): images and texts as unit vectors of one space.

Two kinds of folder are read. The output folder of this package's contrastive run, whose image tower takes the size that the run's
config.json states; a text-to-image model carries only the text half of it. And the folder of a CLIP in transformers' layout, by the
package transformers, from local files alone: the shorter side becomes the network's size by the rule of
`inkwash.evaluate.extractors.features`, and the middle is cut out.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.errors import CheckpointError, InkwashError, UsageError, install
from inkwash.evaluate.extractors.features import TextExtractor
from inkwash.evaluate.extractors.network import CPU, MICRO_BATCH, NetworkExtractor, require_tensors, resize
from inkwash.io.folder import load_part, load_tokenizer
from inkwash.io.tensors import digest, load_tensors
from inkwash.nn.clip import Clip

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of the published CLIP


class ClipExtractor(NetworkExtractor):
    """An image network and a function from prompts to vectors of the same space."""

    def __init__(self, name: str, network: nn.Module, prepare: Callable[[Tensor], Tensor], dim: int, embed: Callable[[Sequence[str]], Tensor],
                 *, weights_hash: str, device: torch.device = CPU) -> None:
        super().__init__(name, network, prepare, dim, unit=True, device=device, weights_hash=weights_hash)
        self.embed = embed

    @torch.inference_mode()
    def text(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> float32 (B, dim) on the CPU, of length 1, in micro-batches of one size. Raises UsageError `bad_prompts` for none."""
        if not prompts:
            raise UsageError("bad_prompts", "there are no prompts to embed; give at least one")
        rows = []
        for start in range(0, len(prompts), MICRO_BATCH):
            part = list(prompts[start : start + MICRO_BATCH])
            found = self.embed(part + part[-1:] * (MICRO_BATCH - len(part)))[: len(part)]
            rows.append(F.normalize(found.float(), dim=1).cpu())
        return torch.cat(rows)


class _Images(nn.Module):
    """The image half of a CLIP as a network of its own, which keeps the other half."""

    def __init__(self, clip: nn.Module, forward: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.clip, self.vectors = clip, forward

    def forward(self, images: Tensor) -> Tensor:
        return self.vectors(images)


def is_clip(path: Path) -> bool:
    """Whether the folder holds both towers: a finished contrastive run, or transformers' CLIPModel."""
    return _own(path) is not None or _read(path / "config.json").get("model_type") == "clip"


def load_clip(path: Path, device: torch.device = CPU) -> TextExtractor:
    """The CLIP in a folder.

    Raises CheckpointError `no_part` when there is none with an image tower, `arch_mismatch` with the first differences, those of `load_tensors`;
    UsageError `missing_extra` when transformers is needed and not installed.
    """
    own = _own(path)
    if own is not None:
        return _load_own(path, own, device)
    if _read(path / "config.json").get("model_type") == "clip":
        return _load_published(path, device)
    has_text = (path / "text_encoder" / "config.json").is_file()
    what = "carries only the text encoder of its CLIP, without the image tower" if has_text else "has no CLIP"
    raise CheckpointError("no_part", f'"{path}" {what}; give the --out folder of a contrastive run, or a CLIP folder of transformers')


def _own(path: Path) -> Path | None:
    """The model folder of a finished contrastive run."""
    return next((folder for folder in (path, path / "model") if (folder / "clip" / "config.json").is_file()), None)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        raw = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError("model_damaged", f'cannot read "{path}": {error}; restore the file') from None
    return raw if isinstance(raw, dict) else {}


def _load_own(path: Path, folder: Path, device: torch.device) -> ClipExtractor:
    """Images are resized to the square that the run trained on."""
    size = next((found for place in (path, folder.parent) if isinstance(found := _read(place / "config.json").get("data"), dict)), {}).get("size")
    if not isinstance(size, int) or size < 1:
        raise CheckpointError("model_damaged", f'"{path}" has no config.json with data.size, the size its image tower was trained at; '
                                               "give the --out folder of the run, not the model folder inside")
    clip = load_part(folder, "clip")
    if not isinstance(clip, Clip):
        raise CheckpointError("arch_mismatch", f'"{folder / "clip"}" holds a {type(clip).__name__}, expected a Clip; give a contrastive run')
    tokenizer = load_tokenizer(folder, clip.config.text.max_tokens)
    weights_hash = digest(clip.state_dict())

    def prepare(images: Tensor) -> Tensor:
        return (resize(images, size, size) / 127.5 - 1).to(memory_format=torch.channels_last)

    def embed(prompts: Sequence[str]) -> Tensor:
        found = tokenizer(prompts)
        return clip.embed_text(found.ids.to(device), found.mask.to(device))

    return ClipExtractor(f"clip:{path.name}", _Images(clip, clip.embed_image), prepare, clip.config.shared_dim, embed, weights_hash=weights_hash,
                         device=device)


def _load_published(path: Path, device: torch.device) -> ClipExtractor:
    """The tensors are read and compared here, so that transformers sees numbers only."""
    if importlib.util.find_spec("transformers") is None:
        raise UsageError("missing_extra", f"a CLIP of this layout needs the package transformers; {install('interop')}")
    from transformers import AutoTokenizer, CLIPConfig, CLIPModel

    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise CheckpointError("ckpt_missing", f'"{path}" holds no safetensors file; convert its weights with the program that wrote them')
    tensors = {name: tensor for file in files for name, tensor in load_tensors(file).items()}
    try:
        config: Any = CLIPConfig.from_pretrained(path, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except InkwashError:
        raise
    except Exception as error:                                                          # transformers raises almost anything
        raise CheckpointError("model_damaged", f'transformers cannot read "{path}": {str(error)[:120]}; give a complete CLIP folder') from error
    model = CLIPModel(config).float().eval()
    kept = {name: tensor.float() for name, tensor in tensors.items() if not name.endswith("position_ids")}
    require_tensors(files[0], model, kept)
    model.load_state_dict(kept, strict=False)
    size, length = int(config.vision_config.image_size), int(config.text_config.max_position_embeddings)
    stated = _read(path / "preprocessor_config.json")
    mean, std = (torch.tensor(stated.get(key, value), device=device)[:, None, None] for key, value in (("image_mean", MEAN), ("image_std", STD)))

    def prepare(images: Tensor) -> Tensor:
        return (resize_and_crop(images, size) / 255 - mean) / std

    def vectors(images: Tensor) -> Tensor:
        found: Tensor = model.visual_projection(model.vision_model(pixel_values=images, return_dict=True).pooler_output)
        return found

    def embed(prompts: Sequence[str]) -> Tensor:
        told = tokenizer(list(prompts), padding="max_length", truncation=True, max_length=length, return_tensors="pt").to(device)
        found: Tensor = model.text_projection(model.text_model(input_ids=told["input_ids"], attention_mask=told["attention_mask"],
                                                               return_dict=True).pooler_output)
        return found

    return ClipExtractor(f"clip:{path.name}", _Images(model, vectors), prepare, int(config.projection_dim), embed, weights_hash=digest(tensors),
                         device=device)


def resize_and_crop(images: Tensor, size: int) -> Tensor:
    """uint8 (B, 3, H, W) -> float32 (B, 3, size, size) in 0..255: the shorter side to `size`, then the middle."""
    height, width = images.shape[-2:]
    short = min(height, width)
    high, wide = size * height // short, size * width // short
    top, left = (high - size) // 2, (wide - size) // 2
    return resize(images, high, wide)[..., top : top + size, left : left + size]
