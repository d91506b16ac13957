"""What networks cost: parameters, and operations against the side of the image (rows L2, N2)."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from nn_examples import DIT, UNET, build, conditions, inputs
from torch.utils.flop_counter import FlopCounterMode

from inkwash.nn import DiTConfig, NetworkConfig, UNetConfig
from inkwash.value import parse


def flops(config: NetworkConfig, side: int) -> dict[str, int]:
    """Operations of one forward pass on the meta device, by kind."""
    with torch.device("meta"):
        net, x = config.build(), torch.empty(1, 4, side, side)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            net(x, torch.empty(1), {})
    return {str(kind).split(".")[-1]: int(value) for kind, value in counter.get_flop_counts()["Global"].items()}


def exponent(config: NetworkConfig, kind: str, sides: tuple[int, ...] = (16, 32, 64, 128)) -> float:
    """Slope of log operations against log side, by least squares."""
    logs = torch.tensor([[math.log(side), math.log(flops(config, side)[kind])] for side in sides], dtype=torch.float64)
    centred = logs - logs.mean(0)
    return float((centred[:, 0] @ centred[:, 1]) / (centred[:, 0] @ centred[:, 0]))


def test_l2_values_grow_with_side_squared_and_attention_with_its_fourth_power() -> None:
    unet = UNetConfig(4, 4, widths=(32, 32), attention=(True, True), cross=(False, False), head_dim=16, form="naive")
    dit = DiTConfig(4, 4, width=32, depth=2, heads=2, form="naive")
    assert exponent(unet, "convolution") == pytest.approx(2.0, abs=0.01)
    assert exponent(unet, "bmm") == pytest.approx(4.0, abs=0.01)
    assert exponent(dit, "bmm") == pytest.approx(4.0, abs=0.01)
    assert exponent(dit, "addmm", (64, 128, 256)) == pytest.approx(2.0, abs=0.05)       # the embedding's share does not grow


@pytest.mark.parametrize(("name", "millions"), [("dit_s_2", 33.0), ("dit_b_2", 130.5), ("dit_l_2", 458.1), ("dit_xl_2", 675.1)])
def test_n2_published_sizes(name: str, millions: float) -> None:
    with torch.device("meta"):
        net = parse(name, NetworkConfig).build()
    assert sum(parameter.numel() for parameter in net.parameters()) / 1e6 == pytest.approx(millions, rel=0.005)


def test_n2_dit_blocks_are_the_identity_at_init() -> None:
    net = build(DIT, trained=False)
    h, tokens = torch.randn(2, 9, 32), torch.randn(2, 7, 16)
    for block in net.blocks:
        assert torch.equal(block(h, torch.randn(2, 32), tokens, None), h)


def test_n2_a_dit_block_is_its_formula() -> None:
    """h = x + g1 attention(norm(x) (1 + a1) + b1), then + cross(norm(h)), then + g2 mlp(norm(h) (1 + a2) + b2)."""
    block = build(DIT).blocks[0].double().eval()
    x, embedding, tokens = (torch.randn(2, *shape, dtype=torch.float64) for shape in ((9, 32), (32,), (7, 16)))
    a_1, b_1, g_1, a_2, b_2, g_2 = (part[:, None] for part in block.modulation(embedding).chunk(6, dim=1))

    def norm(h: torch.Tensor) -> torch.Tensor:
        return (h - h.mean(-1, keepdim=True)) / (h.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()

    h = x + g_1 * block.attention(norm(x) * (1 + a_1) + b_1)
    h = h + block.cross(norm(h), tokens, None)
    torch.testing.assert_close(block(x, embedding, tokens, None), h + g_2 * block.mlp(norm(h) * (1 + a_2) + b_2), rtol=1e-9, atol=1e-9)


def test_n2_dit_tells_positions_apart() -> None:
    """Without positions attention would commute with any shuffle of the patches."""
    net = build(DIT).eval()
    _, noise, cond = inputs(DIT)
    x = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        gap = (net(x.roll(2, dims=-1), noise, cond) - net(x, noise, cond).roll(2, dims=-1)).abs().max()
    assert gap > 1e-3


def test_query_key_norm_bounds_the_scores() -> None:
    net = build(dataclasses.replace(DIT, qk_norm=True)).eval()
    with torch.no_grad():
        net.blocks[0].attention.query.weight.mul_(1e4)
        assert torch.isfinite(net(*inputs(DIT))).all()
        y = net(*inputs(DIT))
        net.blocks[0].attention.query.weight.mul_(10.0)
        net.blocks[0].attention.query.bias.mul_(10.0)
        torch.testing.assert_close(net(*inputs(DIT)), y, rtol=1e-2, atol=1e-3)          # only directions count


def test_a_mini_sized_unet_fits_its_budget() -> None:
    """About 7 M parameters and 1 GFLOP on 16 x 16 x 8 latents."""
    config = UNetConfig(widths=(96, 192), attention=(False, True), cross=(True, True), text_dim=192, pooled_dim=192, embed_dim=256)
    with torch.device("meta"):
        net = config.build()
        cond = {"tokens": torch.empty(1, 24, 192), "pooled": torch.empty(1, 192)}
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            net(torch.empty(1, 8, 16, 16), torch.empty(1), cond)
    assert sum(parameter.numel() for parameter in net.parameters()) < 7.5e6
    assert counter.get_total_flops() < 1.2e9


def test_unet_and_dit_read_the_same_condition() -> None:
    cond = conditions(2)
    for config in (UNET, DIT):
        assert build(config)(torch.randn(2, 4, 8, 8), torch.zeros(2), cond).shape == (2, 4, 8, 8)
