"""The inference twin of a UNet2D and its kernels: the numbers of torch's operators, to bfloat16's precision (row N7)."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.cond import Cond
from inkwash.core.coordinate import TimeIndex
from inkwash.core.prediction import V
from inkwash.core.schedule import ScaledLinear
from inkwash.denoiser import Denoiser
from inkwash.errors import UsageError
from inkwash.nn import UNet2D, UNet2DConfig, native
from inkwash.nn.native import inference
from inkwash.nn.unet2d_fast import FastUNet2D

SMALL = UNet2DConfig(widths=(32, 64), blocks=1, down=("text", "pixels"), up=("text", "pixels"), heads=(2, 4), depth=(2, 1), text_dim=24, groups=8)


pytestmark = pytest.mark.skipif(not native.usable(), reason=f"the native kernels are {native.status()}")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def distance(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize(("queries", "length", "heads", "each"), [(64, 64, 2, 40), (70, 77, 3, 40), (33, 300, 2, 64), (1, 1, 1, 8), (40, 600, 1, 160),
                                                                  (32, 257, 2, 80)])
@pytest.mark.parametrize("size", [1.0, 8.0])
def test_n7_attention_equals_the_definition(queries: int, length: int, heads: int, each: int, size: float) -> None:
    q = (random(2, queries, 3 * heads * each) * size).bfloat16()[..., : heads * each]                 # a part of wider rows
    k, v = random(2, length, 2 * heads * each, seed=1).bfloat16().chunk(2, dim=-1)
    split = [item.double().unflatten(-1, (heads, each)).transpose(1, 2) for item in (q, k, v)]
    wanted = ((split[0] @ split[1].transpose(-1, -2) / each**0.5).softmax(-1) @ split[2]).transpose(1, 2).flatten(2)
    assert distance(inference.attention(q, k, v, heads), wanted) < 4e-3


@pytest.mark.parametrize("act", [False, True])
@pytest.mark.parametrize("shape", [(2, 40, 9, 5), (1, 64, 16, 16), (3, 32, 1, 1)])
def test_group_norm_equals_torch(act: bool, shape: tuple[int, int, int, int]) -> None:
    norm = nn.GroupNorm(8, shape[1]).to(torch.bfloat16)
    with torch.no_grad():
        norm.weight.copy_(random(shape[1]))
        norm.bias.copy_(random(shape[1], seed=1))
        x, add = (random(*shape) + 3).bfloat16().to(memory_format=torch.channels_last), random(*shape[:2], seed=2).bfloat16()
        wanted = F.group_norm((x.float() + add.float()[:, :, None, None]), 8, norm.weight.float(), norm.bias.float(), norm.eps)
        found = inference.group_norm(x, norm, act, add)
    assert distance(found, F.silu(wanted) if act else wanted) < 4e-3


def test_gated_gelu_equals_torch() -> None:
    x = (random(5, 7, 2 * 40) * 3).bfloat16()
    value, gate = x.float().chunk(2, dim=-1)
    assert distance(inference.geglu(x), value * F.gelu(gate)) < 3e-3


def weights(config: UNet2DConfig) -> UNet2D:
    torch.manual_seed(0)
    network = config.build().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return network


@pytest.mark.parametrize("config", [SMALL, dataclasses.replace(SMALL, linear=True, pad=0, num_classes=5, pooled_dim=10, sizes_dim=8),
                                    UNet2DConfig(3, 3, (32, 64), 2, ("none", "pixels"), ("none", "pixels"), "pixels", (1, 1), (1, 1), text_dim=0,
                                                 groups=8, flip=False, shift=1.0, pad=0),
                                    dataclasses.replace(SMALL, guidance=True)], ids=["text", "labels", "pixels", "told"])
@torch.no_grad()
def test_the_twin_is_as_near_to_float32_as_torch_in_bfloat16(config: UNet2DConfig) -> None:
    network = weights(config)
    x, noise = random(2, config.in_channels, 16, 24), torch.tensor([3.0, 900.0])
    cond = {"tokens": random(2, 9, 24), "label": torch.tensor([1, 4]), "pooled": random(2, 10), "sizes": torch.arange(12.0).view(2, 6),
            "guidance": torch.tensor([1.0, 7.3])}
    twin, wanted = FastUNet2D(network), network(x, noise, cond)
    found = twin(x, noise, cond)
    assert found.dtype == x.dtype
    half = network.to(torch.bfloat16)(x.bfloat16(), noise, {name: item.bfloat16() if item.dim() == 3 else item for name, item in cond.items()})
    assert distance(found, wanted) < min(1.2 * distance(half, wanted), 1.5e-2)
    if config.text_dim:
        context = {**{name: item for name, item in cond.items() if name != "tokens"}, "text_context": twin.text_context(cond["tokens"])}
        assert torch.equal(twin(x, noise, context), found)


@torch.no_grad()
def test_the_twin_serves_a_denoiser_in_any_dtype_and_is_not_saved() -> None:
    network = weights(SMALL)
    cond = Cond({"tokens": random(2, 9, 24)}, 2)
    x, level = random(2, 4, 16, 16), ScaledLinear()(torch.tensor([0.2, 0.9], dtype=torch.float64))
    made = Denoiser(network, V(), coordinate=TimeIndex(ScaledLinear()))(x, level, cond)
    for dtype in (torch.float32, torch.bfloat16):
        twin = FastUNet2D(network).to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        assert distance(Denoiser(twin, V(), coordinate=TimeIndex(ScaledLinear()))(x, level, cond), made) < 2e-2
        with pytest.raises(UsageError) as caught:
            twin.state_dict()
        assert caught.value.code == "not_saved"


def test_without_kernels_the_twin_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "usable", lambda: False)
    monkeypatch.setattr(native, "status", lambda: "not used: INKWASH_NATIVE=0")
    with pytest.raises(UsageError, match="INKWASH_NATIVE=0") as caught:
        FastUNet2D(SMALL.build())
    assert caught.value.code == "no_kernels"
