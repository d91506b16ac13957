"""Caches: complete or absent, one per key, and what they hold is what the encoder gave."""

import hashlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from data_examples import encoded, examples, picture, write_tar

from inkwash.data import arrays
from inkwash.data.arrays import cached_array
from inkwash.data.buckets import Bucketed, image_sizes, nearest, shapes
from inkwash.data.cache import LatentCache, TokenCache
from inkwash.data.loader import Loader
from inkwash.data.source import open_source
from inkwash.errors import ResourceError, UsageError


def squares(calls: list[range]):
    def compute(rows: range) -> np.ndarray:
        calls.append(rows)
        return np.array([[row, row * row] for row in rows])
    return compute


def test_an_array_is_computed_once_per_key(tmp_path: Path) -> None:
    calls: list[range] = []
    for _ in range(2):
        array = cached_array(tmp_path / "a-key", 10, (2,), "int32", squares(calls), chunk=4)
        assert np.array_equal(array[:, 1], np.arange(10) ** 2)
        assert array.dtype == np.int32
    assert calls == [range(4), range(4, 8), range(8, 10)]
    for name, count in (("a-other", 10), ("a-key", 9)):
        cached_array(tmp_path / name, count, (2,), "int32", squares(calls), chunk=4)
    assert len(calls) == 9
    with pytest.raises(ValueError):
        array[0] = 1                                                                    # read-only
    assert cached_array(tmp_path / "none", 0, (2,), "int32", squares([])).shape == (0, 2)


def test_what_an_interrupted_build_had_finished_is_found_again(tmp_path: Path) -> None:
    folder, calls, told = tmp_path / "a-key", [], []

    def dies(rows: range) -> np.ndarray:
        if rows.start >= 8:
            raise KeyboardInterrupt
        return squares([])(rows)

    with pytest.raises(KeyboardInterrupt):
        cached_array(folder, 12, (2,), "int32", dies, chunk=4)
    cached_array(folder, 12, (2,), "int32", squares(calls), chunk=4, progress=lambda *now: told.append(now))
    assert calls == [range(8, 12)]
    assert told == [(8, 12, "a"), (12, 12, "a")]
    marks = sorted(folder.glob("*.json"))
    marks[0].write_bytes(b"")                                                           # killed before its note
    marks[1].write_bytes(marks[1].read_bytes()[:-1])                                    # or in it
    cached_array(folder, 12, (2,), "int32", squares(calls), chunk=4)
    assert calls[1:] == [range(4), range(4, 8)]
    (folder / "rows.npy").write_bytes((folder / "rows.npy").read_bytes()[:-8])          # cut short afterwards
    assert cached_array(folder, 12, (2,), "int32", squares(calls), chunk=4)[11, 1] == 121
    assert len(calls) == 6
    assert not list(folder.glob(".partial*"))


def test_long_arrays_have_few_pieces_of_whole_chunks(tmp_path: Path) -> None:
    calls: list[range] = []
    array = cached_array(tmp_path / "a", 5003, (2,), "int64", squares(calls), chunk=3)
    assert np.array_equal(array[:, 1], np.arange(5003) ** 2)
    assert [rows.start for rows in calls] == list(range(0, 5003, 3)), "chunks begin where they do without pieces"
    assert len(list((tmp_path / "a").glob("*.json"))) == 239


def helper(folder: str, slow: str) -> None:
    """One of several processes that want the same array; a slow one is killed in its second chunk."""
    def compute(rows: range) -> np.ndarray:
        if slow and rows.start:
            Path(folder, f"stuck-{slow}").touch()
            time.sleep(600)
        time.sleep(0.02)
        print(rows.start, flush=True)
        return np.sqrt(np.arange(rows.start, rows.stop, dtype=np.float64))[:, None]

    array = cached_array(Path(folder) / "a-key", 40, (1,), "float64", compute, chunk=4)
    print("sum", hashlib.sha256(array.tobytes()).hexdigest(), flush=True)


def start(folder: Path, slow: str = "") -> subprocess.Popen[str]:
    code = f"import sys; sys.path[:0] = {sys.path!r}; from test_data_caches import helper; helper({str(folder)!r}, {slow!r})"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def until(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 100
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_processes_share_the_work_and_a_killed_one_blocks_nobody(tmp_path: Path) -> None:
    killed = start(tmp_path, slow="x")
    until(lambda: (tmp_path / "stuck-x").exists())
    both = [start(tmp_path) for _ in range(2)]
    until(lambda: sum(mark.stat().st_size > 0 for mark in (tmp_path / "a-key").glob("*.json")) == 9)
    assert [process.poll() for process in both] == [None, None], "they wait for the last piece"
    killed.kill()
    assert killed.communicate()[0].split() == ["0"]
    said = [process.communicate(timeout=100)[0].split() for process in both]
    assert len({words[-1] for words in said}) == 1
    done = [int(word) for words in said for word in words[:-2]]
    assert sorted(done) == list(range(4, 40, 4)), "the rest was computed once, the piece of the killed process too"
    alone = cached_array(tmp_path / "alone", 40, (1,), "float64", lambda rows: np.sqrt(np.arange(rows.start, rows.stop))[:, None], chunk=4)
    assert (tmp_path / "alone" / "rows.npy").read_bytes() == (tmp_path / "a-key" / "rows.npy").read_bytes()
    assert hashlib.sha256(alone.tobytes()).hexdigest() == said[0][-1]


def test_a_full_disk_is_a_resource_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(arrays.os, "posix_fallocate", full)
    with pytest.raises(ResourceError, match=r"needs 0\.4 MiB") as caught:
        cached_array(tmp_path / "a-key", 50_000, (2,), "int32", squares([]))
    assert (caught.value.code, caught.value.exit_code) == ("disk_full", 5)
    assert [path.name for path in (tmp_path / "a-key").iterdir()] == [".lock"], "nothing takes the room that is left"


def test_latents_follow_batches_and_flips_and_encoders(tmp_path: Path) -> None:
    source = open_source(f"{write_tar(tmp_path / 'a.tar', examples(9))}*2")
    runs: list[int] = []

    def encode(images: torch.Tensor) -> torch.Tensor:
        runs.append(len(images))
        return torch.nn.functional.avg_pool2d(images.float(), 4) / 255

    with Loader(source, 6, size=16, flip=True) as loader:
        for encoder in ("one", "one", "two"):
            cache = LatentCache(loader, tmp_path / "cache", encode, encoder=encoder, shape=(3, 4, 4))
        assert sum(runs) == 2 * 18                                                      # 9 items and their mirror images, for two encoders
        batch = loader.batch(4)
        assert batch.flipped.any()
        assert torch.equal(cache.take(batch.index, batch.flipped), encode(batch.images))


def test_latents_belong_to_the_pictures_that_a_loader_makes(tmp_path: Path) -> None:
    """Cropped and padded pictures of one size have other latents, and so have those of other sizes, shapes and types."""
    source, runs = open_source(write_tar(tmp_path / "a.tar", examples(3))), []

    def encode(images: torch.Tensor) -> torch.Tensor:
        runs.append(len(images))
        return images.float().mean((2, 3))

    usual = {"size": 16, "mode": "crop", "flip": False, "dtype": "float32"}
    changed = [{}, {"mode": "pad"}, {"size": 8}, {"flip": True}, {"dtype": "float16"}, {}]
    for settings in ({**usual, **changes} for changes in changed):
        dtype = settings.pop("dtype")
        with Loader(source, 3, prefetch=0, **settings) as loader:
            cache = LatentCache(loader, tmp_path / "cache", encode, encoder="one", shape=(3,), dtype=dtype)
            batch = loader.batch(0)
            expected = batch.images.float().mean((2, 3))
            assert torch.allclose(cache.take(batch.index, batch.flipped), expected, rtol=1e-3)
    assert runs == [3, 3, 3, 6, 3], "the last one was there"


def test_latents_of_buckets_are_refused(tmp_path: Path) -> None:
    source = open_source(write_tar(tmp_path / "a.tar", examples(4)))
    with Loader(source, 2, size=shapes(64)) as loader, pytest.raises(UsageError, match="one size"):
        LatentCache(loader, tmp_path, lambda x: x, encoder="e", shape=(1,))


def test_tokens_depend_on_captions_and_encoder(tmp_path: Path) -> None:
    runs: list[str] = []

    def encode(captions: list[str]) -> np.ndarray:
        runs.extend(captions)
        return np.array([[len(caption), ord(caption[-1])] for caption in captions])

    source = open_source(write_tar(tmp_path / "a.tar", examples(5)))
    renamed = open_source(write_tar(tmp_path / "b.tar", [(n, d, c.replace("number", "Number")) for n, d, c in examples(5)]))
    for data, encoder in ((source, "x"), (source, "x"), (source, "y"), (renamed, "x")):
        cache = TokenCache(data, tmp_path / "cache", encode, encoder=encoder, shape=(2,))
    assert len(runs) == 15
    assert cache.take(torch.tensor([3, 1])).tolist() == [[16, ord("3")], [16, ord("1")]]


def test_shapes_have_about_one_area_and_the_nearest_is_chosen() -> None:
    found = shapes(256, 32, 2.0)
    assert (256, 256) in found
    assert all(h % 32 == w % 32 == 0 and 0.75 * 256**2 <= h * w <= 256**2 and 0.5 <= w / h <= 2 for h, w in found)
    assert {(w, h) for h, w in found} == set(found)
    chosen = nearest(np.array([[500, 500], [300, 600], [900, 300], [480, 640]]), found)
    assert [found[number] for number in chosen][:2] == [(256, 256), found[-1]]
    assert found[chosen[2]] == found[0]
    assert abs(np.log(found[chosen[3]][1] / found[chosen[3]][0]) - np.log(640 / 480)) < 0.2
    for size, step, ratio in ((100, 32, 2.0), (64, 32, 0.5), (64, 0, 2.0)):
        with pytest.raises(UsageError):
            shapes(size, step, ratio)


def test_buckets_cover_every_item_each_epoch_and_ranks_agree(tmp_path: Path) -> None:
    sizes = [(24, 20), (48, 20), (20, 48), (22, 22)]
    rows = [(f"{n:04d}", encoded(picture(n, *sizes[n % 4 if n < 40 else 0])), f"picture {n}") for n in range(43)]
    rows.append(("zzzz", encoded(picture(1, 90, 20)), "alone in its shape"))
    source = open_source(write_tar(tmp_path / "a.tar", rows))
    assert np.array_equal(image_sizes(source), image_sizes(source, tmp_path / "cache"))
    order = Bucketed(source, image_sizes(source), 4, 7, shapes(64, 16))
    assert min(map(len, order.members)) >= 4
    epochs = [np.concatenate([order.at(epoch * int(order.steps_per_epoch) + step).index for step in range(int(order.steps_per_epoch))])
              for order in (order, Bucketed(source, image_sizes(source), 4, 8, shapes(64, 16))) for epoch in (0, 1)]
    assert len({tuple(epoch) for epoch in epochs}) == 4, "every epoch and seed has an order of its own"
    shown = [tuple(order.at(epoch * int(order.steps_per_epoch) + step).size for step in range(int(order.steps_per_epoch))) for epoch in (0, 1)]
    assert shown[0] != shown[1], "and so have the shapes"
    per_epoch = int(order.steps_per_epoch)
    for epoch in range(2):
        seen = np.concatenate([order.at(epoch * per_epoch + step).index for step in range(per_epoch)])
        assert set(seen) == set(range(44))
        assert len(seen) - 44 < 4 * len(order.members)
    with Loader(source, 4, size=shapes(64, 16), seed=7) as whole, \
            Loader(source, 4, size=shapes(64, 16), seed=7, rank=1, world=2, cache=tmp_path / "cache") as second:
        found = set()
        for step in range(per_epoch):
            batch, part = whole.batch(step), second.batch(step)
            assert torch.equal(batch.images[2:], part.images)
            assert batch.keys[2:] == part.keys
            found.add(tuple(batch.images.shape[2:]))
        assert len(found) >= 3


def test_what_was_said_of_rows_is_kept_until_it_is_forgotten(tmp_path: Path) -> None:
    def compute(rows: range) -> np.ndarray:
        notes.update({row: f"no {row}" for row in rows if row == 5})
        return squares(calls)(rows)

    calls: list[range] = []
    for _ in range(2):
        notes: dict[int, str] = {}
        cached_array(tmp_path / "a", 12, (2,), "int32", compute, chunk=4, notes=notes)
        assert notes == {5: "no 5"}
    assert len(calls) == 3
    arrays.forget(tmp_path / "a")
    cached_array(tmp_path / "a", 12, (2,), "int32", compute, chunk=4, notes=notes)
    assert calls[3:] == [range(4, 8)]
