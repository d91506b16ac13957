"""The U-Net whose weights the field shares: DDPM's, Stable Diffusion 1 and 2's, SDXL's, from one implementation.

Names and shapes of all tensors are those of diffusers' UNet2DModel and UNet2DConditionModel, so `load_state_dict` takes their weights as
they are, and what is trained here opens there. The sizes are the published ones: 35.7 M for CIFAR-10 (Ho et al. 2020, arXiv 2006.11239),
859.5 M for Stable Diffusion 1 (Rombach et al. 2021, arXiv 2112.10752), 2567.5 M for SDXL (Podell et al. 2023, arXiv 2307.01952).

    x -> conv_in -> [block (+ attention)] x n, down -> ... -> mid -> ... -> [skip, block (+ attention)] x (n + 1), up -> norm, conv_out -> y

The noise coordinate is the index 0..T-1 of the training schedule: `TimeIndex(schedule, T, -1)` makes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.errors import UsageError
from inkwash.nn.config import NetworkConfig, require
from inkwash.nn.embed import needed
from inkwash.nn.layers import zero
from inkwash.nn.unet2d_blocks import (
    Context,
    Downsample,
    DownStage,
    MidStage,
    Mlp,
    PixelAttention,
    ResnetBlock,
    TextTransformer,
    Upsample,
    UpStage,
    waves,
)

Reads = Literal["none", "pixels", "text"]
GUIDANCE_FEATURES = 256  # of the scale that a student is told, in every published one


@dataclass(frozen=True, repr=False)
class UNet2DConfig(NetworkConfig):
    """Sizes of a UNet2D; `sd1`, `sd2`, `sdxl` and `ddpm_cifar10` are the published ones. Tuples have one entry per resolution, finest first.

    `down`, `up` and `mid` say what the attention behind each residual block reads: "none", "pixels" (one attention), or "text" (`depth`
    layers that read pixels and text). `heads` counts attention heads. `text_dim` is the width of the tokens, `num_classes` adds an embedded
    label, `pooled_dim` and `sizes_dim` SDXL's pooled text and six numbers of size and crop, embedded in sizes_dim features each.
    `guidance` is for students of guidance: they are told the scale w as "guidance" (B,), in the form of LCM (Luo et al. 2023, arXiv 2310.04378).
    `flip` puts cosines first, `shift` is the frequency shift of the noise embedding, `pad` = 0 pads downsampling on two sides only.
    `image` is the height and width of training, which other programs take as their default.
    """

    in_channels: int = 4
    out_channels: int = 4
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    blocks: int = 2
    down: tuple[Reads, ...] = ("text", "text", "text", "none")
    up: tuple[Reads, ...] = ("text", "text", "text", "none")
    mid: Reads = "text"
    heads: tuple[int, ...] = (8, 8, 8, 8)
    depth: tuple[int, ...] = (1, 1, 1, 1)
    text_dim: int = 768
    num_classes: int = 0
    pooled_dim: int = 0
    sizes_dim: int = 0
    linear: bool = False
    groups: int = 32
    eps: float = 1e-5
    flip: bool = True
    shift: float = 0.0
    pad: int = 1
    dropout: float = 0.0
    image: int = 64
    guidance: bool = False
    aliases = {
        "sd1": {},
        "sd2": {"heads": (5, 10, 20, 20), "text_dim": 1024, "linear": True},
        "sdxl": {"widths": (320, 640, 1280), "down": ("none", "text", "text"), "up": ("none", "text", "text"), "heads": (5, 10, 20),
                 "depth": (1, 2, 10), "text_dim": 2048, "pooled_dim": 1280, "sizes_dim": 256, "linear": True, "image": 128},
        "ddpm_cifar10": {"in_channels": 3, "out_channels": 3, "widths": (128, 256, 256, 256), "down": ("none", "pixels", "none", "none"),
                         "up": ("none", "pixels", "none", "none"), "mid": "pixels", "heads": (1, 1, 1, 1), "text_dim": 0, "flip": False,
                         "shift": 1.0, "pad": 0, "image": 32},
    }

    def __post_init__(self) -> None:
        levels = len(self.widths)
        require(levels > 0 and min(self.widths) > 0, f"a U-Net needs positive widths, got {self.widths}")
        for name in ("down", "up", "heads", "depth"):
            require(len(getattr(self, name)) == levels, f"{name} {getattr(self, name)} needs {levels} entries, one per width")
        require(min(self.in_channels, self.out_channels, self.blocks, *self.heads, *self.depth) > 0, f"every count of {self!r} must be at least 1")
        require(all(width % self.groups == 0 for width in self.widths), f"widths {self.widths} are not multiples of groups={self.groups}")
        require(all(width % heads == 0 for width, heads in zip(self.widths, self.heads)),
                f"widths {self.widths} are not multiples of heads {self.heads}")
        reads = {*self.down, *self.up, self.mid}
        require(reads <= {"none", "pixels", "text"}, f"attention reads 'none', 'pixels' or 'text', got {sorted(reads)}")
        require((self.text_dim > 0) == ("text" in reads), f"text_dim={self.text_dim}, and attention reads {sorted(reads)}; "
                                                           "text needs a width, and a width needs a block that reads text")
        require(self.widths[0] % 2 == 0, f"the first width {self.widths[0]} is odd; sinusoidal features need an even one")
        require((self.pooled_dim > 0) == (self.sizes_dim > 0), "pooled_dim and sizes_dim come together")
        require(0.0 <= self.dropout < 1.0 and self.pad in (0, 1), f"dropout={self.dropout} must lie in [0, 1) and pad={self.pad} be 0 or 1")

    @property
    def factor(self) -> int:
        """Height and width of an input must be multiples of this."""
        return 2 ** (len(self.widths) - 1)

    def build(self) -> UNet2D:
        return UNet2D(self)


def embedded(config: UNet2DConfig, time: Mlp, label: nn.Embedding | None, added: Mlp | None, noise: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
    """The vector (B, 4 widths[0]) that every residual block reads, after its SiLU: noise, label, and SDXL's pooled text with six sizes.

    A guidance scale w becomes sines and cosines of 1000 (w - 1) with frequencies 10000 ** (-i / 127), which join those of the noise.
    """
    dtype = time.linear_1.weight.dtype
    told = waves(1000 * (needed(cond, "guidance").float() - 1), GUIDANCE_FEATURES, False, 1.0).to(dtype) if config.guidance else None  # (B, 256)
    out: Tensor = time(waves(noise, config.widths[0], config.flip, config.shift).to(dtype), told)
    if label is not None:
        out = out + label(needed(cond, "label"))
    if added is not None:
        sizes = waves(needed(cond, "sizes"), config.sizes_dim, config.flip, config.shift).flatten(1)    # (B, 6 sizes_dim)
        out = out + added(torch.cat([needed(cond, "pooled").to(dtype), sizes.to(dtype)], dim=-1))
    return F.silu(out)


class UNet2D(nn.Module):
    """Network of a UNet2DConfig: x (B, in_channels, H, W), noise (B,) index of the schedule, cond -> (B, out_channels, H, W).

    cond has "tokens" (B, L, text_dim) when text_dim > 0, "label" (B,) when num_classes > 0, "guidance" (B,) when guidance, "pooled"
    (B, pooled_dim) and "sizes" (B, 6) when pooled_dim > 0. Published models read every token, the padding too, so a "mask" of cond is not
    used. Raises UsageError `missing_condition` when one is absent, `bad_size` when H or W does not suit.
    """

    def __init__(self, config: UNet2DConfig) -> None:
        super().__init__()
        self.config = config
        widths, last = config.widths, len(config.widths) - 1
        embed = 4 * widths[0]
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = Mlp(widths[0], embed, GUIDANCE_FEATURES if config.guidance else 0)
        self.class_embedding = nn.Embedding(config.num_classes, embed) if config.num_classes else None
        self.add_embedding = Mlp(config.pooled_dim + 6 * config.sizes_dim, embed) if config.pooled_dim else None
        stages: list[nn.Module] = []
        skips, width = [widths[0]], widths[0]
        for level, target in enumerate(widths):
            ins = [width] + [target] * (config.blocks - 1)
            step = Downsample(target, config.pad) if level < last else None
            attentions = self._attentions(config.down[level], level, config.blocks)
            stages.append(DownStage([self._resnet(one, target) for one in ins], attentions, down=step))
            skips += [target] * (config.blocks + (step is not None))
            width = target
        self.down_blocks = nn.ModuleList(stages)
        self.mid_block = MidStage([self._resnet(width, width), self._resnet(width, width)], self._attentions(config.mid, last, 1))
        stages = []
        for level in reversed(range(last + 1)):
            target, resnets = widths[level], []
            for _ in range(config.blocks + 1):
                resnets.append(self._resnet(width + skips.pop(), target))
                width = target
            step_up = Upsample(target) if level > 0 else None
            stages.append(UpStage(resnets, self._attentions(config.up[level], level, config.blocks + 1), up=step_up))
        self.up_blocks = nn.ModuleList(stages)
        self.conv_norm_out = nn.GroupNorm(config.groups, widths[0], config.eps)
        self.conv_out = zero(nn.Conv2d(widths[0], config.out_channels, 3, padding=1))

    def _resnet(self, width_in: int, width_out: int) -> ResnetBlock:
        config = self.config
        return ResnetBlock(width_in, width_out, 4 * config.widths[0], config.groups, config.eps, config.dropout)

    def _attentions(self, reads: Reads, level: int, count: int) -> list[nn.Module]:
        config, width = self.config, self.config.widths[level]
        if reads == "text":
            return [TextTransformer(width, config.heads[level], config.depth[level], config.text_dim, config.groups, config.linear, config.dropout)
                    for _ in range(count)]
        return [PixelAttention(width, config.heads[level], config.groups, config.eps) for _ in range(count)] if reads == "pixels" else []

    def forward(self, x: Tensor, noise: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        check(self.config, x)
        tokens = needed(cond, "tokens").to(x.dtype) if self.config.text_dim else None   # (B, L, text_dim)
        context = Context(embedded(self.config, self.time_embedding, self.class_embedding, self.add_embedding, noise, cond), tokens)
        x = self.conv_in(x)
        skips = [x]
        for stage in self.down_blocks:
            x = stage(x, context, skips)
        x = self.mid_block(x, context, skips)
        for stage in self.up_blocks:
            x = stage(x, context, skips)
        out: Tensor = self.conv_out(F.silu(self.conv_norm_out(x)))                      # (B, out_channels, H, W)
        return out


def check(config: UNet2DConfig, x: Tensor) -> None:
    """Raises UsageError `bad_size` unless the network of `config` takes x (B, C, H, W)."""
    height, width = x.shape[-2:]
    if height % config.factor or width % config.factor:
        raise UsageError("bad_size", f"this U-Net cannot take {width} x {height}; both must be multiples of {config.factor}")
    if x.shape[1] != config.in_channels:
        raise UsageError("bad_size", f"this U-Net takes {config.in_channels} channels, got {x.shape[1]}")
