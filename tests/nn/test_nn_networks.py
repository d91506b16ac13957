"""Promises that every network keeps; a new network is covered as soon as it has an example."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from nn_examples import DENOISERS, DIT, EXAMPLES, UNET, build, conditions, inputs
from torch import Tensor, nn

from inkwash.errors import UsageError
from inkwash.nn import NetworkConfig, UNetConfig
from inkwash.nn.embed import grid_positions
from inkwash.nn.layers import channel_norm
from inkwash.nn.unet import ResBlock
from inkwash.value import alias_table, parse, registry

EVERY = pytest.mark.parametrize("name", sorted(EXAMPLES))
DENOISER = pytest.mark.parametrize("config", DENOISERS, ids=lambda config: type(config).__name__)


def outputs(result: object) -> list[Tensor]:
    items = result if isinstance(result, tuple) else (result,)
    return [item for item in items if isinstance(item, Tensor) and item.is_floating_point()]


def moved(item: object, dtype: torch.dtype) -> object:
    if isinstance(item, dict):
        return {key: moved(value, dtype) for key, value in item.items()}
    assert isinstance(item, Tensor)
    image = item.dim() == 4
    item = item.to(dtype) if item.is_floating_point() and item.dim() > 1 else item
    return item.to(memory_format=torch.channels_last) if image else item


def test_every_network_has_an_example() -> None:
    ours = {name for name, kind in registry(NetworkConfig).items() if kind.__module__.startswith("inkwash.nn.")}
    assert ours == set(EXAMPLES)


@EVERY
def test_config_survives_its_text(name: str) -> None:
    config = EXAMPLES[name]
    assert parse(repr(config), NetworkConfig) == config
    assert parse(repr(type(config)()), NetworkConfig) == type(config)()


def test_short_names_build_what_they_say() -> None:
    assert {"dit_s_2", "dit_b_2", "dit_l_2", "dit_xl_2"} <= set(alias_table(NetworkConfig))
    assert parse("dit_xl_2(text_dim=8)", NetworkConfig) == dataclasses.replace(parse("dit_xl_2", NetworkConfig), text_dim=8)


@EVERY
def test_gradient_reaches_every_parameter(name: str) -> None:
    net = build(EXAMPLES[name])
    sum((item.double() * torch.linspace(0.5, 1.5, item.numel()).view_as(item)).sum() for item in outputs(net(*inputs(EXAMPLES[name])))).backward()
    lost = [key for key, parameter in net.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert lost == []


@EVERY
def test_runs_in_bfloat16_and_channels_last(name: str) -> None:
    config = EXAMPLES[name]
    net, given = build(config).eval(), inputs(config)
    with torch.no_grad():
        exact = outputs(net(*given))
        half = net.to(dtype=torch.bfloat16, memory_format=torch.channels_last)
        rounded = outputs(half(*(moved(item, torch.bfloat16) for item in given)))
    for a, b in zip(exact, rounded):
        assert a.shape == b.shape
        assert (a - b.float()).norm() <= 0.05 * a.norm()


@pytest.mark.parametrize("name", ["AutoencoderConfig", "DiTConfig", "MMDiTConfig", "UNetConfig"])
def test_compiles_as_one_graph(name: str) -> None:
    """No graph break in training; the traced graph gives the numbers of the plain call."""
    config = EXAMPLES[name]
    net, given = build(config).eval(), inputs(config)
    whole = torch.compile(net, fullgraph=True, backend="eager")
    for a, b in zip(outputs(net(*given)), outputs(whole(*given))):
        torch.testing.assert_close(a, b)


@EVERY
def test_same_seed_builds_the_same_network(name: str) -> None:
    one, two = build(EXAMPLES[name], trained=False), build(EXAMPLES[name], trained=False)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values()))


@DENOISER
def test_predicts_zero_at_init(config: NetworkConfig) -> None:
    y = build(config, trained=False)(*inputs(config))
    assert torch.equal(y, torch.zeros(2, 4, 16, 16))


def test_classifier_is_undecided_at_init() -> None:
    config = EXAMPLES["ClassifierConfig"]
    assert not build(config, trained=False)(*inputs(config)).any()


@DENOISER
@pytest.mark.parametrize("form", ["naive", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padded_tokens_change_no_bit(config: NetworkConfig, form: str, dtype: torch.dtype) -> None:
    config = dataclasses.replace(config, form=form)
    net = build(config).eval().to(dtype)
    x, noise, cond = (moved(item, dtype) for item in inputs(config))
    other = dict(cond, tokens=torch.where(cond["mask"][..., None], cond["tokens"], torch.full_like(cond["tokens"], 1e3)))
    real = dict(cond, tokens=cond["tokens"] + cond["mask"][..., None])
    with torch.no_grad():
        y = net(x, noise, cond)
        assert torch.equal(y, net(x, noise, other))
        assert not torch.equal(y, net(x, noise, real))


@DENOISER
@pytest.mark.parametrize("key", ["tokens", "pooled", "label"])
def test_every_condition_is_read_and_its_absence_named(config: NetworkConfig, key: str) -> None:
    net = build(config).eval()
    x, noise, cond = inputs(config)
    changed = dict(cond, **{key: cond[key].flip(0)})
    with torch.no_grad():
        y = net(x, noise, cond)
        assert (y - net(x, noise, changed)).abs().amax(dim=(1, 2, 3)).min() > 1e-4
        assert (y - net(x, noise.flip(0), cond)).abs().amax(dim=(1, 2, 3)).min() > 1e-4
        with pytest.raises(UsageError, match=key):
            net(x, noise, {name: value for name, value in cond.items() if name != key})


@DENOISER
def test_samples_do_not_see_each_other(config: NetworkConfig) -> None:
    net = build(config).eval()
    x, noise, cond = inputs(config, batch=4)
    swapped = [3, 1, 2, 0]
    with torch.no_grad():
        y = net(x, noise, cond)
        z = net(x[swapped], noise[swapped], {key: value[swapped] for key, value in cond.items()})
    torch.testing.assert_close(y[swapped], z, rtol=1e-4, atol=1e-5)


@DENOISER
@pytest.mark.parametrize("size", [(8, 20), (12, 4), (28, 36)])
def test_other_sizes_work(config: NetworkConfig, size: tuple[int, int]) -> None:
    net = build(config).eval()
    x = torch.randn(2, 4, *size)
    with torch.no_grad():
        y = net(x, torch.tensor([5.0, 500.0]), conditions(2))
    assert y.shape == x.shape
    assert y.std() > 1e-3


@DENOISER
def test_unsuitable_sizes_and_channels_raise(config: NetworkConfig) -> None:
    net = build(config)
    factor = config.factor  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=f"multiples of {factor}"):
        net(torch.randn(1, 4, 16, 17), torch.zeros(1), conditions(1))
    with pytest.raises(UsageError, match="channels"):
        net(torch.randn(1, 3, 16, 16), torch.zeros(1), conditions(1))


@pytest.mark.parametrize("text", [
    "UNetConfig(widths=())", "UNetConfig(attention=(True,))", "UNetConfig(dropout=1.0)", "UNetConfig(form='fast')",
    "UNetConfig(form='sdpa', attention_slice=4)", "UNetConfig(attention_slice=4)", "UNetConfig(attention_slice=-1, form='naive')",
    "UNetConfig(text_dim=8, cross=(False, False, False), cross_mid=False)", "UNetConfig(widths=(100, 30, 70), head_dim=20)",
    "DiTConfig(width=30)", "DiTConfig(heads=3)", "DiTConfig(patch=0)", "DiTConfig(form='sdpa', attention_slice=4)",
    "MMDiTConfig(heads=3)", "MMDiTConfig(text_dim=0)", "MMDiTConfig(attention_slice=4)",
    "AutoencoderConfig(decoder_blocks=(1,))", "AutoencoderConfig(patch=0)", "TextEncoderConfig(heads=5)", "TextEncoderConfig(vocab=0)",
    "ImageTowerConfig(blocks=(1,))", "ClassifierConfig(num_classes=1)", "ClassifierConfig(attention=(True,))", "ClipConfig(shared_dim=0)",
])
def test_impossible_configs_raise(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text, NetworkConfig)
    assert caught.value.code == "bad_network"


def test_unet_dropout_acts_in_training_only() -> None:
    config = dataclasses.replace(UNET, dropout=0.5)
    net, given = build(config), inputs(config)
    with torch.no_grad():
        assert not torch.equal(net(*given), net(*given))
        net.eval()
        assert torch.equal(net(*given), net(*given))


@pytest.mark.parametrize("sites", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)])
def test_n1_each_text_site_can_be_switched_and_reads_text(sites: tuple[int, int, int]) -> None:
    down, mid, up = map(bool, sites)
    config = dataclasses.replace(UNET, cross_down=down, cross_mid=mid, cross_up=up)
    net = build(config).eval()
    found = [key for key, module in net.named_modules() if key.endswith(".cross")]
    assert len([key for key in found if key.startswith("down.")]) == 2 * down           # blocks at two resolutions
    assert len([key for key in found if key.startswith("mid")]) == mid
    assert len([key for key in found if key.startswith("up.")]) == 4 * up               # one block more per resolution
    x, noise, cond = inputs(config)
    with torch.no_grad():
        y = net(x, noise, cond)
        for key in found:                                                               # silence one site: the output changes
            site = net.get_submodule(key)
            kept = {name: value.clone() for name, value in site.state_dict().items()}
            for parameter in site.parameters():
                parameter.zero_()
            assert (net(x, noise, cond) - y).abs().max() > 1e-5
            site.load_state_dict(kept)


def test_n1_self_attention_flags() -> None:
    none = dataclasses.replace(UNET, attention=(False,) * 3, mid_attention=False)
    def count(config: UNetConfig) -> int:
        return sum(isinstance(module, nn.Module) and key.split(".")[-1] == "attention" and ".cross" not in key and ".attention." not in key
                   for key, module in build(config).named_modules())
    assert count(none) == 0
    assert count(dataclasses.replace(none, mid_attention=True)) == 1
    assert count(dataclasses.replace(none, attention=(True, False, False))) == 3        # one down, two up


def test_unet_learns_to_draw_what_the_text_says() -> None:
    """Without reading the tokens the best possible loss is the targets' variance, 1."""
    torch.manual_seed(0)
    config = UNetConfig(in_channels=1, out_channels=1, widths=(16, 16), attention=(False, False), cross=(False, True), mid_attention=False,
                        head_dim=8, text_dim=8, embed_dim=16)
    net = config.build()
    tokens = torch.randn(2, 1, 8)
    target = torch.cat([torch.ones(1, 1, 8, 8), -torch.ones(1, 1, 8, 8)])
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    loss = torch.tensor(1.0)
    for _ in range(60):
        optimizer.zero_grad()
        loss = (net(torch.zeros(2, 1, 8, 8), torch.full((2,), 500.0), {"tokens": tokens}) - target).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


def test_patches_move_pixels_into_channels_and_back() -> None:
    """A network of one patch layer more has the same shapes outside, a finest resolution of 1/p, and reads and writes every pixel."""
    config = dataclasses.replace(UNET, patch=2)
    net = build(config).eval()
    x, noise, cond = torch.randn(2, 4, 16, 24), torch.tensor([5.0, 500.0]), conditions(2)
    assert config.factor == 2 * UNET.factor
    with torch.no_grad():
        y = net(x, noise, cond)
        assert y.shape == x.shape
        assert net.conv_in(torch.nn.functional.pixel_unshuffle(x, 2)).shape[-2:] == (8, 12)
        assert y.std(dim=0).min() > 0
        for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
            changed = x.clone()
            changed[:, :, row::2, column::2] += 1
            assert (net(changed, noise, cond) - y).abs().amax(dim=(1, 2, 3)).min() > 1e-4
    with pytest.raises(UsageError, match="multiples of 8"):
        net(torch.randn(2, 4, 16, 20), noise, cond)
    with pytest.raises(UsageError, match="patch=0"):
        dataclasses.replace(UNET, patch=0)


def film(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return x * (1 + scale) + shift


def test_a_dit_is_its_formula() -> None:
    """Peebles & Xie 2022, section 3.2, as stored networks have learned it: which sixth of the modulation is what, and where norms stand."""
    config = dataclasses.replace(DIT, qk_norm=True)
    net = build(config).eval()
    x, noise, cond = torch.randn(2, 4, 8, 12), torch.tensor([5.0, 500.0]), conditions(2)
    with torch.no_grad():
        e = F.silu(net.embed(noise, cond))[:, None]
        cut = torch.stack([x[:, :, i : i + 2, j : j + 2].flatten(1) for i in range(0, 8, 2) for j in range(0, 12, 2)], dim=1)
        h = net.patches(cut) + grid_positions(4, 6, 32)
        for block in net.blocks:
            scale_1, shift_1, gate_1, scale_2, shift_2, gate_2 = block.modulation(e).chunk(6, dim=-1)
            h = h + gate_1 * block.attention(film(F.layer_norm(h, (32,), eps=1e-6), scale_1, shift_1))
            h = h + block.cross(F.layer_norm(h, (32,), eps=1e-6), cond["tokens"], cond["mask"])
            inner = F.gelu(block.mlp.hidden(film(F.layer_norm(h, (32,), eps=1e-6), scale_2, shift_2)), approximate="tanh")
            h = h + gate_2 * block.mlp.out(inner)
        h = net.out(film(F.layer_norm(h, (32,), eps=1e-6), *net.modulation(e).chunk(2, dim=-1)))
        expected = h.reshape(2, 4, 6, 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(2, 4, 8, 12)
        torch.testing.assert_close(net(x, noise, cond), expected, rtol=1e-4, atol=1e-5)


def residual(block: nn.Module, x: Tensor, e: Tensor) -> Tensor:
    scale, shift = block.film(e)[:, :, None, None].chunk(2, dim=1)
    h = block.conv_in(F.silu(channel_norm(x)))
    return block.skip(x) + block.conv_out(F.silu(film(channel_norm(h), scale, shift)))


def test_a_unet_is_its_formula() -> None:
    """Which skip goes where, and how the noise level acts, as stored networks have learned it."""
    net = build(dataclasses.replace(UNET, widths=(16, 24), attention=(False, True), cross=(False, True))).eval()
    x, noise, cond = torch.randn(2, 4, 8, 12), torch.tensor([5.0, 500.0]), conditions(2)
    with torch.no_grad():
        e = F.silu(net.embed(noise, cond))

        def site(part: nn.Module, x: Tensor) -> Tensor:
            x = residual(part.block, x, e)
            x = x if part.attention is None else part.attention(x)
            return x if part.cross is None else part.cross(x, cond["tokens"], cond["mask"])

        first = net.conv_in(x)
        fine = site(net.down[0], first)
        half = net.downsample[0](fine)
        coarse = site(net.down[1], half)
        h = site(net.mid_out, site(net.mid_in, coarse))
        h = site(net.up[1], torch.cat([site(net.up[0], torch.cat([h, coarse], 1)), half], 1))
        h = net.upsample[0](h)
        h = site(net.up[3], torch.cat([site(net.up[2], torch.cat([h, fine], 1)), first], 1))
        torch.testing.assert_close(net(x, noise, cond), net.out(F.silu(channel_norm(h))), rtol=1e-4, atol=1e-5)


def test_dropout_takes_what_the_last_convolution_of_a_block_reads() -> None:
    block = ResBlock(8, 8, 4, dropout=0.5)
    nn.init.dirac_(block.conv_out.weight)
    nn.init.constant_(block.conv_out.bias, 3.0)
    x, e = torch.randn(1, 8, 16, 16), torch.randn(1, 4)
    added, whole = block(x, e) - x - 3.0, block.eval()(x, e) - x - 3.0
    dropped = added.abs() < 1e-6
    assert 0.45 < dropped.float().mean() < 0.55
    torch.testing.assert_close(added[~dropped], 2 * whole[~dropped], rtol=1e-4, atol=1e-5)
