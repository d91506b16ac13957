"""Inception v3: its size, its names, and the pools in which the two networks of this name differ."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.errors import UsageError
from inkwash.nn.inception import Inception, InceptionConfig, Mixed, block_a, block_b, block_c, block_e, pool


@pytest.fixture(scope="module")
def network() -> Inception:
    torch.manual_seed(0)
    return InceptionConfig().build().eval()


def test_size_and_names(network: Inception) -> None:
    """23,850,960 parameters with the 1008 classes of the TensorFlow graph, 23,834,568 with torchvision's 1000."""
    count = sum(parameter.numel() for parameter in network.parameters())
    assert (count + 2049 * 1008, count + 2049 * 1000) == (23_850_960, 23_834_568)
    names = network.state_dict()
    assert sum(name.endswith("conv.weight") for name in names) == 94
    shapes = {"Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3), "Conv2d_4a_3x3.conv.weight": (192, 80, 3, 3),
              "Mixed_5b.branch5x5_2.conv.weight": (64, 48, 5, 5),
              "Mixed_5b.branch_pool.conv.weight": (32, 192, 1, 1), "Mixed_6a.branch3x3.conv.weight": (384, 288, 3, 3),
              "Mixed_6b.branch7x7dbl_2.conv.weight": (128, 128, 7, 1), "Mixed_6e.branch7x7_2.conv.weight": (192, 192, 1, 7),
              "Mixed_7a.branch7x7x3_4.conv.weight": (192, 192, 3, 3), "Mixed_7b.branch3x3_2a.conv.weight": (384, 384, 1, 3),
              "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1), "Mixed_7c.branch_pool.bn.running_var": (192,)}
    assert {name: tuple(names[name].shape) for name in shapes} == shapes
    assert all(module.eps == 0.001 for module in network.modules() if isinstance(module, nn.BatchNorm2d))


def test_resolutions(network: Inception) -> None:
    """299 pixels become 147, 71, 35, 17 and 8, and 2048 numbers."""
    sizes: dict[str, tuple[int, int]] = {}
    hooks = [getattr(network, name).register_forward_hook(lambda _, __, out, name=name: sizes.update({name: tuple(out.shape[1:3])}))
             for name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c")]
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 299, 299)).shape == (1, 2048)
    for hook in hooks:
        hook.remove()
    assert sizes == {"Conv2d_2b_3x3": (64, 147), "Conv2d_4a_3x3": (192, 71), "Mixed_5d": (288, 35), "Mixed_6e": (768, 17), "Mixed_7c": (2048, 8)}


def windows(x: Tensor) -> Tensor:
    """The 3 x 3 neighbourhoods of every pixel, NaN outside: (B, C, H, W, 9)."""
    wide = F.pad(x, (1, 1, 1, 1), value=torch.nan)
    return wide.unfold(2, 3, 1).unfold(3, 3, 1).flatten(4)


def test_pools_by_definition() -> None:
    x = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    near = windows(x)
    torch.testing.assert_close(pool(x, "inside"), near.nanmean(-1), rtol=0, atol=1e-14)
    torch.testing.assert_close(pool(x, "padded"), near.nansum(-1) / 9, rtol=0, atol=1e-14)
    torch.testing.assert_close(pool(x, "max"), near.nan_to_num(-torch.inf).amax(-1), rtol=0, atol=0)


def by_hand(block: Mixed, x: Tensor, pooled: Tensor, chains: list[list[str | tuple[str, str]]]) -> Tensor:
    """The block once more: convolution, then the affine map that a batch norm at rest is, then relu."""

    def conv(name: str, h: Tensor) -> Tensor:
        layer, norm = block.get_submodule(f"{name}.conv"), block.get_submodule(f"{name}.bn")
        assert isinstance(layer, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        kernel = layer.weight.shape[2:]
        gain = norm.weight / (norm.running_var + 0.001).sqrt()
        h = F.conv2d(h, layer.weight * gain[:, None, None, None], norm.bias - norm.running_mean * gain, padding=(kernel[0] // 2, kernel[1] // 2))
        return h.clamp_min(0)

    parts = []
    for chain in chains:
        h = x
        for step in chain:
            h = conv(step, h) if isinstance(step, str) else torch.cat([conv(name, h) for name in step], 1)
        parts.append(h)
    return torch.cat([*parts, conv("branch_pool", pooled)], 1)


A = [["branch1x1"], ["branch5x5_1", "branch5x5_2"], ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"]]
C = [["branch1x1"], ["branch7x7_1", "branch7x7_2", "branch7x7_3"], [f"branch7x7dbl_{i}" for i in range(1, 6)]]
E = [["branch1x1"], ["branch3x3_1", ("branch3x3_2a", "branch3x3_2b")], ["branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b")]]


@pytest.mark.parametrize("which", ["5b", "6b", "7b", "7c", "imagenet 5b", "imagenet 7c"])
def test_blocks_by_definition(which: str) -> None:
    """Every kind of block against its definition; the pools are those of the variant."""
    torch.manual_seed(2)
    kind = "padded" if which.startswith("imagenet") else "max" if which == "7c" else "inside"
    width, block, chains = {"5b": (192, lambda: block_a(192, 32, kind), A), "6b": (768, lambda: block_c(768, 128, kind), C),
                            "7b": (1280, lambda: block_e(1280, kind), E), "7c": (2048, lambda: block_e(2048, kind), E)}[which.split()[-1]]
    made = block().double().eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.weight, 0.5), (module.bias, -0.5), (module.running_mean, -0.5), (module.running_var, 0.5)):
                assert tensor is not None
                nn.init.uniform_(tensor, low, low + 1)
    x = torch.randn(1, width, 5, 4, dtype=torch.float64)
    near = windows(x)
    pooled = {"padded": near.nansum(-1) / 9, "inside": near.nanmean(-1), "max": near.nan_to_num(-torch.inf).amax(-1)}[kind]
    with torch.inference_mode():
        torch.testing.assert_close(made(x), by_hand(made, x, pooled, chains), rtol=1e-10, atol=1e-10)


def test_which_block_pools_how(network: Inception) -> None:
    imagenet = InceptionConfig("imagenet").build()
    names = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")
    assert [network.get_submodule(f"Mixed_{name}").pool for name in names] == [  # type: ignore[union-attr]
        "inside", "inside", "inside", None, "inside", "inside", "inside", "inside", None, "inside", "max"]
    assert {imagenet.get_submodule(f"Mixed_{name}").pool for name in names} == {"padded", None}  # type: ignore[union-attr]
    x = torch.randn(1, 288, 5, 5)
    assert torch.equal(block_b(288).eval()(x)[:, 480:], F.max_pool2d(x, 3, 2))             # the pooled branch has no convolution


def test_variants_are_named() -> None:
    with pytest.raises(UsageError, match="fid or imagenet"):
        InceptionConfig("v4")
