"""A kernel that sums in another order for another size of its call is found, also where rounding hides it from ordinary numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import inkwash.selftest
from inkwash import Pipeline
from inkwash.provoke import LARGE, products
from inkwash.selftest import certified


class Halves(nn.Linear):
    """Sums in two halves when more than 8 inputs come at once, as a library may; in float32, rounded once."""

    def forward(self, x: Tensor) -> Tensor:
        a, w, half = x.float(), self.weight.float().T, self.in_features // 2
        whole = x.numel() // self.in_features <= 8
        found = a @ w if whole else a[..., :half] @ w[:half] + a[..., half:] @ w[half:]
        return (found if self.bias is None else found + self.bias.float()).to(x.dtype)


@torch.inference_mode()
def test_another_order_shows_in_the_numbers_that_provoke_it() -> None:
    layer, x = Halves(64, 32).to(torch.bfloat16), torch.randn(16, 64).to(torch.bfloat16)
    given, [product] = products([layer], lambda: layer(x))
    assert given.shape == (16, 32)
    assert product.x.shape == x.shape
    apart = product.rows(16, 16) != product.rows(16, 4)
    assert apart.float().mean() > 0.1
    assert (layer(x) != torch.cat([layer(part) for part in x.split(4)])).float().mean() < 0.01
    assert torch.equal(product.rows(16, 8), product.rows(16, 4))


@torch.inference_mode()
@pytest.mark.parametrize(("layer", "shape"), [
    (nn.Linear(12, 5), (4, 7, 12)), (nn.Conv2d(8, 5, 3, padding=1), (4, 8, 6, 6)), (nn.Conv2d(3, 4, 1), (4, 3, 2, 2)),
    (nn.Conv2d(8, 8, 3, groups=4), (4, 8, 6, 6))], ids=["linear", "convolution", "three channels", "groups"])
def test_the_large_terms_cancel_and_the_layer_itself_is_left_alone(layer: nn.Module, shape: tuple[int, ...]) -> None:
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    _, [product] = products([layer], lambda: layer(torch.randn(shape)))
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert not layer._forward_pre_hooks
    assert product.rows(4, 4).abs().max() < LARGE / 8


def test_a_size_that_rounding_takes_for_exact_is_not_certified(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = Pipeline.from_pretrained(tiny_model)
    shape = (4, 4, 4)
    sizes = certified(pipe, shape, 16)
    layer = next(one for one in pipe.denoiser.network.modules() if isinstance(one, nn.Linear) and one.in_features >= 32)
    layer.__class__ = Halves
    assert 4 in sizes
    assert 16 not in certified(pipe, shape, 16)
    monkeypatch.setattr(inkwash.selftest, "products", lambda networks, run: (run(), []))
    assert 16 in certified(pipe, shape, 16), "ordinary numbers show this too; choose another layer"
