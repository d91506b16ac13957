"""Prompts, the null token, and dropping: same shapes, same bits, nothing lost in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from inkwash.cond import Cond
from inkwash.condition import NoConditioner, TextConditioner
from inkwash.io.folder import load_part, load_tokenizer
from inkwash.io.info import count_words, unknown_words, words
from inkwash.tokenizer import Tokenizer

PROMPTS = ["a small red cube", "emoji of a cat", "", "two green cones left of a blue sphere and a leather jacket"]


@pytest.fixture(scope="module")
def text(tiny_model: Path) -> TextConditioner:
    return TextConditioner(load_tokenizer(tiny_model, 16), load_part(tiny_model, "text_encoder"), load_part(tiny_model, "conditioner"),
                           vocabulary={"red": 2, "cube": 1})


def test_prompts_and_no_prompt_have_the_same_shapes(text: TextConditioner) -> None:
    cond, null = text(PROMPTS), text.null(4)
    assert set(cond) == set(null) == {"tokens", "mask", "pooled"}
    for name in cond:
        assert cond[name].shape == null[name].shape
        assert cond[name].dtype == null[name].dtype
    assert cond["tokens"].shape == (4, 16, 32)
    assert null["mask"].sum(dim=1).tolist() == [1, 1, 1, 1]
    assert Cond.cat([cond, null]).batch == 8


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_a_prompt_has_the_same_bits_in_any_company(text: TextConditioner, micro_batch: int) -> None:
    other = TextConditioner(text.tokenizer, text.encoder, text.empty, micro_batch)
    together = other(PROMPTS)
    for i, prompt in enumerate(PROMPTS):
        for company in ([prompt], [prompt, *PROMPTS], PROMPTS[::-1]):
            found = other(company).take([company.index(prompt)])
            assert all(torch.equal(found[name][0], together[name][i]) for name in together)


def test_drop_replaces_exactly_the_samples_that_are_not_kept_and_trains_the_null_token(text: TextConditioner) -> None:
    cond, keep = text(PROMPTS), torch.tensor([True, False, True, False])
    dropped = text.drop(cond, keep)
    for name in cond:
        for i in range(4):
            assert torch.equal(dropped[name][i], cond[name][i] if keep[i] else text.null(1)[name][0])
    dropped["tokens"].sum().backward()
    assert float(text.empty.token.grad.abs().sum()) > 0
    assert all(parameter.grad is None for parameter in text.encoder.parameters())
    text.empty.zero_grad()


def test_drop_refuses_a_keep_of_another_kind(text: TextConditioner) -> None:
    cond = text(PROMPTS)
    for wrong in (torch.ones(4), torch.ones(3, dtype=torch.bool), torch.ones(4, 1, dtype=torch.bool)):
        with pytest.raises(ValueError, match="keep"):
            text.drop(cond, wrong)


def test_only_the_null_token_is_trained(text: TextConditioner) -> None:
    assert {name for name, parameter in text.named_parameters() if parameter.requires_grad} == {"empty.token", "empty.pooled"}


def test_K1_a_cut_is_reported_with_what_was_cut(text: TextConditioner) -> None:
    assert text.report("a small red cube") == []
    [note] = text.report("a small red cube " + "soft " * 30)
    assert "14 tokens" in note
    assert "soft" in note
    found = text.tokenizer(["soft " * 30])
    assert bool(found.mask.all())
    assert found.ids[0, -1] == text.tokenizer.end


def test_tokens_ignore_case_and_cover_every_text(text: TextConditioner) -> None:
    upper, lower = text.tokenizer(["A Red CUBE"]), text.tokenizer(["a red cube"])
    assert torch.equal(upper.ids, lower.ids)
    strange = text.tokenizer(["日本 🙂 \u200b"])
    assert int(strange.mask.sum()) > 2
    assert int(strange.ids.max()) < text.tokenizer.size


def test_a_tokenizer_survives_its_file(text: TextConditioner, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(text.tokenizer.text(), "utf-8")
    again = Tokenizer.load(path, 16)
    assert torch.equal(again(PROMPTS).ids, text.tokenizer(PROMPTS).ids)


def test_words_that_training_never_had() -> None:
    counts = count_words(["A red cube, red.", "the cat's hat"])
    assert counts == {"a": 1, "cat's": 1, "cube": 1, "hat": 1, "red": 1, "the": 1}
    assert unknown_words("a Red dog, DOG and cat's cube 3d", counts) == ["dog", "and", "3d"]
    assert unknown_words("anything", {}) == []
    assert words("snow-white café_2") == ["snow", "white", "café", "2"]


def test_a_model_without_text_says_that_the_prompt_is_inert() -> None:
    none = NoConditioner()
    assert none(["a", "b"]).batch == 2
    assert none.report("a cat") == ["the prompt is inert: this model is not conditioned on text"]
    assert none.report(" ") == []
