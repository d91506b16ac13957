"""Attention, modulation and embeddings against their formulas (rows N5, N6, N7)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inkwash.errors import UsageError
from inkwash.nn.attention import SHORT, Attention, attend, attention_weights, check_form
from inkwash.nn.embed import GlobalEmbedding, NoiseEmbedding, grid_positions, sinusoidal
from inkwash.nn.layers import Up, channel_norm, modulate


def heads(*shape: int, seed: int = 0, grad: bool = False) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_(grad)


@settings(max_examples=15, deadline=None)
@given(queries=st.integers(1, 20), keys=st.integers(1, 20), width=st.sampled_from([4, 8, 16]), masked=st.booleans(), seed=st.integers(0, 99))
def test_n7_fused_equals_naive(queries: int, keys: int, width: int, masked: bool, seed: int) -> None:
    q, k, v = heads(2, 3, queries, width, seed=seed), heads(2, 3, keys, width, seed=seed + 1), heads(2, 3, keys, width, seed=seed + 2)
    mask = torch.arange(keys)[None] < torch.tensor([[max(1, keys // 2)], [0 if seed % 2 else keys]]) if masked else None
    fused, naive = attend(q, k, v, mask, "sdpa"), attend(q, k, v, mask, "naive")
    torch.testing.assert_close(fused, naive, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(attend(q, k, v, mask, "naive", slice_size=3), naive, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["sdpa", "naive"])
def test_causal_attention_reads_the_past_only(form: str) -> None:
    q, k, v = heads(1, 2, 6, 8, seed=1), heads(1, 2, 6, 8, seed=2), heads(1, 2, 6, 8, seed=3)
    out = attend(q, k, v, None, form, causal=True)
    later = v.clone()
    later[:, :, 4:] += 5.0
    changed = attend(q, k, later, None, form, causal=True)
    assert torch.equal(out[:, :, :4], changed[:, :, :4])
    assert (out[:, :, 4:] - changed[:, :, 4:]).abs().min() > 1e-3
    torch.testing.assert_close(out[:, :, 0], v[:, :, 0])                                # the first reads itself alone


def test_causal_slices_are_the_whole() -> None:
    q, k, v = heads(1, 2, 7, 8, seed=1), heads(1, 2, 7, 8, seed=2), heads(1, 2, 7, 8, seed=3)
    mask = torch.tensor([[True] * 5 + [False] * 2])
    for keys in (None, mask):
        whole = attend(q, k, v, keys, "naive", causal=True)
        torch.testing.assert_close(attend(q, k, v, keys, "naive", slice_size=3, causal=True), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", ["sdpa", "naive"])
def test_a_masked_key_has_no_weight_however_small_the_scores_of_the_others(form: str) -> None:
    q, k, v = torch.full((1, 1, 1, 4), 1e3), torch.full((1, 1, 2, 4), -1e3), torch.ones(1, 1, 2, 4)
    assert torch.equal(attend(q, k, v, torch.tensor([[True, False]]), form), torch.ones(1, 1, 1, 4))


@pytest.mark.parametrize("form", ["sdpa", "naive"])
def test_gradients_agree_and_stay_finite_when_everything_is_masked(form: str) -> None:
    mask = torch.tensor([[True, True, False], [False, False, False]])
    q, k, v = (heads(2, 1, 4, 8, seed=1, grad=True), heads(2, 1, 3, 8, seed=2, grad=True), heads(2, 1, 3, 8, seed=3, grad=True))
    out = attend(q, k, v, mask, form)
    assert torch.equal(out[1], torch.zeros_like(out[1]))
    out.square().sum().backward()
    assert torch.equal(v.grad[0, :, 2], torch.zeros(1, 8))                              # a masked value gets no gradient at all
    assert torch.equal(v.grad[1], torch.zeros(1, 3, 8))
    weights = attention_weights(q, k, mask).detach()
    expected = 2 * weights.transpose(-1, -2) @ (weights @ v.detach())                   # d/dv sum (W v)^2
    torch.testing.assert_close(v.grad, expected, rtol=1e-5, atol=1e-6)
    assert torch.isfinite(q.grad).all()
    assert torch.isfinite(k.grad).all()


def test_n6_worked_cross_attention() -> None:
    """Scores whose softmax is .359, .292, .349 read the values to [.589, .311]; a masked fourth word has weight 0."""
    weights = torch.tensor([0.359, 0.292, 0.349])
    d = 4
    q = torch.tensor([[1.0, 0.0, 0.0, 0.0]])                                            # one image position
    k = torch.zeros(4, d)
    k[:3, 0] = weights.log() * math.sqrt(d)
    k[3, 0] = 9.0                                                                       # the padding would win if it counted
    v = torch.tensor([[0.7, 0.2], [0.2, 0.7], [0.8, 0.1], [1e6, -1e6]])
    mask = torch.tensor([[True, True, True, False]])
    found = attention_weights(q[None, None], k[None, None], mask)[0, 0, 0]
    torch.testing.assert_close(found[:3], weights, rtol=0, atol=1e-6)
    assert found[3] == 0.0
    for form in ("sdpa", "naive"):
        v_padded = torch.nn.functional.pad(v, (0, d - 2))
        out = attend(q[None, None], k[None, None], v_padded[None, None], mask, form)[0, 0, 0, :2]
        assert [round(value, 3) for value in out.tolist()] == [0.589, 0.311]


def test_n5_worked_modulation() -> None:
    """Both quoted vectors are modulations of one vector, hence of each other: the second is 0.7 times the first plus 0.055."""
    x = torch.tensor([0.2, -0.1, 0.5], dtype=torch.float64)
    first, second = torch.tensor([0.25, -0.2, 0.7], dtype=torch.float64), torch.tensor([0.23, -0.085, 0.545], dtype=torch.float64)
    def number(value: float) -> torch.Tensor:
        return torch.tensor(value, dtype=torch.float64)
    torch.testing.assert_close(modulate(x, number(0.5), number(-0.05)), first, rtol=1e-10, atol=0)
    torch.testing.assert_close(modulate(x, number(0.05), number(0.02)), second, rtol=1e-10, atol=0)
    torch.testing.assert_close(modulate(first, number(-0.3), number(0.055)), second, rtol=1e-10, atol=0)


def test_n7_exclusive_options_raise() -> None:
    check_form("naive", 16)
    check_form("sdpa", 0)
    for form in ("sdpa", "auto"):
        with pytest.raises(UsageError, match="exclude each other"):
            check_form(form, 16)
    with pytest.raises(UsageError, match="choose one of auto, sdpa, naive"):
        check_form("flash")


def test_sliced_module_equals_whole() -> None:
    torch.manual_seed(0)
    whole = Attention(16, 4, context_width=6, form="naive", zero_out=False)
    sliced = Attention(16, 4, context_width=6, form="naive", slice_size=5, zero_out=False)
    sliced.load_state_dict(whole.state_dict())
    x, context = torch.randn(2, 12, 16), torch.randn(2, 3, 6)
    torch.testing.assert_close(whole(x, context), sliced(x, context))


@pytest.mark.parametrize("context_width", [0, 6])
def test_normalised_queries_and_keys_have_no_size(context_width: int) -> None:
    """softmax over LN(q) LN(k): scaling either projection changes nothing, so no weight can make the scores explode."""
    torch.manual_seed(0)
    net = Attention(16, 2, context_width, zero_out=False, qk_norm=True).double().requires_grad_(False)
    x, context = torch.randn(2, 5, 16).double(), torch.randn(2, 3, 6).double() if context_width else None
    q, (k, v) = net.query(x), net.key_value(x if context is None else context).chunk(2, dim=-1)
    q, k, v = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in (q, k, v))
    q, k = (torch.nn.functional.layer_norm(part, (8,)) for part in (q, k))
    read = (q @ k.transpose(-1, -2) / math.sqrt(8)).softmax(-1) @ v
    expected = net.out(read.transpose(1, 2).flatten(2))
    torch.testing.assert_close(net(x, context), expected, rtol=1e-9, atol=1e-9)
    net.query.weight.mul_(100), net.query.bias.mul_(100)
    torch.testing.assert_close(net(x, context), expected, rtol=1e-4, atol=1e-4)
    net.key_value.weight[:16].mul_(100), net.key_value.bias[:16].mul_(100)
    torch.testing.assert_close(net(x, context), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"qk_norm": True}, {"causal": True}, {"form": "naive"}, {"form": "sdpa"}], ids=str)
def test_native_attention_takes_the_place_of_what_it_computes_alone(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows no norm of queries and keys, no causal mask, and no form that was asked for by name; nor are its scores for many keys."""
    def refuse(*args: object) -> torch.Tensor:
        raise AssertionError("native")

    monkeypatch.setattr("inkwash.nn.native.ready", lambda x: True)
    monkeypatch.setattr("inkwash.nn.native.attend", refuse)
    net = Attention(16, 2, **settings)
    for tokens in (7, SHORT):
        if settings or tokens == SHORT:
            assert net(torch.randn(1, tokens, 16)).shape == (1, tokens, 16)
        else:
            with pytest.raises(AssertionError, match="native"):
                net(torch.randn(1, tokens, 16))


def test_noise_embedding_tells_all_levels_apart() -> None:
    torch.manual_seed(0)
    levels = torch.linspace(0, 1000, 1001)
    waves = sinusoidal(levels, 256)
    torch.testing.assert_close(waves.square().sum(-1), torch.full((1001,), 128.0))
    assert torch.equal(waves[0], torch.cat([torch.ones(128), torch.zeros(128)]))
    assert (waves[1:] - waves[:-1]).norm(dim=-1).min() > 1.0
    embedding = NoiseEmbedding(32).bfloat16()(levels.bfloat16().float() + 0.0)
    assert embedding.dtype == torch.bfloat16
    near = NoiseEmbedding(32)(torch.tensor([500.0, 500.0 + 1e-3]))
    assert (near[0] - near[1]).norm() < 1e-3                                            # smooth in the level


def test_sinusoids_are_geometric_from_one_to_the_longest_period() -> None:
    """w_i = P^(-i / (width / 2)), cosines first: what a stored network has learned to read."""
    angle = 7.0 * torch.tensor([1.0, 0.1, 0.01, 0.001])
    torch.testing.assert_close(sinusoidal(torch.tensor([7.0]), 8), torch.cat([angle.cos(), angle.sin()])[None], rtol=1e-5, atol=1e-6)
    of_column = grid_positions(2, 2, 16).view(2, 2, 16)                                 # the first half, as in the published DiT
    assert torch.equal(of_column[0, :, :8], of_column[1, :, :8])
    assert torch.equal(of_column[:, 0, 8:], of_column[:, 1, 8:])


def test_labels_begin_small_beside_the_noise_level() -> None:
    assert float(GlobalEmbedding(64, num_classes=99).label.weight.detach().std()) == pytest.approx(0.02, rel=0.1)


def test_a_guidance_scale_is_embedded_as_ten_times_itself() -> None:
    """What a stored student was told: 1..8 spread over the range in which noise is told apart."""
    embed, noise, w = GlobalEmbedding(16, guidance=True), torch.tensor([3.0, 700.0]), torch.tensor([1.0, 7.5])
    assert torch.equal(embed(noise, {"guidance": w}), embed(noise, {"guidance": 2 * w})), "it starts as nothing"
    torch.nn.init.normal_(embed.guidance.out.weight)
    torch.testing.assert_close(embed(noise, {"guidance": w}), embed.noise(noise) + embed.guidance(torch.tensor([10.0, 75.0])))


def test_grid_positions_are_unique_and_consistent_across_sizes() -> None:
    small, large = grid_positions(3, 5, 32), grid_positions(7, 9, 32)
    assert torch.cdist(large, large).fill_diagonal_(9.0).min() > 0.1
    torch.testing.assert_close(small.view(3, 5, 32), large.view(7, 9, 32)[:3, :5])


def test_channel_norm_has_no_mean_unit_power_and_does_not_mix_pixels() -> None:
    x = torch.randn(2, 64, 5, 6, dtype=torch.float64) * 7 + 3
    y = channel_norm(x)
    torch.testing.assert_close(y.mean(1), torch.zeros(2, 5, 6, dtype=torch.float64))
    torch.testing.assert_close(y.var(1, unbiased=False), torch.ones(2, 5, 6, dtype=torch.float64), rtol=1e-5, atol=0)
    changed = x.clone()
    changed[:, :, 2, 3] = torch.randn(2, 64, dtype=torch.float64)
    same = (channel_norm(changed) == y).all(1)
    assert not same[:, 2, 3].any()
    assert same.sum() == 2 * 5 * 6 - 2


def test_up_starts_as_nearest_neighbour() -> None:
    torch.manual_seed(0)
    y = Up(6, 4)(torch.randn(1, 6, 3, 3))
    assert y.std() > 0.1
    assert torch.equal(y, y[..., ::2, ::2].repeat_interleave(2, -1).repeat_interleave(2, -2))
