"""Requests refuse what no model could do, in words that say what would be right."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from inkwash.errors import UsageError
from inkwash.request import Request, check_guidance, check_int, check_size, check_strength, check_text, require_prompt


@pytest.mark.parametrize("steps", [0, -1, 10**9, 1001, 2.5, float("nan"), "nan", "1e9", "", True, None])
def test_T01_steps(steps: object) -> None:
    with pytest.raises(UsageError, match=r"--steps must be 1\.\.1000, got ") as caught:
        check_int(steps, "--steps", "bad_steps", 1, 1000)
    assert caught.value.code == "bad_steps"
    assert check_int(" 30 ", "--steps", "bad_steps", 1, 1000) == 30


@pytest.mark.parametrize("size", ["1024x", "x64", "64x64x3", "", "12.5", "-64", "64 by 64", "9" * 400])
def test_T03_sizes(size: str) -> None:
    with pytest.raises(UsageError, match="allowed: 128x128") as caught:
        check_size(size, "128x128")
    assert caught.value.code == "invalid_size"
    assert len(caught.value.line()) <= 400


def test_sizes_are_a_side_or_two() -> None:
    assert check_size("128", "") == (128, 128)
    assert check_size("128x96", "") == check_size(" 128 X 96 ", "") == check_size("128×96", "") == (128, 96)


@pytest.mark.parametrize("scale", ["50%", "nan", "inf", "-inf", "1e999", "-1e9", "", float("nan"), float("inf"), True, None, "101", 10**400])
def test_T05_G9_guidance_is_a_factor(scale: object) -> None:
    with pytest.raises(UsageError, match="factor and not a percentage") as caught:
        check_guidance(scale, "--guidance")
    assert caught.value.code == "bad_guidance"


def test_guidance_may_be_above_one_and_may_be_a_text() -> None:
    assert check_guidance("7.5", "g") == 7.5
    assert check_guidance(3, "g") == 3.0
    assert check_guidance("CFG(scale=3.0)", "g") == "CFG(scale=3.0)"


@pytest.mark.parametrize("seed", [-1, 2**64, 2**63, 1.0, "abc", "1.0"])
def test_T06_seeds(seed: object) -> None:
    with pytest.raises(UsageError, match=r"0\.\.2\^63-1"):
        check_int(seed, "--seed", "bad_seed", 0, 2**63 - 1)


def test_numbers_too_long_for_python_to_write_are_refused_like_others() -> None:
    for check, code in ((lambda n: Request("a", seed=n), "bad_seed"), (lambda n: Request("a", steps=n), "bad_steps"),
                        (lambda n: Request("a", guidance=n), "bad_guidance"), (lambda n: check_strength(n, "strength"), "bad_strength")):
        with pytest.raises(UsageError, match="too long to write") as caught:
            check(10**5000)
        assert caught.value.code == code


def test_T07_prompts_have_a_limit_and_say_something() -> None:
    assert check_text("x" * 4000, "the prompt")
    with pytest.raises(UsageError, match="4001 characters; at most 4000"):
        check_text("x" * 4001, "the prompt")
    for empty in ("", "  ", "\n"):
        with pytest.raises(UsageError, match="empty"):
            require_prompt(empty)


@pytest.mark.parametrize("code", [0, 7, 0x1B, 0x7F, 0x85, 0x202E, 0x2066, 0xD800, 0xDCFF])
def test_T08_characters_are_named_with_their_position(code: int) -> None:
    with pytest.raises(UsageError, match=f"U\\+{code:04X} at character 3") as caught:
        Request("ab" + chr(code))
    assert caught.value.code == "invalid_characters"
    caught.value.line().encode("utf-8")


def test_ordinary_texts_pass() -> None:
    for text in ("日本語 🙂👩\u200d🚀", "line\nline\ttab", "Größe — naïve", "שלום"):
        assert check_text(text, "the prompt") == text


def test_numbers_of_numpy_and_texts_are_stored_as_numbers() -> None:
    plain = Request("a cube", seed=7, steps=3, guidance=2.5, width=64, height=32)
    assert Request("a cube", seed=np.int64(7), steps=np.int32(3), guidance=np.float32(2.5), width=np.int16(64), height=np.uint8(32)) == plain  # type: ignore[arg-type]
    same = Request("a cube", seed="7", steps="3", guidance=2.5, width="64", height=" 32")  # type: ignore[arg-type]
    assert same == plain
    assert all(type(value) is int for value in (same.seed, same.steps, same.width, same.height))


@pytest.mark.parametrize("value", [np.float32(0.5), np.float16(0.5), Fraction(1, 2), "0.5"])
def test_any_real_number_may_be_a_strength(value: object) -> None:
    found = check_strength(value, "strength")
    assert found == 0.5
    assert type(found) is float


@pytest.mark.parametrize("value", [0, 1.5, -1, "half", float("nan"), True, 1j, Fraction(1, 10**400)])
def test_other_strengths_are_refused(value: object) -> None:
    with pytest.raises(UsageError, match="above 0") as caught:
        check_strength(value, "strength")
    assert caught.value.code == "bad_strength"


@pytest.mark.parametrize("name", ["sampler", "spacing"])
@pytest.mark.parametrize("value", [3, None, ["ddim"]])
def test_a_sampler_that_is_no_text_is_refused(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"{name} must be text"):
        Request("a cube", **{name: value})  # type: ignore[arg-type]
