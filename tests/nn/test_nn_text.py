"""Text encoder, image tower and their contrastive pair (row K1)."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from nn_examples import TEXT, TOWER, build

from inkwash.errors import UsageError
from inkwash.nn import ClipConfig, TextEncoderConfig
from inkwash.nn.clip import contrastive_loss

IDS = torch.tensor([[1, 9, 17, 2, 0, 0, 0], [1, 30, 31, 32, 33, 34, 2]])
MASK = torch.tensor([[True] * 4 + [False] * 3, [True] * 7])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("form", ["naive", "sdpa"])
def test_padding_changes_no_bit(causal: bool, form: str) -> None:
    net = build(dataclasses.replace(TEXT, causal=causal, form=form)).eval()
    with torch.no_grad():
        one, other = net(IDS, MASK), net(torch.where(MASK, IDS, 41), MASK)
        assert torch.equal(one.pooled, other.pooled)
        assert torch.equal(one.tokens[MASK], other.tokens[MASK])
        assert not torch.equal(one.pooled, net(IDS, torch.ones_like(MASK)).pooled)
        longer = net(torch.nn.functional.pad(IDS, (0, 4)), torch.nn.functional.pad(MASK, (0, 4)))
        torch.testing.assert_close(longer.pooled, one.pooled, rtol=1e-5, atol=1e-6)


def test_direction_of_reading() -> None:
    changed = IDS.clone()
    changed[:, 3] = 40
    for causal in (False, True):
        net = build(dataclasses.replace(TEXT, causal=causal)).eval()
        with torch.no_grad():
            same = (net(IDS).tokens == net(changed).tokens).all(-1)
        assert bool(same[:, :3].all()) is causal
        assert not same[:, 3:].any()


def test_causal_text_is_pooled_at_its_last_word() -> None:
    net = build(dataclasses.replace(TEXT, causal=True)).eval()
    with torch.no_grad():
        text = net(IDS, MASK)
    assert torch.equal(text.pooled, torch.stack([text.tokens[0, 3], text.tokens[1, 6]]))
    both = build(TEXT).eval()
    with torch.no_grad():
        text = both(IDS, MASK)
    torch.testing.assert_close(text.pooled[0], text.tokens[0, :4].mean(0))


def test_order_of_words_matters() -> None:
    net = build(TEXT).eval()
    with torch.no_grad():
        assert (net(IDS[1:]).pooled - net(IDS[1:, [0, 2, 1, 3, 4, 5, 6]]).pooled).abs().max() > 1e-4


def test_too_long_a_text_is_refused_with_the_limit() -> None:
    with pytest.raises(UsageError, match="limit is 12"):
        build(TEXT)(torch.zeros(1, 13, dtype=torch.long))


def test_tower_takes_any_multiple_and_refuses_others() -> None:
    net = build(TOWER)
    assert net(torch.rand(2, 3, 16, 40)).shape == (2, 16)
    with pytest.raises(UsageError, match="multiples of 8"):
        net(torch.rand(2, 3, 16, 20))


def test_pair_gives_unit_vectors_and_a_bounded_temperature() -> None:
    net = build(ClipConfig(TEXT, TOWER, shared_dim=8))
    image, text, scale = net(torch.rand(2, 3, 32, 32), IDS, MASK)
    torch.testing.assert_close(image.norm(dim=-1), torch.ones(2))
    torch.testing.assert_close(text.norm(dim=-1), torch.ones(2))
    assert math.isclose(scale.item(), 1 / 0.07, rel_tol=1e-5)
    torch.nn.init.constant_(net.log_scale, 50.0)
    assert math.isclose(net.scale.item(), 100.0, rel_tol=1e-5)


def test_contrastive_loss_at_its_known_points() -> None:
    same = torch.ones(6, 4) / 2
    torch.testing.assert_close(contrastive_loss(same, same, torch.tensor(10.0)), torch.full((6,), math.log(6)))    # no information
    apart = torch.eye(6)
    assert contrastive_loss(apart, apart, torch.tensor(100.0)).max() < 1e-6
    expected = math.log(math.exp(2.0) + 5) - 2.0
    torch.testing.assert_close(contrastive_loss(apart, apart, torch.tensor(2.0)), torch.full((6,), expected))


def test_k1_pair_learns_which_word_names_which_colour() -> None:
    torch.manual_seed(0)
    net = ClipConfig(TextEncoderConfig(vocab=16, width=16, layers=1, heads=2, max_tokens=4), TOWER, shared_dim=8).build()
    colours = torch.tensor([[i, j, k] for i in (-0.8, 0.8) for j in (-0.8, 0.8) for k in (-0.8, 0.8)])             # (8, 3)
    ids = torch.stack([torch.full((8,), 1), torch.arange(8) + 3, torch.full((8,), 2)], dim=1)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(40):
        images = colours[:, :, None, None] + 0.1 * torch.randn(8, 3, 8, 8)
        optimizer.zero_grad()
        contrastive_loss(*net(images, ids)).mean().backward()
        optimizer.step()
    with torch.no_grad():
        fresh = colours[:, :, None, None] + 0.1 * torch.randn(8, 3, 8, 8)
        found = (net.embed_image(fresh) @ net.embed_text(ids).T).argmax(dim=1)
    assert (found == torch.arange(8)).sum() >= 7                                        # chance is 1 of 8
