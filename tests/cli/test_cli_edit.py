"""generate and reproduce from a picture, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inkwash.cli.main import run
from inkwash.io.png import read_infotext, read_png


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("in.png")
    Image.fromarray(pixels[::-1].copy()).save("other.png")
    mask = np.zeros((32, 32), dtype=np.uint8)
    mask[:, :16] = 255
    Image.fromarray(mask).save("mask.png")
    Image.fromarray(mask[:16]).save("small.png")
    return tmp_path


def test_an_edit_says_how_it_was_made_and_is_made_again(tiny_model: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", str(tiny_model)]
    assert run(["generate", "a small red cube", *words, "--steps", "5", "--seed", "2", "-o", "out.png", "--image", "in.png", "--mask", "mask.png",
                "--strength", "0.6", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["rows"], said["steps"], said["strength"], said["image"]["size"]) == (3, 5, 0.6, "32x32")
    made, record = read_png(Path("out.png"))
    assert record["request"]["image"] == said["image"]
    assert record["request"]["mask"]["sha256"] == said["mask"]["sha256"] != said["image"]["sha256"]
    with Image.open("out.png") as image, Image.open("in.png") as original:
        assert read_infotext(image.text["parameters"])[2]["Denoising strength"] == "0.6"
        assert np.array_equal(np.asarray(made)[:, 16:], np.asarray(original)[:, 16:])

    again = ["reproduce", "out.png", *words]
    assert run([*again, "--image", "in.png", "--mask", "mask.png"]) == 0
    capsys.readouterr()
    for given, code, text in ((["--mask", "mask.png"], 2, f"sha256 {said['image']['sha256'][:16]}"), (["--image", "in.png"], 2, "--mask"),
                              (["--image", "other.png", "--mask", "mask.png"], 3, "error[image_differs]"),
                              (["--image", "in.png", "--mask", "small.png"], 2, "error[mask_size_differs]")):
        assert run([*again, *given]) == code
        assert text in capsys.readouterr().err


def test_without_a_picture_the_record_is_as_it_was(tiny_model: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", "a small red cube", "--model", str(tiny_model), "--steps", "1", "-o", "out.png"]) == 0
    assert not {"image", "mask", "strength"} & set(read_png(Path("out.png"))[1]["request"])
    assert run(["reproduce", "out.png", "--model", str(tiny_model), "--image", "in.png"]) == 2
    assert "made without image" in capsys.readouterr().err


@pytest.mark.parametrize(("options", "code", "text"), [
    ("--strength 0.5", 2, "needs_image"), ("--mask mask.png", 2, "needs_image"), ("--image in.png --strength 0", 2, "bad_strength"),
    ("--image in.png --strength 2", 2, "bad_strength"), ("--image in.png --strength much", 2, "bad_strength"),
    ("--image in.png --mask small.png", 2, "mask_size_differs"), ("--image nowhere.png", 3, "file_not_found"),
    ("--image words.txt", 3, "image_format"), ("--image .", 3, "image_unreadable")])
def test_bad_edits_end_in_one_line(options: str, code: int, text: str, tiny_model: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("words.txt").write_text("no picture")
    assert run(["generate", "a cube", "--model", str(tiny_model), "-o", "out.png", *options.split()]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert f"error[{text}]" in err
    assert err.count("\n") == 1
    assert not Path("out.png").exists()


def test_a_picture_that_is_cut_is_a_warning(tiny_model: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (40, 48), "red").save("tall.png")
    words = ["generate", "a small red cube", "--model", str(tiny_model), "--steps", "1", "--image", "tall.png"]
    assert run(words) == 0
    assert "40x48 was cut to its middle and resized to 32x32" in capsys.readouterr().err
    assert run([*words, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
