"""The kernels in C against torch: the same values and gradients, up to the rounding of bfloat16."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.nn import native
from inkwash.nn.attention import SpatialAttention, attend
from inkwash.nn.layers import Up, silu_norm
from inkwash.nn.native import attention, groups, inference, pixel_norm, pointwise, weights
from inkwash.nn.native.layout import nhwc
from inkwash.nn.unet import ResBlock
from inkwash.nn.unet2d_blocks import ResnetBlock, Upsample, normed
from inkwash.nn.vae import LocalBlock

ROUNDING = 0.015
pytestmark = pytest.mark.skipif(not native.usable(), reason=f"the native kernels are {native.status()}")


def image(*shape: int) -> Tensor:
    return nhwc(torch.randn(*shape))


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.detach().float() - expected.detach().float()).norm() / expected.detach().float().norm())


@pytest.mark.parametrize(("channels", "film", "act"), [(16, True, True), (40, True, False), (144, False, True), (7, False, False)])
def test_norm(channels: int, film: bool, act: bool) -> None:
    x, dy, extra = image(3, channels, 4, 5), image(3, channels, 4, 5), image(3, channels, 4, 5)
    f = torch.randn(3, 2 * channels).bfloat16() if film else None
    xf, ff = x.float().requires_grad_(), None if f is None else f.float().requires_grad_()
    y = F.layer_norm(xf.permute(0, 2, 3, 1), (channels,), eps=1e-6).permute(0, 3, 1, 2)
    if ff is not None:
        scale, shift = ff[:, :, None, None].chunk(2, dim=1)
        y = y * (1 + scale) + shift
    y = F.silu(y) if act else y
    y.backward(dy.float())
    dx, df = pixel_norm.norm_back(dy, x, f, act, extra)
    assert xf.grad is not None
    assert error(pixel_norm.norm(x, f, act), y) < 0.003
    assert error(dx, xf.grad + extra.float()) < 0.003
    if ff is not None:
        assert df is not None
        assert ff.grad is not None
        assert error(df, ff.grad) < 1e-4


@pytest.mark.parametrize(("channels", "number", "add", "act"),
                         [(16, 4, True, True), (40, 8, True, False), (144, 1, False, True), (96, 32, False, False)])
def test_group_norm(channels: int, number: int, add: bool, act: bool) -> None:
    """Value and all gradients, far from mean 0, where a variance from sums of squares would lose digits first."""
    x, dy, extra = image(3, channels, 4, 5) + 2, image(3, channels, 4, 5), image(3, channels, 4, 5)
    e = torch.randn(3, channels).bfloat16() if add else None
    affine = groups.Affine(torch.randn(channels), torch.randn(channels), number, 1e-5)
    xf, ef = x.float().requires_grad_(), None if e is None else e.float().requires_grad_()
    gain, bias = affine.gain.clone().requires_grad_(), affine.bias.clone().requires_grad_()
    y = F.group_norm(xf if ef is None else xf + ef[:, :, None, None], number, gain, bias, 1e-5)
    y = F.silu(y) if act else y
    y.backward(dy.float())
    found = groups.norm_back(dy, x, e, affine, act, extra)
    assert xf.grad is not None
    assert error(groups.norm(x, e, affine, act), y) < 0.003
    assert error(found.x, xf.grad + extra.float()) < 0.003
    for a, b in ((found.gain, gain.grad), (found.bias, bias.grad)):
        assert b is not None
        assert error(a, b) < 1e-4
    if ef is not None:
        assert ef.grad is not None
        assert error(found.add, ef.grad) < 1e-3


@pytest.mark.parametrize(("shape", "out", "taps"), [((3, 16, 4, 4), 32, 3), ((5, 48, 8, 8), 16, 3), ((2, 32, 16, 12), 48, 3), ((3, 16, 4, 8), 16, 1)])
def test_gradient_of_weights(shape: tuple[int, ...], out: int, taps: int) -> None:
    x, dy = image(*shape), image(shape[0], out, *shape[2:])
    weight = torch.zeros(out, shape[1], taps, taps, requires_grad=True)
    F.conv2d(x.float(), weight, padding=taps // 2).backward(dy.float())
    assert weight.grad is not None
    assert error(weights.weight_grad(x, dy, taps), weight.grad) < 1e-5
    assert error(weights.bias_grad(dy), dy.float().sum((0, 2, 3))) < 1e-5


@pytest.mark.parametrize("shape", [(2, 16, 4, 6), (1, 5, 3, 7)])
def test_silu(shape: tuple[int, ...]) -> None:
    x, dy = image(*shape) * 3, image(*shape)
    xf = x.float().requires_grad_()
    y = F.silu(xf)
    y.backward(dy.float())
    assert xf.grad is not None
    assert error(pointwise.silu(x), y) < 0.003
    assert error(pointwise.silu_back(dy, x), xf.grad) < 0.003


@pytest.mark.parametrize("shape", [(2, 64, 3, 5), (3, 192, 4, 4), (2, 12, 3, 2)])
def test_pixels_are_shuffled_as_torch_does(shape: tuple[int, ...]) -> None:
    x = image(*shape)
    y = pointwise.shuffle(x)
    assert torch.equal(y, F.pixel_shuffle(x, 2))
    assert torch.equal(pointwise.unshuffle(y), x)


@pytest.mark.parametrize("shape", [(2, 3, 16, 24), (1, 1, 3, 3), (3, 2, 5, 37)])
def test_edges(shape: tuple[int, ...]) -> None:
    """Value and gradient of torch's operators, each sample with a weight of its own."""
    e = torch.randn(shape)
    e[0, 0, 1, 1] = e[0, 0, 1, 0]                                                       # a difference of 0 has the gradient 0
    weight, found = torch.arange(1.0, shape[0] + 1), []
    for own in (True, False):
        given = e.clone().requires_grad_()
        if own:
            y = native.edges(given)
        else:
            right, down = given[..., :, 1:] - given[..., :, :-1], given[..., 1:, :] - given[..., :-1, :]
            inner = right[..., 1:-1, 1:] - right[..., 1:-1, :-1] + down[..., 1:, 1:-1] - down[..., :-1, 1:-1]
            y = torch.stack([part.abs().flatten(1).mean(1) for part in (right, down, inner)]).sum(0)
        (y * weight).sum().backward()
        assert given.grad is not None
        found.append((y.detach(), given.grad))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("rows", [96, 50])
def test_gradient_of_a_linear_map(rows: int) -> None:
    x, dy = torch.randn(rows, 32).bfloat16(), torch.randn(rows, 48).bfloat16()
    assert error(weights.linear_grad(x, dy), dy.float().t() @ x.float()) < 0.005


@pytest.mark.parametrize(("queries", "keys", "heads", "each", "masked"),
                         [(16, 16, 2, 72, False), (50, 37, 1, 40, True), (64, 32, 3, 64, True), (5, 3, 1, 8, True)])
def test_attention(queries: int, keys: int, heads: int, each: int, masked: bool) -> None:
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
    found = native.attend(q, kv, mask, heads)
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
            "self": (SpatialAttention(32, 2), (x,)), "text": (SpatialAttention(32, 2, 24), (x, tokens, mask)),
            "group": (ResnetBlock(32, 32, 16, 8, 1e-5), (x, torch.randn(4, 16))),
            "group wider": (ResnetBlock(32, 48, 16, 8, 1e-5), (x, torch.randn(4, 16))),
            "group alone": (ResnetBlock(32, 40, 0, 4, 1e-6), (x,)), "norm": (Normed(32), (x,)), "up": (Upsample(32), (x,)),
            "enlarge": (Up(32, 48), (x,)), "silu norm": (Lambda(silu_norm), (x,))}


class Lambda(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Normed(nn.Module):
    """A group norm where it stands alone, as in front of attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)

    def forward(self, x: Tensor) -> Tensor:
        return normed(x, self.norm)


@pytest.mark.parametrize("name", modules())
def test_a_block_trains_as_it_does_without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
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
            monkeypatch.setattr(native, "ready", lambda x: False)
        module.zero_grad()
        given = [x.clone().requires_grad_() if x.is_floating_point() else x for x in inputs]
        with torch.autocast("cpu", torch.bfloat16, enabled=way != "float32"):
            y = module(*given)
        (y.float() - torch.randn(y.shape, generator=torch.Generator().manual_seed(1))).square().mean().backward()
        ways[way] = [y, *(p.grad.clone() for p in module.parameters()), *(x.grad for x in given if x.is_floating_point())]
    for own, plain, exact in zip(ways["native"], ways["plain"], ways["float32"], strict=True):
        assert own.shape == exact.shape
        assert error(own, exact) < max(ROUNDING, 1.5 * error(plain, exact))


def test_only_training_in_bfloat16_on_the_cpu_takes_them() -> None:
    x = torch.zeros(1)
    with torch.autocast("cpu", torch.bfloat16):
        assert native.ready(x)
        assert not native.ready(x.to("meta"))
        with torch.no_grad():
            assert not native.ready(x)
    with torch.autocast("cpu", torch.float16):
        assert not native.ready(x)
    assert not native.ready(x)


def test_a_second_derivative_is_refused() -> None:
    """The backward passes are no functions of autograd, so a gradient of a gradient must be an error and not a wrong number."""
    block, x = LocalBlock(32), torch.randn(2, 32, 4, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = block(x).float().square().sum()
    (first,) = torch.autograd.grad(y, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def results(samples: slice) -> dict[str, Tensor]:
    """Everything that the kernels say about the chosen ones of eight fixed samples, per sample."""
    torch.manual_seed(0)
    x, dy = (nhwc(torch.randn(8, 48, 6, 8)[samples]) for _ in range(2))
    film, add, q, kv, dq = (torch.randn(8, *shape)[samples].bfloat16() for shape in ((96,), (48,), (70, 48), (37, 96), (70, 48)))
    affine = groups.Affine(torch.randn(48), torch.randn(48), 6, 1e-5)
    layer = nn.GroupNorm(6, 48).bfloat16().requires_grad_(False)
    found = {"norm": pixel_norm.norm(x, film, True), "group": groups.norm(x, add, affine, True), "attention": attention.forward(q, kv, None, 3),
             "inference attention": inference.attention(q, *kv.chunk(2, dim=-1), 3), "inference group": inference.group_norm(x, layer, True, add),
             "geglu": inference.geglu(kv), "silu": pointwise.silu(x), "silu dx": pointwise.silu_back(dy, x), "unshuffle": pointwise.unshuffle(x),
             "edges": native.edges(x.float())}
    found["norm dx"], dfilm = pixel_norm.norm_back(dy, x, film, True)
    assert dfilm is not None
    group = groups.norm_back(dy, x, add, affine, True)
    found |= {"norm dfilm": dfilm, "group dx": group.x, "group dadd": group.add}
    found["dq"], found["dkv"] = attention.backward(q, kv, None, 3, dq)
    return found


def sums() -> dict[str, Tensor]:
    """What is summed over all samples."""
    torch.manual_seed(0)
    x, dy, rows = image(40, 48, 8, 8), image(40, 48, 8, 8), torch.randn(96, 48).bfloat16()
    group = groups.norm_back(dy, x, None, groups.Affine(torch.ones(48), torch.zeros(48), 6, 1e-5), True)
    return {"weights": weights.weight_grad(x, dy, 3), "bias": weights.bias_grad(dy), "linear": weights.linear_grad(rows, rows), "gain": group.gain}


def test_a_sample_has_the_same_bits_in_any_company() -> None:
    together = results(slice(0, 8))
    for start, stop in ((0, 1), (3, 4), (5, 8)):
        for name, alone in results(slice(start, stop)).items():
            assert torch.equal(alone, together[name][start:stop]), name


def test_the_number_of_threads_changes_no_bit() -> None:
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            found.append({**results(slice(0, 8)), **sums()})
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for name, value in found[0].items():
            assert torch.equal(other[name], value), name
