"""MM-DiT: two streams with weights of their own that read each other (row N3)."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from nn_examples import DIT, MMDIT, build, conditions, inputs
from torch import Tensor

from inkwash.nn import NetworkConfig
from inkwash.value import parse


def block_inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Tokens of a picture and of a text, and an embedding."""
    rng = torch.Generator().manual_seed(3)
    picture, text, embedding = (torch.randn(2, *shape, generator=rng, dtype=torch.float64) for shape in ((9, 32), (7, 32), (32,)))
    return picture, text, embedding


def test_n3_the_tokens_of_the_text_change_with_those_of_the_picture() -> None:
    """Both directions have a gradient in each block but the last, where the text is only read."""
    net = build(MMDIT).double()
    for number, block in enumerate(net.blocks):
        x, text, embedding = block_inputs()
        x.requires_grad_()
        text.requires_grad_()
        new_x, new_text = block(x, text, embedding, None)
        (of_text,) = torch.autograd.grad(new_x.square().sum(), text, retain_graph=True)
        assert of_text.abs().amin(dim=(0, 2)).min() > 0                                 # every word reaches the picture
        if number == len(net.blocks) - 1:
            assert new_text is text
        else:
            (of_x,) = torch.autograd.grad(new_text.square().sum(), x)
            assert of_x.abs().amin(dim=(0, 2)).min() > 0                                # every patch reaches the text


def test_n3_a_word_that_is_read_twice_was_changed_by_the_picture() -> None:
    """Where a DiT gives every block the same text, here the second block's depends on x."""
    net, seen = build(MMDIT).eval(), []
    net.blocks[1].register_forward_hook(lambda module, given, out: seen.append(given[1]))
    x, noise, cond = inputs(MMDIT)
    with torch.no_grad():
        net(x, noise, cond)
        net(x.flip(0), noise, cond)
    assert (seen[0] - seen[1]).abs().amin(dim=-1)[cond["mask"]].min() > 1e-6

    dit, same = build(DIT).eval(), []
    dit.blocks[1].register_forward_hook(lambda module, given, out: same.append(given[2]))
    with torch.no_grad():
        dit(x, noise, cond)
        dit(x.flip(0), noise, cond)
    assert torch.equal(same[0], same[1])


def test_n3_each_stream_has_weights_of_its_own() -> None:
    net = build(MMDIT)
    for number, block in enumerate(net.blocks):
        of = {stream: {key.removeprefix(f"{stream}."): value for key, value in block.named_parameters() if key.startswith(f"{stream}.")}
              for stream in ("picture", "text")}
        assert sum(len(each) for each in of.values()) == len(list(block.parameters()))  # nothing is common to both
        assert not {value.data_ptr() for value in of["picture"].values()} & {value.data_ptr() for value in of["text"].values()}
        if number < len(net.blocks) - 1:
            assert {key: value.shape for key, value in of["picture"].items()} == {key: value.shape for key, value in of["text"].items()}
        else:
            assert {key.split(".")[0] for key in of["text"]} == {"modulation", "key_value"}


def test_n3_a_block_is_its_formula() -> None:
    """softmax(q k^T / sqrt(d)) v over the tokens of both, written with matrices for one head after another."""
    block = build(MMDIT).blocks[0].double().eval()
    x, text, embedding = block_inputs()
    mask = torch.ones(2, 16, dtype=torch.bool)
    mask[0, 13:] = False                                                                # three words of the first do not exist

    def norm(h: Tensor) -> Tensor:
        return (h - h.mean(-1, keepdim=True)) / (h.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()

    streams = ((block.picture, x), (block.text, text))
    vectors = [[part[:, None] for part in stream.modulation(embedding).chunk(6, dim=1)] for stream, _ in streams]
    told = [norm(h) * (1 + each[0]) + each[1] for (_, h), each in zip(streams, vectors, strict=True)]
    q = torch.cat([stream.query(h) for (stream, _), h in zip(streams, told, strict=True)], dim=1)
    k, v = torch.cat([stream.key_value(h) for (stream, _), h in zip(streams, told, strict=True)], dim=1).split(32, dim=-1)
    heads = []
    for head in range(4):
        part = slice(8 * head, 8 * head + 8)
        scores = (q[..., part] @ k[..., part].mT / 8**0.5).masked_fill(~mask[:, None], -torch.inf)
        heads.append(scores.softmax(-1) @ v[..., part])
    read = torch.cat(heads, dim=-1).split([9, 7], dim=1)
    for (stream, h), each, words, found in zip(streams, vectors, read, block(x, text, embedding, mask), strict=True):
        h = h + each[2] * stream.out(words)
        torch.testing.assert_close(found, h + each[5] * stream.mlp(norm(h) * (1 + each[3]) + each[4]), rtol=1e-9, atol=1e-9)


def test_n3_blocks_are_the_identity_at_init() -> None:
    x, text, embedding = block_inputs()
    for block in build(MMDIT, trained=False).double().blocks:
        new_x, new_text = block(x, text, embedding, None)
        assert torch.equal(new_x, x)
        assert torch.equal(new_text, text)


@pytest.mark.parametrize(("name", "millions"), [("mmdit_24", 2000.0), ("mmdit_38", 8000.0)])
def test_n3_published_sizes(name: str, millions: float) -> None:
    """As rounded in the paper and its release: 2B and 8B."""
    with torch.device("meta"):
        net = parse(name, NetworkConfig).build()
    assert sum(parameter.numel() for parameter in net.parameters()) / 1e6 == pytest.approx(millions, rel=0.015)


def test_positions_of_patches_are_told_and_query_key_norm_bounds_the_scores() -> None:
    net = build(dataclasses.replace(MMDIT, qk_norm=True)).eval()
    _, noise, cond = inputs(MMDIT)
    x = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        assert (net(x.roll(2, dims=-1), noise, cond) - net(x, noise, cond).roll(2, dims=-1)).abs().max() > 1e-3
        for stream in (net.blocks[0].picture, net.blocks[0].text):
            stream.query.weight.mul_(1e4)
        y = net(x, noise, conditions(2))
        for stream in (net.blocks[0].picture, net.blocks[0].text):
            stream.query.weight.mul_(10.0)
            stream.query.bias.mul_(10.0)
        torch.testing.assert_close(net(x, noise, conditions(2)), y, rtol=1e-2, atol=1e-3)   # only directions count
