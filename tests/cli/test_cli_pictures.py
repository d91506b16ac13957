"""generate, reproduce, grid, inspect and list, on a tiny model."""

from __future__ import annotations

import dataclasses
import importlib
import io
import itertools
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from inkwash.cli.grid import read_axis
from inkwash.cli.inspect import flops, savings, text_of
from inkwash.cli.main import run
from inkwash.cli.settings import load
from inkwash.cli.sheet import draw
from inkwash.io.find import read_info
from inkwash.io.folder import load_part, save_part
from inkwash.io.info import Sizes
from inkwash.io.png import pixel_sha256, read_infotext, read_png
from inkwash.labels import read_label
from inkwash.sample import Sampler
from inkwash.value import alias_table

module = importlib.import_module("inkwash.cli.generate")       # the name of its function in the package
KEYS = {"path", "seed", "size", "sampler", "steps", "nfe", "seconds", "pixel_sha256", "warnings"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _json(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_ctrl_c_keeps_what_is_made_and_says_how_to_go_on(
        tiny_model: Path, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["generate", "a cat", "--model", str(tiny_model), "--seed", "5", "-n", "4"]
    assert run([*words, "-o", "whole"]) == 0
    real = module.produce

    def stopped(*given: Any) -> Iterator[Any]:
        yield from itertools.islice(real(*given), 3)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "produce", stopped)
    capsys.readouterr()
    assert run([*words, "-o", "part"]) == 130
    assert "stopped after 3 of 4 pictures; --seed 8 -n 1 makes the others" in capsys.readouterr().err
    assert run([*words, "-o", "silent", "-q"]) == 130
    assert "stopped" not in capsys.readouterr().err
    monkeypatch.setattr(module, "produce", real)
    assert run([*words[:5], "8", "-n", "1", "-o", "rest"]) == 0
    [last], [same] = (here / "rest").glob("*-8.png"), (here / "whole").glob("*-8.png")
    assert last.read_bytes() == same.read_bytes()


def test_pictures_get_their_own_files_and_print_their_paths(tiny_model: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", "a cat", "--model", str(tiny_model), "--seed", "5", "-n", "3"]) == 0
    out, err = capsys.readouterr()
    paths = [Path(line) for line in out.splitlines()]
    assert [path.name for path in paths] == ["00001-5.png", "00002-6.png", "00003-7.png"]
    assert paths[0].parent.parent.name == "outputs"
    assert err == ""
    assert run(["generate", "a cat", "--model", str(tiny_model), "--seed", "5"]) == 0
    again = Path(capsys.readouterr().out.strip())
    assert again.name == "00004-5.png"
    assert read_png(again)[0].tobytes() == read_png(paths[0])[0].tobytes() != read_png(paths[1])[0].tobytes()


def test_json_has_what_a_program_needs(tiny_model: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", "a red dog", "--model", str(tiny_model), "--steps", "3", "--sampler", "DDIM(eta=0.5)", "--guidance", "1", "--negative", "x",
             "--seed", "9", "-n", "2", "--size", "48x32", "--json", "-o", "pictures"]
    assert run(words) == 0
    first, second = _json(capsys)
    assert set(first) >= KEYS
    assert (first["seed"], second["seed"], first["size"], first["steps"], first["nfe"]) == (9, 10, "48x32", 3, 3)
    with Image.open(here / str(first["path"])) as image:
        assert image.size == (48, 32)
        assert pixel_sha256(image) == first["pixel_sha256"]
    text = " ".join(first["warnings"])
    assert "inert" in text
    assert "dog" in text
    assert "48x32" in text


def test_warnings_go_to_stderr_once_and_quiet_says_nothing(tiny_model: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", "a red dog", "--model", str(tiny_model), "-n", "2"]
    assert run(words) == 0
    err = capsys.readouterr().err
    assert err.startswith("inkwash: warning: the model never saw this word in training: dog")
    assert err.count("\n") == 1
    assert run([*words, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_the_parameters_in_the_file_are_the_effective_ones(tiny_model: Path, here: Path) -> None:
    assert run(["generate", "a cat, small", "--model", str(tiny_model), "--negative", "dog", "--seed", "3", "-o", "x.png"]) == 0
    with Image.open("x.png") as image:
        image.load()
        prompt, negative, settings = read_infotext(image.text["parameters"])
    info = read_info(tiny_model)
    assert (prompt, negative) == ("a cat, small", "dog")
    assert settings["Steps"] == str(info.defaults.steps)
    assert read_label(settings["Sampler"])[0] == info.defaults.sampler
    assert settings["Seed"] == "3"
    assert settings["Size"] == "32x32"
    assert settings["CFG scale"] == "3"
    record = read_png(Path("x.png"))[1]
    assert settings["Model hash"] == record["model_hash"][:10]
    assert record["request"]["steps"] == info.defaults.steps
    assert record["determinism"] in ("exact", "tolerance")


def test_an_existing_file_is_never_overwritten(tiny_model: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "x.png").write_bytes(b"precious")
    assert run(["generate", "a cat", "--model", str(tiny_model), "-o", "x.png", "-n", "2"]) == 0
    assert capsys.readouterr().out.split() == ["x-2.png", "x-3.png"]
    assert (here / "x.png").read_bytes() == b"precious"


def test_reproduce_says_same_different_other_model_or_no_parameters(tiny_model: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--model", str(tiny_model)]
    assert run(["generate", "a cat", *model, "-n", "3", "--seed", "1", "--sampler", "euler_a", "-o", "x.png"]) == 0
    capsys.readouterr()
    assert run(["reproduce", "x-3.png", *model, "-o", "again.png"]) == 0
    assert capsys.readouterr().out.startswith("same pixels: sha256 ")
    assert read_png(here / "again.png")[0].tobytes() == read_png(here / "x-3.png")[0].tobytes()

    picture, record = read_png(here / "x.png")
    from inkwash.io.png import png_bytes

    (here / "wrong.png").write_bytes(png_bytes(picture, "", {**record, "request": {**record["request"], "seed": 77}}))
    assert run(["reproduce", "wrong.png", *model, "--json"]) == 8
    out, err = capsys.readouterr()
    assert json.loads(out)["same"] is False
    assert "error[pixels_differ]" in err
    picture.putpixel((0, 0), (1, 2, 3))
    (here / "edited.png").write_bytes(png_bytes(picture, "", record))
    assert run(["reproduce", "edited.png", *model]) == 8
    assert "error[pixels_changed]" in capsys.readouterr().err
    picture.save("bare.png")
    assert run(["reproduce", "bare.png", *model]) == 4
    assert "error[no_parameters]" in capsys.readouterr().err
    (here / "strange.png").write_bytes(png_bytes(picture, "", {**record, "request": {"prompt": "x", "steps": -4}}))
    assert run(["reproduce", "strange.png", *model]) == 4
    assert "error[bad_parameters]" in capsys.readouterr().err
    other = Path(shutil.copytree(tiny_model, here / "other"))
    part = load_part(other, "conditioner")
    part.token.data.add_(1)
    save_part(other, "conditioner", part)
    assert run(["reproduce", "x.png", "--model", str(other)]) == 4
    assert "error[model_differs]" in capsys.readouterr().err
    assert run(["reproduce", "x.png"]) == 4
    assert "error[model_not_found]" in capsys.readouterr().err


def test_a_grid_has_a_cell_for_each_pair_and_the_cells_are_the_pictures_of_generate(tiny_model: Path, here: Path,
                                                                                   capsys: pytest.CaptureFixture[str]) -> None:
    words = ["grid", "a cat", "--x", "guidance=1,3,7.5", "--y", "seed=1..4", "--model", str(tiny_model), "-o", "g.png", "--json"]
    assert run(words) == 0
    [found] = _json(capsys)
    assert found["pictures"] == 12
    sheet, record = read_png(here / "g.png")
    assert found["size"] == f"{sheet.width}x{sheet.height}"
    assert [request["seed"] for request in record["requests"]] == [seed for seed in range(1, 5) for _ in range(3)]
    assert run(["generate", "a cat", "--model", str(tiny_model), "--guidance", "7.5", "--seed", "4", "-o", "one.png", "--quiet"]) == 0
    one = read_png(here / "one.png")[0]
    corner = sheet.crop((sheet.width - 6 - 32, sheet.height - 6 - 32, sheet.width - 6, sheet.height - 6))
    assert corner.tobytes() == one.tobytes()
    assert run(["reproduce", "g.png", "--model", str(tiny_model)]) == 4


def test_axes_of_prompts_and_samplers(tiny_model: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    axes = ["--x", "prompt=a cat, small|two cones", "--y", "sampler=ddim,DDIM(eta=0.5),heun"]
    assert run(["grid", *axes, "--model", str(tiny_model), "-o", "g.png"]) == 0
    requests = read_png(here / "g.png")[1]["requests"]
    assert [request["prompt"] for request in requests[:2]] == ["a cat, small", "two cones"]
    assert [request["sampler"] for request in requests[::2]] == ["ddim", "DDIM(eta=0.5)", "heun"]
    assert len({request["seed"] for request in requests}) == 1
    capsys.readouterr()
    assert read_axis("seed=1..3,7", "--x").values == ("1", "2", "3", "7")


def test_labels_are_drawn_and_cells_stay_where_they_belong() -> None:
    pictures = [Image.new("RGB", (40, 30), (value, 0, 0)) for value in (10, 20, 30, 40, 50, 60)]
    sheet = draw(pictures, ["one", "a label that is far too long for its column and is cut", "three"], ["seed 1", "seed 2"])
    right, bottom = sheet.width - 26, sheet.height - 16
    cells = [sheet.getpixel((right - (2 - x) * 46, bottom - (1 - y) * 36)) for y in range(2) for x in range(3)]
    assert [cell[0] for cell in cells] == [10, 20, 30, 40, 50, 60]
    header = sheet.crop((0, 0, sheet.width, sheet.height - 2 * 36))
    assert header.getcolors() is None or len(header.getcolors()) > 4


def test_inspect_counts_what_is_there(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(tiny_model), "--json"]) == 0
    [found] = _json(capsys)
    unet = next(part for part in found["parts"] if part["part"] == "unet")
    assert unet["parameters"] == sum(parameter.numel() for parameter in load_part(tiny_model, "unet").parameters())
    assert unet["dtype"] == "float32"
    assert found["terminal_leak"] == 0.0
    assert found["prediction"] == "V()"
    assert found["codec"]["std"] == [1.0, 1.1, 0.9, 1.0]
    assert found["determinism"] in ("exact", "tolerance")
    assert found["vocabulary"]["cat"] == 1
    assert run(["inspect", str(tiny_model)]) == 0
    text = capsys.readouterr().out
    for piece in ("terminal leak", "vocabulary", "determinism", "mean 0.100", "license", "unet"):
        assert piece in text


def test_inspect_keeps_long_names_apart_from_their_numbers(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(tiny_model), "--json"]) == 0
    [found] = _json(capsys)
    found["card"]["evaluation"] = {
        "numbers": {"fd": [38.27, 26.88, 52.31]}, "distance": "fd_at_n", "parts": {"reconstructed to sampled": [38.06, 26.78, 51.98]}, "settings": {},
        "level": 0.95, "num": 8, "seeds": [0, 7], "reference": "8 pictures", "extractor": "ink", "extractor_hash": "0" * 64, "date": "2026-11-22",
        "inkwash": "0.1.0"}
    assert re.search(r"N, reconstructed to sampled  +38\.06 ", text_of(found, 0))


def test_L1_numbers_positions_and_operations_are_counted_separately(tiny_model: Path) -> None:
    found = savings(512, 512, 4, 8)
    assert (found["image_numbers"], found["latent_numbers"]) == (786_432, 16_384)
    assert (found["times_fewer_numbers"], found["times_fewer_positions"]) == (48, 64)
    pipeline = load(tiny_model, "cpu")
    first = flops(pipeline)
    pipeline.info = dataclasses.replace(pipeline.info, sizes=Sizes((64, 32), 16, 64, 16))
    assert 1.8 < flops(pipeline)["decoding"] / first["decoding"] < 2.2
    assert flops(pipeline)["evaluation"] > 1.5 * first["evaluation"] > 0


def test_list_is_the_registry(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "--json"]) == 0
    [found] = _json(capsys)
    assert {item["name"] for item in found["samplers"]} >= set(alias_table(Sampler)) >= {"ddim", "ddpm", "euler_a", "heun", "dpmpp_2m", "unipc"}
    assert {item["name"] for item in found["spacings"]} >= {"karras", "trailing"}
    assert all(found[kind] for kind in ("schedules", "predictions", "guidances", "networks"))
    assert run(["list", "predictions"]) == 0
    assert "V()" in capsys.readouterr().out


def test_a_bar_is_drawn_on_a_terminal_only(tiny_model: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def __init__(self, terminal: bool) -> None:
            super().__init__()
            self.terminal = terminal

        def isatty(self) -> bool:
            return self.terminal

    words = ["generate", "a cat", "--model", str(tiny_model)]
    shown = []
    for terminal, more in ((True, []), (False, []), (True, ["--quiet"])):
        err = Terminal(terminal)
        monkeypatch.setattr("sys.stderr", err)
        assert run([*words, *more]) == 0
        shown.append(err.getvalue())
    assert "steps" in shown[0]
    assert shown[1:] == ["", ""]
