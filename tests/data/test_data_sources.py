"""Every reader gives the same items, by number, without keeping them in memory."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from data_examples import examples, write_captions, write_metadata, write_parquet, write_tar

from inkwash.data.source import Mixture, Source, distinct, open_source, origin
from inkwash.errors import DataError, UsageError

WRITERS = {
    "parquet file": lambda path, rows: write_parquet(path / "a.parquet", rows),
    "parquet of plain bytes": lambda path, rows: write_parquet(path / "a.parquet", rows, struct=False, text="text"),
    "parquet folder": lambda path, rows: [write_parquet(path / "a.parquet", rows[:5]), write_parquet(path / "b.parquet", rows[5:])] and path,
    "metadata.jsonl": lambda path, rows: write_metadata(path / "m", rows),
    "metadata.jsonl with text": lambda path, rows: write_metadata(path / "m", rows, text="text"),
    "txt captions": lambda path, rows: write_captions(path / "c", rows),
    "tar": lambda path, rows: write_tar(path / "a.tar", rows),
    "tar with json": lambda path, rows: write_tar(path / "a.tar", rows, as_json=True),
    "tar folder": lambda path, rows: [write_tar(path / "a.tar", rows[:3]), write_tar(path / "b.tar", rows[3:])] and path,
    "two paths": lambda path, rows: [write_tar(path / "a.tar", rows[:3]), write_captions(path / "c", rows[3:])],
}


@pytest.fixture(params=WRITERS, ids=lambda name: name.replace(" ", "-"))
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    return open_source(WRITERS[request.param](tmp_path, examples(11)))


def test_every_format_gives_the_same_items_at_random_positions(opened: Source) -> None:
    rows = examples(11)
    assert len(opened) == 11
    for number in [7, 0, 10, 3, 3, 9, 1]:
        item = opened[number]
        assert (item.image, item.caption) == rows[number][1:]
        assert opened.caption(number) == item.caption
        assert opened.key(number) == item.key
        assert Path(opened.where(number).split(" row ")[0].split(" member ")[0]).is_file()
    assert len({opened.key(number) for number in range(11)}) == 11
    with pytest.raises(IndexError):
        opened[11]
    with pytest.raises(IndexError):
        opened[-1]


@pytest.mark.parametrize("name", WRITERS)
def test_the_fingerprint_is_the_data_and_not_its_place(name: str, tmp_path: Path) -> None:
    rows = examples(11)
    prints = []
    for place, members in (("here", rows), ("there", rows), ("fewer", rows[:-1]), ("reordered", [*rows[:-2], rows[-1], rows[-2]])):
        (tmp_path / place).mkdir()
        prints.append(open_source(WRITERS[name](tmp_path / place, members)).fingerprint)
    assert prints[0] == prints[1] != prints[2]
    if "captions" not in name and name != "two paths":                                  # files of a folder come in the order of their names
        assert prints[0] != prints[3]


def test_an_index_is_all_that_stays_in_memory(tmp_path: Path) -> None:
    rows = [(name, data + bytes(200_000), caption) for name, data, caption in examples(60)]   # 12 MB of images
    for path in (write_tar(tmp_path / "a.tar", rows), write_metadata(tmp_path / "m", rows)):
        tracemalloc.start()
        source = open_source(path)
        for number in range(60):
            source[number]
        held, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held < 200_000
        assert peak < 2_000_000


def test_parquet_keeps_row_groups_up_to_its_budget(tmp_path: Path) -> None:
    from inkwash.data.parquet import Parquet

    rows = [(name, data + bytes(100_000), caption) for name, data, caption in examples(40)]
    source = Parquet([write_parquet(tmp_path / "a.parquet", rows)], budget_bytes=1_000_000)
    for number in range(40):
        source[number]
        assert sum(table.nbytes for table in source._tables.values()) <= 1_000_000


def test_weights_repeat_and_origin_undoes_them(tmp_path: Path) -> None:
    rows = examples(7)
    first, second = write_tar(tmp_path / "a.tar", rows[:4]), write_captions(tmp_path / "c", rows[4:])
    source = open_source([f"{first}*2", second])
    assert isinstance(source, Mixture)
    assert len(source) == 11
    assert [source.caption(number) for number in range(11)] == [rows[number][2] for number in [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6]]
    assert len(distinct(source)) == 7
    assert np.array_equal(origin(source, np.arange(11)), [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6])
    assert "x2" in source.describe()
    with pytest.raises(DataError, match="weight"):
        open_source(f"{first}*0")


def test_numbered_folders_repeat_and_lend_their_name(tmp_path: Path) -> None:
    rows = examples(5)
    write_captions(tmp_path / "set" / "3_red mug", rows[:2])
    (tmp_path / "set" / "3_red mug" / "0001.txt").unlink()
    write_captions(tmp_path / "set" / "other" / "deeper", rows[2:])
    source = open_source(tmp_path / "set")
    assert len(source) == 2 * 3 + 3
    assert sorted({source.caption(number) for number in range(9)}) == ["picture number 0", "picture number 2", "picture number 3",
                                                                       "picture number 4", "red mug"]


def test_bytes_of_a_name_with_dots_and_folders_in_a_tar(tmp_path: Path) -> None:
    rows = [(f"deep/er/{name}", data, caption) for name, data, caption in examples(3)]
    source = open_source(write_tar(tmp_path / "a.tar", rows))
    assert [source[number].caption for number in range(3)] == [caption for _, _, caption in rows]


def test_t20_empty_folder_text_files_missing_and_wrong(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    for number in range(3):
        (tmp_path / "texts" / f"{number}.txt").write_text("words")
    (tmp_path / "a.zip").write_bytes(b"PK")
    (tmp_path / "b.parquet").write_bytes(b"not parquet")
    (tmp_path / "b.tar").write_bytes(b"not a tar at all")
    cases = {"empty": "data_empty", "texts": "data_empty", "missing": "data_missing", "a.zip": "data_format", "b.parquet": "data_unreadable",
             "b.tar": "data_unreadable"}
    for name, code in cases.items():
        with pytest.raises(DataError) as caught:
            open_source(tmp_path / name)
        assert caught.value.code == code
        assert caught.value.exit_code == 3
        assert name in caught.value.message
        if code in ("data_empty", "data_missing", "data_format"):
            assert all(word in caught.value.message for word in ("Parquet", "metadata.jsonl", "WebDataset"))
    with pytest.raises(DataError, match="found 0 images among 3 files"):
        open_source(tmp_path / "texts")


def test_t20_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "closed").mkdir()
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"no permission to read .*closed") as caught:
        open_source(tmp_path / "closed")
    assert caught.value.code == "data_permission"


def test_two_kinds_in_a_folder_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", examples(2))
    write_captions(tmp_path, examples(2))
    with pytest.raises(DataError, match="1 tar shards and 2 images") as caught:
        open_source(tmp_path)
    assert caught.value.code == "data_mixed"


DEEP = '{"file_name": "a.png", "x": ' + "[" * 100_000 + "]" * 100_000 + "}"


@pytest.mark.parametrize("line", ["{", "[]", '{"file_name": "a\\u0000.png"}', DEEP, '{"caption": "x"}',
                                  '{"file_name": "../../secret.png"}', '{"file_name": "/etc/x.png"}'],
                         ids=lambda line: line[:40].replace("\0", ""))
def test_bad_metadata_is_named(line: str, tmp_path: Path) -> None:
    folder = write_metadata(tmp_path / "m", examples(1))
    with (folder / "metadata.jsonl").open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(DataError) as caught:
        open_source(folder)
    assert caught.value.code == "bad_metadata"


def test_parquet_without_an_image_column(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table({"picture": [b"x"], "caption": ["y"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="its columns are picture, caption"):
        open_source(tmp_path / "a.parquet")


def test_missing_pyarrow_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(UsageError) as caught:
        open_source(tmp_path / "a.parquet")
    assert caught.value.code == "missing_extra"
    assert 'pip install -e ".[train]"' in caught.value.message


def test_captions_lists_and_other_fields(tmp_path: Path) -> None:
    folder = write_metadata(tmp_path / "m", examples(1))
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "images/0000.png", "text": ["first", "second"], "label": 4}))
    item = open_source(folder)[0]
    assert item.caption == "first"
    assert item.meta["label"] == 4


def test_the_shared_data_opens() -> None:
    folder = Path(__file__).parents[3] / "shared" / "data"
    if not (folder / "emoji.parquet").is_file():
        pytest.skip("../shared/data is not beside this checkout")
    source = open_source([folder / "emoji.parquet", folder / "clothing-train.parquet"])
    assert len(source) == 3543 + 3068
    assert source.caption(0).startswith("emoji of ")
    assert source.caption(6000).startswith("photo of ")
    assert source[6000].image[:2] == b"\xff\xd8"


def test_a_dangling_link_is_an_unreadable_image(tmp_path: Path) -> None:
    write_captions(tmp_path, examples(3))
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    source = open_source(str(tmp_path))
    with pytest.raises(DataError, match=r"gone\.png"):
        source[[source.key(i) for i in range(len(source))].index("gone.png")]


@pytest.mark.parametrize("paths", [None, 3, [None], ["scenes:3", 3]])
def test_what_is_no_path_is_named(paths: object) -> None:
    with pytest.raises(UsageError, match="data must be") as caught:
        open_source(paths)  # type: ignore[arg-type]
    assert caught.value.code == "bad_path"
