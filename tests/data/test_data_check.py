"""`inkwash data check` and `inkwash data make`: what they report, write and answer."""

import json
from pathlib import Path

import numpy as np
import pytest
from data_examples import encoded, examples, picture, write_captions, write_tar
from PIL import Image

from inkwash.cli.data import check, make
from inkwash.cli.main import run
from inkwash.data.check import examine
from inkwash.data.source import open_source
from inkwash.errors import DataError, UsageError


def photo(number: int) -> Image.Image:
    noise = np.random.default_rng(number).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((60, 48), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [(f"{number:04d}", encoded(photo(number)), f"a picture of the number {number}") for number in range(12)]
    rows.append(("twin", encoded(photo(3)), ""))                                        # the same pixels
    rows.append(("nearly", encoded(photo(5), "JPEG"), "a picture of the number 1"))     # the same picture, stored with loss
    write_captions(tmp_path / "set", rows)
    (tmp_path / "set" / "broken.png").write_bytes(encoded(photo(1))[:200])
    return tmp_path / "set"


def test_the_report_counts_what_is_there(folder: Path) -> None:
    report = examine(open_source(folder))
    assert report.images == 15
    assert [entry["key"] for entry in report.unreadable] == ["broken.png"]
    assert report.sizes == {"60x48": 14}
    assert (report.smallest, report.largest) == ((60, 48), (60, 48))
    assert report.captions["count"] == 14
    assert report.captions["empty"] == 1
    assert report.captions["words"] == 13 * 6
    assert report.captions["vocabulary"] == 5 + 12
    assert report.captions["duplicates"] == 1
    assert report.duplicates == [["0003.png", "twin.png"]]
    assert report.near_duplicates == [["0005.png", "nearly.png"]]


def test_sizes_are_told_apart(tmp_path: Path) -> None:
    rows = [(f"{n}", encoded(picture(n, 24 + 8 * (n % 3), 20)), "x") for n in range(9)]
    report = examine(open_source(write_tar(tmp_path / "a.tar", rows)))
    assert report.sizes == {"24x20": 3, "32x20": 3, "40x20": 3}
    assert (report.smallest, report.largest) == ((24, 20), (40, 20))


def test_unreadable_images_decide_the_exit_status(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(str(folder)) == 3                                                      # 1 of 15 is more than 2 %
    text = capsys.readouterr().out
    assert "unreadable: 1 of 15 (more than the limit of 2%)" in text
    assert str(folder / "broken.png") in text
    assert check(str(folder), limit=0.1) == 0
    (folder / "broken.png").unlink()
    (folder / "data.sha256.jsonl").unlink()
    capsys.readouterr()
    assert check(str(folder), json_=True) == 0
    loaded = json.loads(capsys.readouterr().out)
    assert loaded["images"] == 14
    assert loaded["too_many_unreadable"] is False


def test_the_manifest_finds_one_flipped_byte_that_still_decodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(f"{number:04d}", encoded(photo(number), "JPEG"), "a photo") for number in range(10)]
    folder = tmp_path / "set"
    write_captions(folder, rows)
    assert check(str(folder)) == 0
    assert check(str(folder)) == 0
    assert "10 of 10 as in" in capsys.readouterr().out
    path = folder / "0004.png"
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(bytes(data))
    assert check(str(folder)) == 3
    text = capsys.readouterr().out
    assert "unreadable: 0 of 10" in text                                                # it decodes in silence
    assert "1 of 10 changed, 0 missing, 0 new" in text
    assert "changed: 0004.png" in text
    (folder / "0005.txt").write_text("another photo")
    (folder / "0006.png").unlink()
    (folder / "new.png").write_bytes(encoded(photo(77)))
    assert check(str(folder)) == 3
    assert "2 of 10 changed, 1 missing, 1 new" in capsys.readouterr().out


def test_manifests_go_where_they_are_asked_to_and_must_be_readable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tar = write_tar(tmp_path / "a.tar", examples(4))
    assert check(str(tar)) == 0
    assert len((tmp_path / "a.sha256.jsonl").read_text().splitlines()) == 4
    assert check(str(tar), manifest=tmp_path / "deep" / "sums.jsonl") == 0
    assert (tmp_path / "deep" / "sums.jsonl").is_file()
    (tmp_path / "a.sha256.jsonl").write_text("not json\n")
    with pytest.raises(DataError, match="line 1"):
        check(str(tar))
    capsys.readouterr()


def test_t20_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "missing"):
        assert run(["data", "check", str(tmp_path / name)]) == 3
        text = capsys.readouterr().err
        assert text.startswith("inkwash: error[data_")
        assert text.count("\n") == 1
        assert name in text
        assert "metadata.jsonl" in text
        assert len(text) <= 401
    assert run(["data", "check", str(write_tar(tmp_path / "a.tar", examples(3))), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 3


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="0 to 1"):
        check(str(write_tar(tmp_path / "a.tar", examples(1))), limit=2)
    with pytest.raises(UsageError, match="known: scenes"):
        make("scene", num=1, out=tmp_path / "x")
    for settings in ({"num": 0}, {"num": 1, "size": 8}, {"num": 1, "seed": -1}, {"num": 1, "format": "zip"}):
        with pytest.raises(UsageError):
            make("scenes", out=tmp_path / "x", **settings)
    with pytest.raises(DataError, match="not an empty folder") as caught:
        make("scenes", num=1, out=tmp_path)
    assert caught.value.code == "exists"
    assert not (tmp_path / "x").exists()


def test_scenes_are_the_same_in_every_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = open_source("scenes:3:9")
    for kind in ("parquet", "folder", "tar"):
        if kind == "parquet":
            pytest.importorskip("pyarrow")
        assert make("scenes", num=3, out=tmp_path / kind, seed=9, format=kind) == 0
        path = capsys.readouterr().out.strip()
        source = open_source(path)
        assert len(source) == 3
        for number in range(3):
            item, wanted = source[number], drawn[number]
            assert (item.image, item.caption) == (wanted.image, wanted.caption)
            labels = item.meta.get("scene", item.meta)
            labels = json.loads(labels) if isinstance(labels, str) else labels
            assert {name: labels[name] for name in wanted.meta["scene"]} == wanted.meta["scene"]


def test_folders_with_the_same_names_keep_their_own_sums(tmp_path: Path) -> None:
    folders = [write_captions(tmp_path / name, examples(3)) for name in ("a", "b")]
    manifest = tmp_path / "sums.jsonl"
    assert "6 sums" in examine(open_source(folders), manifest=manifest).manifest
    assert examine(open_source(folders), manifest=manifest).manifest.startswith("6 of 6 as in")
    (folders[0] / "0001.txt").write_text("changed")
    assert examine(open_source(folders), manifest=manifest).changed == ["0001.png"]
