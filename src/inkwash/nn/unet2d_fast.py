"""The inference twin of a UNet2D on a CPU: the same function of the same weights, laid out for the processor.

    weights       reordered once into oneDNN's blocks, in bfloat16; without that every call reorders them again
    q, k, v       one product for pixels; the keys and values of the text one product for the whole network
    residuals     added by the convolution or product in front of them
    norms         group norm, the noise embedding and SiLU in one pass; a gated GELU in one pass; attention in blocks (native.inference)
    enlargement   nearest-neighbour times two and a 3 x 3 kernel are four 2 x 2 kernels, one per position in a block: 2.25 times less work

`text_context` gives the keys and values of a text, which stay the same in every step, and forward takes them in place of the tokens: an
explicit argument, nothing is remembered. The twin has no parameters to train and shares no memory with the network that it was made from.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Never, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.errors import UsageError
from inkwash.nn import native
from inkwash.nn.embed import needed
from inkwash.nn.native import inference
from inkwash.nn.unet2d import UNet2D, check, embedded
from inkwash.nn.unet2d_blocks import CrossAttention, Downsample, PixelAttention, ResnetBlock, Stage, TextTransformer, Upsample, image_of, pixels_of

CONTEXT = "text_context"
BF16 = torch.bfloat16
WIDE_BYTES = 2**24  # of the widest activation: the allocator gives larger ones back to the system, and fetching them again costs more than the work
Part = TypeVar("Part", bound=nn.Module)


class Packed:
    """A convolution (B, C, H, W) or linear map (..., C) with its weights in oneDNN's layout; `other` is added to the result."""

    def __init__(self, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0) -> None:
        self.bias = None if bias is None else bias.detach().to(BF16)
        self.sides = ([padding] * 2, [stride] * 2, [1, 1], 1)
        self.conv = weight.dim() == 4
        weight = weight.detach().to(BF16)
        if self.conv:
            nhwc = weight.contiguous(memory_format=torch.channels_last)
            self.weight = torch._C._nn.mkldnn_reorder_conv2d_weight(nhwc.to_mkldnn(), *self.sides, None)  # type: ignore[attr-defined, call-arg]
        else:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)

    def __call__(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        ops = torch.ops.mkldnn
        out: Tensor
        if self.conv and other is None:
            out = ops._convolution_pointwise(x, self.weight, self.bias, *self.sides, "none", [], "")
        elif self.conv:
            out = ops._convolution_pointwise.binary(x, other, self.weight, self.bias, *self.sides, "add", 1.0, None, [], None)
        elif other is None:
            out = ops._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        else:
            out = ops._linear_pointwise.binary(x, other, self.weight, self.bias, "add")
        return out


def _conv(layer: nn.Conv2d) -> Packed:
    return Packed(layer.weight, layer.bias, layer.stride[0], int(layer.padding[0]))


def _linear(layer: nn.Module) -> Packed:
    """A linear layer, or a 1 x 1 convolution that is used as one."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    assert bias is None or isinstance(bias, Tensor)
    return Packed(weight.flatten(1), bias)


def _stacked(*layers: nn.Linear) -> Packed:
    biases: list[Tensor] = [layer.bias for layer in layers if layer.bias is not None]
    return Packed(torch.cat([layer.weight for layer in layers]), torch.cat(biases) if biases else None)


def _half(layer: Part) -> Part:
    return copy.deepcopy(layer).to(BF16).requires_grad_(False)


def _norm(layer: nn.GroupNorm) -> nn.GroupNorm:
    made = nn.GroupNorm(layer.num_groups, layer.num_channels, layer.eps, dtype=BF16)
    made.load_state_dict(layer.state_dict())
    return made.requires_grad_(False)


class _Layer:
    """One transformer layer; `columns` is where its keys and values stand in the text context."""

    def __init__(self, layer: nn.Module, columns: slice) -> None:
        one, two = layer.attn1, layer.attn2
        assert isinstance(one, CrossAttention)
        assert isinstance(two, CrossAttention)
        self.heads, self.columns = one.heads, columns
        self.norms = [(norm.normalized_shape, norm.weight.detach().to(BF16), norm.bias.detach().to(BF16), norm.eps)
                      for norm in (layer.norm1, layer.norm2, layer.norm3) if isinstance(norm, nn.LayerNorm)]
        self.qkv, self.out1 = _stacked(one.to_q, one.to_k, one.to_v), _linear(one.to_out[0])
        self.q, self.out2 = _linear(two.to_q), _linear(two.to_out[0])
        net = layer.ff.net  # type: ignore[union-attr]
        self.gate, self.down = _linear(net[0].proj), _linear(net[2])  # type: ignore[index, union-attr, arg-type]
        self.rows = max(1, WIDE_BYTES // (16 * one.to_q.in_features))

    def __call__(self, x: Tensor, text: Tensor) -> Tensor:
        one, two, three = self.norms
        q, k, v = self.qkv(F.layer_norm(x, *one)).chunk(3, dim=-1)                      # (B, T, D) each
        x = self.out1(inference.attention(q, k, v, self.heads), x)
        k, v = text[..., self.columns].chunk(2, dim=-1)                                 # (B, L, D) each
        x = self.out2(inference.attention(self.q(F.layer_norm(x, *two)), k, v, self.heads), x)
        flat = x.flatten(0, 1)
        parts = [self.down(inference.geglu(self.gate(F.layer_norm(rows, *three))), rows) for rows in flat.split(self.rows)]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).view_as(x)


class _Text:
    def __init__(self, block: TextTransformer, layers: list[_Layer]) -> None:
        self.layers, self.norm = layers, _norm(block.norm)
        self.enter, self.leave = _linear(block.proj_in), _linear(block.proj_out)

    def __call__(self, x: Tensor, text: Tensor | None) -> Tensor:
        assert text is not None
        h = self.enter(pixels_of(inference.group_norm(x, self.norm, False)))             # (B, H W, C)
        for layer in self.layers:
            h = layer(h, text)
        return image_of(self.leave(h, pixels_of(x)), x)


class _Pixels:
    def __init__(self, block: PixelAttention) -> None:
        self.heads, self.norm = block.heads, _norm(block.group_norm)
        self.qkv, self.out = _stacked(block.to_q, block.to_k, block.to_v), _linear(block.to_out[0])

    def __call__(self, x: Tensor, text: Tensor | None) -> Tensor:
        q, k, v = self.qkv(pixels_of(inference.group_norm(x, self.norm, False))).chunk(3, dim=-1)
        return image_of(self.out(inference.attention(q, k, v, self.heads), pixels_of(x)), x)


class _Block:
    def __init__(self, block: ResnetBlock, columns: slice) -> None:
        self.columns = columns
        self.norm1, self.norm2 = _norm(block.norm1), _norm(block.norm2)
        self.conv1, self.conv2 = _conv(block.conv1), _conv(block.conv2)
        self.skip = None if block.conv_shortcut is None else _conv(block.conv_shortcut)

    def __call__(self, x: Tensor, shifts: Tensor) -> Tensor:
        h = self.conv1(inference.group_norm(x, self.norm1, True))                        # (B, D, H, W)
        h = inference.group_norm(h, self.norm2, True, shifts[:, self.columns])
        return self.conv2(h, x if self.skip is None else self.skip(x))


class _Down:
    def __init__(self, layer: Downsample) -> None:
        self.pad, self.conv = layer.padding == 0, _conv(layer.conv)

    def __call__(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.pad else x)


class _Up:
    """Position (i, j) of an enlarged 2 x 2 block sees 2 x 2 pixels only: the kernel's rows and columns that fall on one pixel are added."""

    def __init__(self, layer: Upsample) -> None:
        w = layer.conv.weight.detach().float()                                          # (D, C, 3, 3)
        rows = [torch.stack([w[:, :, 0], w[:, :, 1] + w[:, :, 2]], 2), torch.stack([w[:, :, 0] + w[:, :, 1], w[:, :, 2]], 2)]
        self.convs = [Packed(torch.stack([r[..., 0], r[..., 1] + r[..., 2]] if j == 0 else [r[..., 0] + r[..., 1], r[..., 2]], 3), layer.conv.bias)
                      for r in rows for j in (0, 1)]                                    # (D, C, 2, 2) each

    def __call__(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        wide = F.pad(x, (1, 1, 1, 1))                                                   # (B, C, H + 2, W + 2)
        out = torch.empty(batch, 2 * height, 2 * width, self.convs[0].bias.shape[0], dtype=x.dtype)  # type: ignore[union-attr]
        for index, conv in enumerate(self.convs):
            i, j = divmod(index, 2)
            part = wide[:, :, i : i + height + 1, j : j + width + 1].contiguous(memory_format=torch.channels_last)
            out[:, i::2, j::2] = conv(part).permute(0, 2, 3, 1)
        return out.permute(0, 3, 1, 2)                                                  # (B, D, 2H, 2W)


class _Stage:
    def __init__(self, blocks: list[_Block], sites: list[_Text | _Pixels], step: _Down | _Up | None) -> None:
        self.blocks, self.sites, self.step = blocks, sites, step

    def one(self, index: int, x: Tensor, shifts: Tensor, text: Tensor | None) -> Tensor:
        x = self.blocks[index](x, shifts)
        return self.sites[index](x, text) if index < len(self.sites) else x


class FastUNet2D(nn.Module):
    """The twin of a UNet2D: the same forward, in bfloat16 on a CPU. Raises UsageError `no_kernels` where the kernels cannot be used.

    cond may have "text_context" (from `text_context`) in place of "tokens". Gradients are not computed.
    """

    def __init__(self, network: UNet2D) -> None:
        super().__init__()
        if not native.usable():
            raise UsageError("no_kernels", f"the fast form needs the native kernels, which are {native.status()}; use the network itself")
        self.config = network.config
        self._shifts: list[nn.Linear] = []
        self._texts: list[CrossAttention] = []
        self._shift_width = self._text_width = 0
        self.time_embedding = _half(network.time_embedding)
        self.class_embedding = None if network.class_embedding is None else _half(network.class_embedding)
        self.add_embedding = None if network.add_embedding is None else _half(network.add_embedding)
        self.conv_in, self.conv_out = _conv(network.conv_in), _conv(network.conv_out)
        self.norm_out = (_norm(network.conv_norm_out),)                                 # in a tuple, so that a change of dtype passes it over
        self.down = [self._stage(stage) for stage in network.down_blocks]
        self.mid = self._stage(network.mid_block)
        self.up = [self._stage(stage) for stage in network.up_blocks]
        self.shifts = _stacked(*self._shifts)
        self.text = _stacked(*(layer for site in self._texts for layer in (site.to_k, site.to_v))) if self._texts else None
        del self._shifts, self._texts

    def _stage(self, stage: nn.Module) -> _Stage:
        assert isinstance(stage, Stage)
        blocks, sites = [], []
        for block in stage.resnets:
            assert isinstance(block, ResnetBlock)
            assert block.time_emb_proj is not None
            width = block.time_emb_proj.out_features
            blocks.append(_Block(block, slice(self._shift_width, self._shift_width + width)))
            self._shifts.append(block.time_emb_proj)
            self._shift_width += width
        for site in stage.attentions if stage.attending else ():
            sites.append(self._site(site))
        down, up = stage.downsamplers, stage.upsamplers
        step = _Down(down[0]) if down is not None else _Up(up[0]) if up is not None else None  # type: ignore[arg-type]
        return _Stage(blocks, sites, step)

    def _site(self, site: nn.Module) -> _Text | _Pixels:
        if isinstance(site, PixelAttention):
            return _Pixels(site)
        assert isinstance(site, TextTransformer)
        layers = []
        for layer in site.transformer_blocks:
            assert isinstance(layer.attn2, CrossAttention)
            width = 2 * layer.attn2.to_k.out_features
            layers.append(_Layer(layer, slice(self._text_width, self._text_width + width)))
            self._texts.append(layer.attn2)
            self._text_width += width
        return _Text(site, layers)

    def state_dict(self, destination: object = None, prefix: str = "", keep_vars: bool = False) -> Never:  # type: ignore[override]
        """Raises UsageError `not_saved`: the weights to keep are those of the network that the twin was made from."""
        raise UsageError("not_saved", "a fast twin is not saved; save the network that it was made from, and make the twin after loading")

    def text_context(self, tokens: Tensor) -> Tensor:
        """Keys and values of all blocks (B, L, S) for the tokens (B, L, text_dim) of a text."""
        if self.text is None:
            raise UsageError("missing_condition", "this network reads no text, so it has no text context")
        return self.text(tokens.to(BF16))

    @torch.no_grad()
    def forward(self, x: Tensor, noise: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        check(self.config, x)
        kind = x.dtype
        text = None
        if self.text is not None:
            text = cond[CONTEXT] if CONTEXT in cond else self.text_context(needed(cond, "tokens"))
        shifts = self.shifts(embedded(self.config, self.time_embedding, self.class_embedding, self.add_embedding, noise, cond)
                             .to(BF16))                                                 # (B, S)
        x = self.conv_in(x.to(BF16).contiguous(memory_format=torch.channels_last))
        skips = [x]
        for stage in self.down:
            for index in range(len(stage.blocks)):
                x = stage.one(index, x, shifts, text)
                skips.append(x)
            if stage.step is not None:
                x = stage.step(x)
                skips.append(x)
        x = self.mid.blocks[1](self.mid.one(0, x, shifts, text), shifts)
        for stage in self.up:
            for index in range(len(stage.blocks)):
                x = stage.one(index, torch.cat([x, skips.pop()], dim=1), shifts, text)
            x = x if stage.step is None else stage.step(x)
        return self.conv_out(inference.group_norm(x, self.norm_out[0], True)).to(kind)      # (B, out_channels, H, W)
