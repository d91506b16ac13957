"""Conditions: named tensors of one batch."""

from __future__ import annotations

import pytest
import torch

from inkwash.cond import Cond


def example(batch: int = 3) -> Cond:
    tokens, mask = torch.arange(batch * 4.0).reshape(batch, 2, 2), torch.ones(batch, 2, dtype=torch.bool)
    return Cond({"tokens": tokens, "mask": mask, "label": torch.arange(batch)})


def equal(a: Cond, b: Cond) -> bool:
    return set(a) == set(b) and a.batch == b.batch and all(torch.equal(a[name], b[name]) for name in a)


def test_take_and_cat_are_inverse() -> None:
    cond = example()
    assert equal(Cond.cat([cond.take([0]), cond.take([1, 2])]), cond)
    assert cond.take(torch.tensor([2, 0, 2]))["label"].tolist() == [2, 0, 2]
    assert cond.take([]).batch == 0


def test_pad_repeats_the_last_sample() -> None:
    assert example().pad(5)["label"].tolist() == [0, 1, 2, 2, 2]
    assert equal(example().pad(3), example())


def test_no_condition_still_has_a_batch() -> None:
    none = Cond.none(4)
    assert (len(none), none.batch, none.take([1, 1]).batch, none.pad(6).batch, Cond.cat([none, none]).batch) == (0, 4, 2, 6, 8)
    assert none.to(dtype=torch.float64).batch == 4


def test_batches_must_agree() -> None:
    with pytest.raises(ValueError, match="one batch size"):
        Cond({"a": torch.zeros(2), "b": torch.zeros(3)})
    with pytest.raises(ValueError, match="one batch size"):
        Cond({"a": torch.zeros(2)}, 3)
    with pytest.raises(ValueError, match="no batch"):
        Cond({})


def test_kinds_must_agree() -> None:
    with pytest.raises(ValueError, match="different kinds"):
        Cond.cat([example(), Cond({"tokens": torch.zeros(1, 2, 2)})])


def test_casts_floating_tensors_only() -> None:
    scale = Cond({"guidance": torch.tensor([7.3, 1.0])}).to(dtype=torch.bfloat16)["guidance"]
    assert scale.dtype == torch.float32, "bfloat16 would make 7.3 7.3125"
    cast = example().to(dtype=torch.float64)
    assert (cast["tokens"].dtype, cast["mask"].dtype, cast["label"].dtype) == (torch.float64, torch.bool, torch.int64)
    assert cast.batch == 3


def test_is_immutable() -> None:
    source = {"a": torch.zeros(2)}
    cond = Cond(source)
    source["b"] = torch.zeros(2)
    assert list(cond) == ["a"]
    with pytest.raises(TypeError):
        cond["a"] = torch.ones(2)  # type: ignore[index]
    with pytest.raises(AttributeError):
        cond.other = 1  # type: ignore[attr-defined]
