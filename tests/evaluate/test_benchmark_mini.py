"""The benchmark of the embedded model: names of emoji, the choice of a setting, goals, merging, and which scenes are asked for."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from inkwash.data.scenes.source import Scenes, open_scenes
from inkwash.data.scenes.wanted import read
from inkwash.errors import UsageError
from inkwash.evaluate.metrics.interval import Estimate, proportion
from inkwash.evaluate.store import Store, Worker

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import mini_bench
import mini_curves
import mini_garments
import mini_left_out
import mini_names
import mini_result
import mini_scenes
import mini_sheet

sys.path.pop(0)


@pytest.mark.parametrize(("a", "b"), [
    ("woman cook dark skin tone", "cook"), ("man dancing", "woman dancing light skin tone"), ("princess", "prince medium skin tone"),
    ("handshake medium-dark skin tone light skin tone", "handshake"), ("old woman", "older person"), ("santa claus", "mx claus"),
    ("women holding hands", "woman and man holding hands"), ("kiss woman man", "kiss"),
    ("couple with heart man man dark skin tone", "couple with heart"),
    ("person running facing right", "man running facing right"), ("deaf man", "deaf person"), ("mermaid", "merman dark skin tone"),
])
def test_names_that_differ_by_skin_tone_or_gender_alone_are_the_same(a: str, b: str) -> None:
    assert mini_names.same(a, b)


@pytest.mark.parametrize(("a", "b"), [
    ("red hair", "man red hair"), ("bald", "person bald"), ("kiss", "kiss mark"), ("dark skin tone", "light skin tone"), ("woman", "girl"),
    ("woman running", "woman running facing right"), ("red heart", "yellow heart"), ("woman’s sandal", "man’s shoe"), ("medium skin tone", "person"),
    ("family man boy", "family man boy boy"), ("cook", "firefighter"), ("raised hand dark skin tone", "raised fist dark skin tone"),
])
def test_names_that_differ_otherwise_are_not(a: str, b: str) -> None:
    assert not mini_names.same(a, b)


def shares(*values: float, num: int = 100) -> list[Estimate]:
    return [proportion(round(value * num), num) for value in values]


def test_the_cheapest_point_lies_within_the_interval_of_the_best() -> None:
    qualities = shares(0.30, 0.72, 0.80, 0.79)
    assert qualities[2].low < 0.72 < qualities[2].value
    assert mini_curves.cheapest(list(zip([4, 8, 20, 50], qualities))) == 1
    assert mini_curves.cheapest(list(zip([4, 8, 20, 50], shares(0.30, 0.60, 0.80, 0.79)))) == 2
    assert mini_curves.cheapest(list(zip([8, 8], shares(0.75, 0.80)))) == 1                # of equal cost the better


@pytest.mark.parametrize(("goal", "smaller", "met"), [
    (0.45, False, "yes"), (0.55, False, "no, within the interval"), (0.495, False, "yes, within the interval"), (0.7, False, "no"),
    (0.7, True, "yes"), (0.45, True, "no"), (0.505, True, "yes, within the interval"),
])
def test_a_goal_is_met_or_not_or_within_the_interval(goal: float, smaller: bool, met: str) -> None:
    low = 0.46
    assert mini_result.Row("x", Estimate(0.5, low, 0.6, 50), goal, smaller=smaller).met == met


def result(name: str, model: str = "a", share: float = 0.5) -> dict[str, object]:
    part = {"num": 4, "rows": [mini_result.Row("as asked", proportion(round(4 * share), 4), 0.9).json()], "notes": [], "seconds": 1.0, "commit": "c",
            "machine": {"date": "2026-01-02", "processor": "p", "cores": 2, "threads": 2, "load": 0.1, "command": "python mini.py"}}
    return {"model": {"name": "mini", "hash": model, "settings": "20 steps"}, "extractor": "ink", "parts": {name: part}}


def test_parts_join_those_that_are_there_and_replace_their_own_kind(tmp_path: Path) -> None:
    both = mini_result.merged(mini_result.merged(None, result("emoji")), result("scenes"))
    assert list(both["parts"]) == ["emoji", "scenes"]
    again = mini_result.merged(both, result("emoji", share=1.0))
    assert again["parts"]["emoji"]["rows"][0]["value"] == 1.0
    assert again["parts"]["scenes"] == both["parts"]["scenes"]
    mini_result.save(tmp_path / "x.json", again)
    assert json.loads((tmp_path / "x.json").read_text("utf-8")) == again
    page = (tmp_path / "x.md").read_text("utf-8")
    assert "## Emoji" in page
    assert "| as asked | 100.0 % | 51.0 % to 100.0 % | 4 | 90.0 % | yes, within the interval |" in page


def test_parts_of_another_model_are_refused() -> None:
    with pytest.raises(UsageError, match="another file"):
        mini_result.merged(result("emoji"), result("scenes", model="b"))


def test_the_page_of_curves_marks_the_chosen_point() -> None:
    share = proportion(3, 4)._asdict()
    point = {"sampler": "ddim", "steps": 8, "guidance": 3.0, "nfe": 16.0, "seconds_per_image": 0.5, "right": share, "kinds": {"emoji": 0.75},
             "metrics": {"fd_at_n": Estimate(10.0, 8.0, 12.0, 4)._asdict()}}
    found = result("curves")
    found["parts"]["curves"] |= {"rows": [], "points": [point, {**point, "sampler": "heun"}], "cheapest": 1}  # type: ignore[index]
    page = mini_result.page(found)
    assert "| **heun** | 8 | 3 | 16 | 75.0 % (30.1 % to 95.4 %) | 75.0 % | 10.0 (8.0 to 12.0) | 0.50 |" in page
    assert "| ddim | 8 |" in page


def test_garments_are_right_when_the_judge_names_what_the_caption_says() -> None:
    seen = [("skirt", "navy"), ("skirt", "blue"), ("hat", "light blue")]
    assert mini_garments.hits(seen, ["photo of a navy skirt", "photo of a navy skirt", "photo of a light blue pair of shoes"]) == [
        (True, True, True), (True, False, False), (False, True, False)]


def test_captions_come_in_an_order_that_only_they_decide() -> None:
    captions = [f"emoji of thing {i}" for i in range(50)]
    order = mini_bench.by_hash(captions)
    assert sorted(order) == sorted(captions)
    assert order != captions
    assert order == mini_bench.by_hash(captions)


WORLD = "objects=1..2,light=soft,material=matte,shape=cube+sphere,color=red+blue"


def bench(*patterns: str, scenes: str = f"scenes:40,{WORLD}+white") -> mini_bench.Bench:
    """A bench without a model, of a small world whose training captions are soon used up."""
    pipeline = SimpleNamespace(info=SimpleNamespace(card={"data": ["emoji.parquet", scenes]}))
    template = SimpleNamespace(width=128, height=128)
    return mini_bench.Bench(pipeline, None, Worker(Store(None)), template, None, None, tuple(map(re.compile, patterns)))  # type: ignore[arg-type]


def test_new_scenes_are_unseen_readable_different_and_go_on_where_fewer_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mini_scenes, "DRAWS", 150)
    desk = bench()
    few, more = (([source.caption(i) for i in range(len(source))]) for source in (mini_scenes.fresh(desk, 5), mini_scenes.fresh(desk, 10)))
    assert few == more[:5]
    assert len(set(more)) == 10
    assert not set(more) & set(mini_scenes.captions_of(desk, desk.scenes[0]))
    assert [mini_scenes.group_of(mini_scenes.labels_of(text)) for text in more] == [*mini_scenes.PATTERN, *mini_scenes.PATTERN]
    assert not any("white cube" in text for text in more)                              # a colour that the judge does not know


def test_left_out_scenes_are_those_that_a_pattern_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mini_scenes, "DRAWS", 100)
    desk = bench("sphere", scenes=f"scenes:5,{WORLD}")
    out, kept = mini_scenes.fresh(desk, 5, left_out=True), mini_scenes.fresh(desk, 5)
    assert len(out) > 2
    assert all("sphere" in out.caption(i) for i in range(len(out)))
    assert not any("sphere" in kept.caption(i) for i in range(len(kept)))


def test_a_world_that_the_judge_cannot_read_is_refused() -> None:
    assert mini_scenes.readable(read("material=matte+glass,light=soft+hard,color=red+brown")) == read("material=matte,light=soft,color=red")
    with pytest.raises(UsageError, match="matte"):
        mini_scenes.readable(read("material=metal"))


def test_captions_of_a_source_are_kept_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_scenes("scenes:12")
    desk = bench()
    drawn = [source.caption(i) for i in range(12)]
    assert mini_scenes.captions_of(desk, source) == drawn
    monkeypatch.setattr(Scenes, "caption", lambda self, index: "not drawn again")
    assert mini_scenes.captions_of(desk, open_scenes("scenes:12")) == drawn


def test_nothing_left_out_gives_no_number() -> None:
    rows, notes = mini_left_out.part(bench(), 8)
    assert rows == []
    assert "nothing was left out" in notes[0]


def test_failures_are_the_lowest_scores_of_what_is_not_right() -> None:
    found = mini_bench.Judged(SimpleNamespace(), [True, False, False, False], [0.0, 0.5, 0.2, 0.5], ["a", "b", "c", "d"])  # type: ignore[arg-type]
    assert mini_sheet.worst(found, 2) == [2, 1]
    assert mini_sheet.worst(found, 9) == [2, 1, 3]
