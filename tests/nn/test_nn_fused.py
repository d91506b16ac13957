"""The kernels in C against torch: the same values and gradients, up to the rounding of bfloat16."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.nn import fused
from inkwash.nn.attention import SpatialAttention, attend
from inkwash.nn.fused_attention import attend as native_attend
from inkwash.nn.native import Kernels, kernels
from inkwash.nn.unet import ResBlock
from inkwash.nn.vae import LocalBlock

ROUNDING = 0.015


@pytest.fixture
def k() -> Kernels:
    found = kernels()
    if found is None:
        pytest.skip("this machine has no AMX, or no C compiler")
    return found


def image(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.bfloat16).to(memory_format=torch.channels_last)


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.detach().float() - expected.detach().float()).norm() / expected.detach().float().norm())


@pytest.mark.parametrize(("channels", "film", "act"), [(16, True, True), (40, True, False), (144, False, True), (7, False, False)])
def test_norm(k: Kernels, channels: int, film: bool, act: bool) -> None:
    x, dy, extra = image(3, channels, 4, 5), image(3, channels, 4, 5), image(3, channels, 4, 5)
    f = torch.randn(3, 2 * channels).bfloat16() if film else None
    xf, ff = x.float().requires_grad_(), None if f is None else f.float().requires_grad_()
    y = F.layer_norm(xf.permute(0, 2, 3, 1), (channels,), eps=1e-6).permute(0, 3, 1, 2)
    if ff is not None:
        scale, shift = ff[:, :, None, None].chunk(2, dim=1)
        y = y * (1 + scale) + shift
    y = F.silu(y) if act else y
    y.backward(dy.float())
    dx, df = k.norm_back(dy, x, f, act, extra)
    assert xf.grad is not None
    assert error(k.norm(x, f, act), y) < 0.003
    assert error(dx, xf.grad + extra.float()) < 0.003
    if ff is not None:
        assert df is not None
        assert ff.grad is not None
        assert error(df, ff.grad) < 1e-4


@pytest.mark.parametrize(("shape", "out", "taps"), [((3, 16, 4, 4), 32, 3), ((5, 48, 8, 8), 16, 3), ((2, 32, 16, 12), 48, 3), ((3, 16, 4, 8), 16, 1)])
def test_gradient_of_weights(k: Kernels, shape: tuple[int, ...], out: int, taps: int) -> None:
    x, dy = image(*shape), image(shape[0], out, *shape[2:])
    weight = torch.zeros(out, shape[1], taps, taps, requires_grad=True)
    F.conv2d(x.float(), weight, padding=taps // 2).backward(dy.float())
    assert weight.grad is not None
    assert error(k.weight_grad(x, dy, taps), weight.grad) < 1e-5
    assert error(k.bias_grad(dy), dy.float().sum((0, 2, 3))) < 1e-5


@pytest.mark.parametrize("rows", [96, 50])
def test_gradient_of_a_linear_map(k: Kernels, rows: int) -> None:
    x, dy = torch.randn(rows, 32).bfloat16(), torch.randn(rows, 48).bfloat16()
    assert error(k.linear_grad(x, dy), dy.float().t() @ x.float()) < 0.005


@pytest.mark.parametrize(("queries", "keys", "heads", "each", "masked"),
                         [(16, 16, 2, 72, False), (50, 37, 1, 40, True), (64, 32, 3, 64, True), (5, 3, 1, 8, True)])
def test_attention(k: Kernels, queries: int, keys: int, heads: int, each: int, masked: bool) -> None:
    q = torch.randn(4, queries, heads * each).bfloat16().requires_grad_()
    kv = torch.randn(4, keys, 2 * heads * each).bfloat16().requires_grad_()
    mask = torch.arange(keys)[None] < torch.tensor([keys, 1, 2, 0])[:, None] if masked else None
    dy = torch.randn_like(q)

    def split(x: Tensor) -> Tensor:
        return x.unflatten(-1, (heads, each)).transpose(1, 2)

    qf, kvf = q.detach().float().requires_grad_(), kv.detach().float().requires_grad_()
    key, value = kvf.chunk(2, dim=-1)
    expected = attend(split(qf), split(key), split(value), mask, "naive").transpose(1, 2).flatten(2)
    expected.backward(dy.float())
    found = native_attend(k, q, kv, mask, heads)
    found.backward(dy)
    for a, b in ((found, expected), (q.grad, qf.grad), (kv.grad, kvf.grad)):
        assert a is not None
        assert b is not None
        assert error(a, b) < 0.006
    if masked:
        assert not found[3].any()


def modules() -> dict[str, tuple[nn.Module, tuple[Tensor, ...]]]:
    x, tokens, mask = torch.randn(4, 32, 8, 8), torch.randn(4, 6, 24), torch.tensor([1, 1, 1, 0, 0, 0]).bool().expand(4, 6)
    return {"wider": (ResBlock(32, 48, 16, 0.0), (x, torch.randn(4, 16))), "equal": (ResBlock(32, 32, 16, 0.0), (x, torch.randn(4, 16))),
            "odd": (ResBlock(32, 40, 16, 0.0), (x, torch.randn(4, 16))), "local": (LocalBlock(32), (x,)),
            "self": (SpatialAttention(32, 2), (x,)), "text": (SpatialAttention(32, 2, 24), (x, tokens, mask))}


@pytest.mark.parametrize("name", modules())
def test_a_block_trains_as_it_does_without(k: Kernels, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Value, gradients of all parameters and of the inputs: as near to float32 as torch's own bfloat16 is."""
    torch.manual_seed(0)
    module, inputs = modules()[name]
    module = module.to(memory_format=torch.channels_last)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    ways = {}
    for way in ("native", "plain", "float32"):
        if way == "plain":
            monkeypatch.setattr(fused, "kernels", lambda: None)
        module.zero_grad()
        given = [x.clone().requires_grad_() if x.is_floating_point() else x for x in inputs]
        with torch.autocast("cpu", torch.bfloat16, enabled=way != "float32"):
            y = module(*given)
        y.float().square().mean().backward()
        ways[way] = [y, *(p.grad.clone() for p in module.parameters()), *(x.grad for x in given if x.is_floating_point())]
    for native, plain, exact in zip(ways["native"], ways["plain"], ways["float32"], strict=True):
        assert native.shape == exact.shape
        assert error(native, exact) < max(ROUNDING, 1.5 * error(plain, exact))


def test_without_gradients_nothing_changes(k: Kernels) -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert fused.ready(torch.zeros(1)) is None
    assert fused.ready(torch.zeros(1)) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert fused.ready(torch.zeros(1)) is k
