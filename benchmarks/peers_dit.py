"""diffusers' DiT with the weights of ours: `DiTTransformer2DModel`, of its classes the one that computes what the paper's network does.

Its weights are mapped one to one, none of them reshaped but for the order of rows. Three constants of theirs are set to the paper's, which cost
them no time: the sines of the noise level (they space the frequencies by half - 1 instead of half), the order of sines and cosines in the
positions, and the epsilon of the second norm. Every block of theirs holds an embedding of noise and label of its own; published models have the
same weights in all of them, and so does this one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from inkwash.nn import DiTConfig
from inkwash.nn.embed import grid_positions

CIFAR10 = "DiTConfig(in_channels=3, out_channels=3, patch=2, width=384, depth=12, heads=6, num_classes=10)"
MINI = "DiTConfig(in_channels=8, out_channels=8, patch=2, width=256, depth=8, heads=4, num_classes=10)"
B2 = "dit_b_2"


def dits(config: DiTConfig, side: int) -> tuple[nn.Module, nn.Module]:
    """(ours, theirs) with the same random weights, none of them zero, for images of side x side. A config that reads text is not theirs."""
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(0)
    theirs = DiTTransformer2DModel(num_attention_heads=config.heads, attention_head_dim=config.width // config.heads, num_layers=config.depth,
                                   in_channels=config.in_channels, out_channels=config.out_channels, sample_size=side, patch_size=config.patch,
                                   num_embeds_ada_norm=config.num_classes, norm_eps=1e-6)
    first = theirs.transformer_blocks[0].norm1.emb
    with torch.no_grad():
        for parameter in theirs.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
        for block in theirs.transformer_blocks:
            block.norm1.emb.load_state_dict(first.state_dict())
            block.norm1.emb.time_proj.downscale_freq_shift = 0
        theirs.pos_embed.pos_embed.copy_(grid_positions(side // config.patch, side // config.patch, config.width))
    ours = config.build()
    ours.load_state_dict(weights(theirs, config), strict=True)
    return ours, theirs


def weights(theirs: nn.Module, config: DiTConfig) -> dict[str, Tensor]:
    """Their weights under our names."""
    given = theirs.state_dict()
    found: dict[str, Tensor] = {}

    def put(name: str, *sources: str, parts: tuple[int, ...] = ()) -> None:
        """Weight and bias of our layer: the rows of theirs, one after another; `parts` puts equal parts of the rows in another order."""
        for kind in ("weight", "bias"):
            whole = torch.cat([given[f"{source}.{kind}"] for source in sources])
            chunks = whole.chunk(len(parts)) if parts else ()
            found[f"{name}.{kind}"] = torch.cat([chunks[i] for i in parts]) if parts else whole

    first = "transformer_blocks.0.norm1.emb"
    put("embed.noise.hidden", f"{first}.timestep_embedder.linear_1")
    put("embed.noise.out", f"{first}.timestep_embedder.linear_2")
    found["embed.label.weight"] = given[f"{first}.class_embedder.embedding_table.weight"]
    put("patches", "pos_embed.proj")
    found["patches.weight"] = found["patches.weight"].flatten(1)                        # a convolution with stride = size is a linear map of patches
    for i in range(config.depth):
        own, their = f"blocks.{i}", f"transformer_blocks.{i}"
        put(f"{own}.modulation", f"{their}.norm1.linear", parts=(1, 0, 2, 4, 3, 5))     # theirs: shift, scale, gate of each half; ours: scale first
        put(f"{own}.attention.query", f"{their}.attn1.to_q")
        put(f"{own}.attention.key_value", f"{their}.attn1.to_k", f"{their}.attn1.to_v")
        put(f"{own}.attention.out", f"{their}.attn1.to_out.0")
        put(f"{own}.mlp.hidden", f"{their}.ff.net.0.proj")
        put(f"{own}.mlp.out", f"{their}.ff.net.2")
    put("modulation", "proj_out_1", parts=(1, 0))
    put("out", "proj_out_2")
    for kind in ("weight", "bias"):                                                     # theirs: (row, column, channel); ours: channel first
        found[f"out.{kind}"] = found[f"out.{kind}"].unflatten(0, (config.patch**2, -1)).transpose(0, 1).flatten(0, 1)
    return found
