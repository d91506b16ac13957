"""Pictures say how they were made and never overwrite one another."""

from __future__ import annotations

import contextlib
import io
import re
import time
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from inkwash.errors import CheckpointError, DataError, UsageError
from inkwash.io.png import Names, infotext, pixel_sha256, png_bytes, quote, read_infotext, read_png

PICTURE = Image.frombytes("RGB", (4, 3), bytes(range(36)))
LINE = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=30)
KEY = st.from_regex(r"[A-Z][a-z]{1,6}( [a-z]{1,6})?", fullmatch=True)


@settings(max_examples=60, deadline=None)
@given(prompt=st.lists(LINE, min_size=1, max_size=3).map("\n".join), negative=LINE, pairs=st.dictionaries(KEY, LINE.map(str.strip), min_size=3))
def test_the_infotext_grammar_is_read_back(prompt: str, negative: str, pairs: dict[str, str]) -> None:
    if re.search(r"^Negative prompt: ", prompt, re.MULTILINE):
        return
    assert read_infotext(infotext(prompt, negative, pairs)) == (prompt, negative, pairs)


def test_values_are_quoted_only_where_the_grammar_needs_it() -> None:
    assert quote("ddim") == "ddim"
    assert quote("DDIM(eta=0.5)") == "DDIM(eta=0.5)"
    assert quote("a, b: c\n") == '"a, b: c\\n"'
    text = infotext("a cat", "dog", {"Steps": 20, "Sampler": "Mix(a=1, b=2)", "CFG scale": 7})
    assert text == 'a cat\nNegative prompt: dog\nSteps: 20, Sampler: "Mix(a=1, b=2)", CFG scale: 7'
    assert read_infotext("a cat, steps: many") == ("a cat, steps: many", "", {})


@pytest.mark.parametrize("part", ["a", "a ", " ", "a:", 'a:"', ',a:"', 'a:"\\', ",", "a: \\,", '"'])
def test_a_long_text_of_a_stranger_is_read_in_one_pass(part: str) -> None:
    began = time.process_time()
    with contextlib.suppress(ValueError):                  # of a value that is quoted wrongly
        read_infotext("a cat\n" + "Steps: 20, " + part * 100_000 + "!")
    assert time.process_time() - began < 2


def test_a_file_holds_pixels_parameters_record_and_the_digital_source_type(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(PICTURE, "größe", {"request": {"prompt": "größe 🙂"}}))
    picture, record = read_png(path)
    assert picture.tobytes() == PICTURE.tobytes()
    assert record == {"request": {"prompt": "größe 🙂"}}
    with Image.open(path) as image:
        image.load()
        assert image.text["parameters"] == "größe"
        assert 'DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"' in image.text["XML:com.adobe.xmp"]


def test_the_pixel_hash_is_of_the_pixels_alone() -> None:
    again = Image.open(io.BytesIO(png_bytes(PICTURE, "other", {})))
    assert pixel_sha256(again) == pixel_sha256(PICTURE)
    changed = PICTURE.copy()
    changed.putpixel((0, 0), (1, 1, 2))
    assert pixel_sha256(changed) != pixel_sha256(PICTURE)


def test_files_that_are_no_pictures_of_ours(tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("<html>")
    (tmp_path / "empty.png").touch()
    data = png_bytes(PICTURE, "x", {"a": 1})
    (tmp_path / "cut.png").write_bytes(data[:-30])
    with pytest.raises(CheckpointError, match="no inkwash parameters"):
        read_png(tmp_path / "plain.png")
    for name in ("text", "empty", "nothing"):
        with pytest.raises(DataError):
            read_png(tmp_path / f"{name}.png")
    with pytest.raises((DataError, CheckpointError)):
        read_png(tmp_path / "cut.png")


def test_a_picture_that_claims_to_be_huge_is_not_read(tmp_path: Path) -> None:
    size, data = 20_000, bytearray(png_bytes(PICTURE, "x", {"a": 1}))
    data[16:24] = size.to_bytes(4, "big") * 2              # width and height of the header, with its checksum
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "huge.png").write_bytes(data)
    with pytest.raises(DataError) as caught:
        read_png(tmp_path / "huge.png")
    assert caught.value.code == "image_too_large"


def test_names_count_up_and_never_overwrite(tmp_path: Path) -> None:
    names = Names(str(tmp_path / "out"))
    names.prepare()
    first, second = names.save(b"1", 42), names.save(b"2", 42)
    assert (first.name, second.name) == ("00001-42.png", "00002-42.png")
    (tmp_path / "out" / "00009-7.png").touch()
    assert names.save(b"3", 1).name == "00010-1.png"
    one = Names(str(tmp_path / "cat.png"))
    one.prepare()
    assert [one.save(bytes([i]), 0).name for i in range(3)] == ["cat.png", "cat-2.png", "cat-3.png"]
    assert (tmp_path / "cat.png").read_bytes() == b"\0"
    assert re.fullmatch(r"outputs/\d{4}-\d\d-\d\d", Names(None).folder.as_posix())


def test_places_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "file" / "x.png", tmp_path / "file", Path("/proc/nowhere/x.png")):
        with pytest.raises(UsageError, match="cannot write"):
            Names(str(wrong)).prepare()
    for none in (str(tmp_path / ("n" * 300)), str(tmp_path / f"{'n' * 300}.png"), "a\0b", ""):
        with pytest.raises(UsageError, match=r"^-o ") as caught:
            Names(none)
        assert caught.value.code == "bad_path"
    names = Names(str(tmp_path / "gone"))
    names.prepare()
    (tmp_path / "gone").rmdir()
    with pytest.raises(UsageError, match="cannot write"):
        names.save(b"1", 1)
    for wrong in ("a.jpg", "b.webp"):
        with pytest.raises(UsageError, match=r"\.png"):
            Names(wrong)
