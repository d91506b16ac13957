"""A whole evaluation of a tiny model: what is in it, that it can be repeated, and what it says of a model against itself."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evaluate_tools import WORDS, build_data, build_extractor
from inkwash.errors import CheckpointError, DataError, UsageError, VerifyError
from inkwash.evaluate.collect import CHUNK, requests_for
from inkwash.evaluate.curves import Curves, by_cost, by_guidance, every_sampler
from inkwash.evaluate.extractors.network import NetworkExtractor, load_ink
from inkwash.evaluate.measure import METRICS, Views, compare_all
from inkwash.evaluate.metrics.interval import score_interval, wilson
from inkwash.evaluate.report.card import summary, told, update_card
from inkwash.evaluate.report.page import page
from inkwash.evaluate.report.result import as_json, check_baseline, check_budget, estimate, read_result, text_of
from inkwash.evaluate.report.sections import curves
from inkwash.evaluate.run import Evaluation, Options, evaluate, evaluations_of, written
from inkwash.io.find import read_info
from inkwash.io.folder import load_info, model_hash
from inkwash.pipeline import Pipeline
from inkwash.request import Request

SMALL = Request("", steps=2, sampler="ddim", spacing="trailing", guidance=3.0, width=32, height=32)


def judge(images: Tensor, captions: Any) -> Tensor:
    """How red a picture is, for captions that speak of red."""
    red = images[:, 0].double().mean((1, 2)) / 255
    return torch.tensor([float(value) if "red" in text else math.nan for value, text in zip(red, captions, strict=True)], dtype=torch.float64)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_data(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> NetworkExtractor:
    return load_ink(build_extractor(tmp_path_factory.mktemp("extractor")), "tiny")


@pytest.fixture(scope="module")
def pipeline(tiny_model: Path) -> Pipeline:
    return Pipeline.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def options() -> Options:
    curves = Curves(("ddim", "heun"), (2, 4), (1.0, 3.0), 16)
    return Options(SMALL, num=24, reference="all", held_out="6", bits=3, unconditional=True, curves=curves)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report") / "cache"


@pytest.fixture(scope="module")
def found(pipeline: Pipeline, data: Path, extractor: NetworkExtractor, options: Options, folder: Path, stranger_model: Path) -> Evaluation:
    other = Pipeline.from_pretrained(stranger_model)
    done = evaluate(pipeline, [data], options, extractor, judge=("red", judge), other=(other, SMALL), folder=folder)
    assert done is not None
    return done


def test_no_number_stands_alone(found: Evaluation) -> None:
    rows = [found.metrics, *found.parts.values(), found.unconditional or {}, *(point.metrics for point in found.curves)]
    for row in rows:
        assert {"fd", "kid"} <= set(row)
        for name, number in row.items():
            assert number.low <= number.value <= number.high or name in ("fd", "precision", "recall", "coverage")
            assert number.low < number.high
            assert number.num >= (2 if name == "adherence" else 16)
            assert name in METRICS
    assert {"fd", "fd_at_n", "kid", "cmmd", "precision", "recall", "density", "coverage", "adherence", "saturation"} == set(found.metrics)
    about = found.about
    assert about["extractors"]["features"]["hash"] == "tiny" or len(about["extractors"]["features"]["hash"]) == 64
    assert about["seeds"] == [0, 23]
    assert about["settings"]["guidance"] == 3.0
    assert about["settings"]["guidance_minus_1"] == 2.0
    assert about["nfe"] == 4.0
    assert about["data"]["num_reference"] == 60
    assert about["data"]["num_train"] == 54
    for name in ("inkwash", "torch", "captions", "wall_seconds", "sampling_seconds", "dtype", "threads", "date", "determinism"):
        assert about[name] not in (None, "")


def test_the_same_call_gives_the_same_numbers_and_makes_nothing(found: Evaluation, pipeline: Pipeline, data: Path, extractor: NetworkExtractor,
                                                                  options: Options, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = sorted(path.name for path in folder.iterdir())
    said: list[str] = []
    monkeypatch.setattr(Pipeline, "generate", lambda *given, **more: pytest.fail("a picture was made again"))
    again = evaluate(pipeline, [data], options, extractor, judge=("red", judge), folder=folder, say=said.append)
    assert again is not None
    assert again.metrics == found.metrics
    assert again.parts == found.parts
    assert again.bits == found.bits
    assert [point.metrics for point in again.curves] == [point.metrics for point in found.curves]
    assert sorted(path.name for path in folder.iterdir()) == files
    assert said[0].startswith("0 pictures to make, 0 network evaluations")


def test_in_memory_or_on_disk_the_bits_are_the_same(found: Evaluation, pipeline: Pipeline, data: Path, extractor: NetworkExtractor,
                                                    options: Options) -> None:
    plain = dataclasses.replace(options, curves=None, bits=0, unconditional=False)
    again = evaluate(pipeline, [data], plain, extractor, judge=("red", judge))
    assert again is not None
    assert again.metrics == found.metrics


def test_every_set_has_the_same_captions_and_seeds(found: Evaluation) -> None:
    assert found.other is not None
    assert found.other.samples.requests == found.main.samples.requests
    many = requests_for(SMALL, ["a", "b", "c"], 5, 7)
    assert [(request.prompt, request.seed) for request in many] == [("a", 7), ("b", 8), ("c", 9), ("a", 10), ("b", 11)]
    index = [0, CHUNK, CHUNK + 1, 1]
    whole = torch.cat([found.main.samples.pictures.pixels(chunk) for chunk in range(2)])
    assert torch.equal(found.main.samples.pictures.take(index), whole[index])


def test_cost_is_counted_before_it_is_paid(found: Evaluation, pipeline: Pipeline, data: Path, extractor: NetworkExtractor) -> None:
    for guidance, sampler in ((3.0, "ddim"), (1.0, "ddim"), (3.0, "heun"), ("CFG(scale=0.0)", "dpmpp_2m")):
        request = dataclasses.replace(SMALL, guidance=guidance, sampler=sampler, steps=4, prompt="a cat")
        assert evaluations_of(pipeline, request) == pipeline.generate([request])[0].nfe
    with pytest.raises(UsageError, match="minutes allowed") as caught:
        evaluate(pipeline, [data], Options(SMALL, num=64, reference="all", held_out="6", minutes=0.0), extractor)
    assert caught.value.code == "too_long"


def test_curves_hold_every_setting(found: Evaluation) -> None:
    costs = by_cost(found.curves, found.request)
    assert {name: [point.setting.steps for point in points] for name, points in costs.items()} == {"ddim": [2, 4], "heun": [2, 4]}
    assert [point.guidance for point in by_guidance(found.curves, found.request)] == [1.0, 3.0]
    assert found.curves[0].json()["guidance_minus_1"] == 2.0
    assert {"ddpm", "ddim", "unipc"} <= set(every_sampler())


def test_a_model_against_itself_is_undecided_and_against_another_it_is_not(found: Evaluation, pipeline: Pipeline, data: Path,
                                                                           extractor: NetworkExtractor, options: Options, folder: Path) -> None:
    plain = dataclasses.replace(options, curves=None, bits=0, unconditional=False)
    same = evaluate(pipeline, [data], plain, extractor, judge=("red", judge), other=(pipeline, SMALL), folder=folder)
    assert same is not None
    for row in same.comparison.values():
        assert row.difference.value == 0
        assert row.better == "undecided"
        assert row.num_to_decide is None
    assert any(row.better != "undecided" for row in found.comparison.values())
    assert {"fd", "kid", "adherence"} <= set(found.comparison)


def test_slices_are_words_of_the_captions(pipeline: Pipeline, data: Path, extractor: NetworkExtractor) -> None:
    done = evaluate(pipeline, [data], Options(SMALL, num=96, reference="all", held_out="all", bits=0), extractor,
                    judge=("size", lambda images, texts: torch.tensor([float(len(text)) for text in texts])))
    assert done is not None
    rows = {row.name: row for row in done.slices["adherence"]}
    assert {"red", "cones", "jacket", "sphere"} <= set(rows)
    assert rows["red"].mean.num == 24
    assert rows["red"].mean.value == len(WORDS[0])
    assert done.train is None
    assert done.memory is None


def test_the_result_is_json_and_comes_back(found: Evaluation, tmp_path: Path) -> None:
    result = as_json(found)
    (tmp_path / "result.json").write_text(text_of(result))
    assert read_result(tmp_path) == json.loads(text_of(result))
    assert estimate(read_result(tmp_path), "fd") == found.metrics["fd"]
    assert result["bits"]["unit"] == "nats per latent number"
    assert result["memorization"]["canaries"]["num"] == 32
    assert math.isfinite(result["parts"]["reconstruction_psnr_db"]["mean"])


def test_the_gate(found: Evaluation) -> None:
    result = as_json(found)
    assert len(check_baseline(result, result, 0.0)) == 2
    better = json.loads(json.dumps(result))
    better["metrics"]["fd"]["value"] /= 2
    with pytest.raises(VerifyError, match="fd") as caught:
        check_baseline(result, better, 0.10)
    assert (caught.value.code, caught.value.exit_code) == ("quality_gate", 8)
    assert check_baseline(result, better, 1.01)
    assert check_budget(result, {"coverage": 0.0, "fd": found.metrics["fd"].value})
    with pytest.raises(VerifyError):
        check_budget(result, {"coverage": found.metrics["coverage"].value + 0.01})
    for key, value in (("num", 25), ("captions", "other"), ("extractors", {})):
        other = json.loads(json.dumps(result))
        other["about"][key] = value
        with pytest.raises(UsageError, match="measure both in the same way"):
            check_baseline(result, other, 0.1)


def test_the_card_has_no_extrapolation_from_too_few_samples(found: Evaluation) -> None:
    result = as_json(found)
    assert "fd_at_n" not in summary(result)["numbers"]
    result["metrics"]["fd"]["note"] = "fewer samples than feature dimensions"
    kept = summary(result)
    assert kept["numbers"]["fd_at_n"][0] == pytest.approx(found.metrics["fd_at_n"].value, rel=1e-3)
    assert "fd" not in kept["numbers"]
    assert {"Fréchet distance at this N", "Fréchet distance at this N, real to sampled"} <= {row for row, _ in told(kept)}


def test_the_card_keeps_a_summary_and_everything_else(found: Evaluation, tiny_model: Path, stranger_model: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    before, name = read_info(copy), model_hash(copy)
    result = as_json(found)
    result["memorization"]["canaries"]["value"] = 1.0      # the tiny extractor cannot tell copies
    update_card(copy, result)
    after = load_info(copy)                                # compared with the manifest
    assert model_hash(copy) == name
    assert after.card["evaluation"]["numbers"]["fd"][0] == pytest.approx(found.metrics["fd"].value, rel=1e-3)
    assert {key: value for key, value in after.card.items() if key != "evaluation"} == before.card
    text = (copy / "README.md").read_text("utf-8")
    assert all(f"| {row} | {value} |" in text for row, value in told(after.card["evaluation"]))
    rows = {row for row, _ in told(after.card["evaluation"])}
    assert {"memorized share", "settings", "features", "Fréchet distance, extrapolated to N = ∞, real to reconstructed"} <= rows
    assert name in text
    assert dataclasses.replace(after, card={}) == dataclasses.replace(before, card={})
    Pipeline.from_pretrained(copy)
    with pytest.raises(UsageError, match="not of the model"):
        update_card(shutil.copytree(stranger_model, tmp_path / "stranger"), as_json(found))


def test_the_page_needs_nothing_but_itself(found: Evaluation, pipeline: Pipeline) -> None:
    text = page(found, pipeline)
    bare = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"https?:|<script|<link|<iframe|@import|url\(|src=\"(?!\")", bare)
    for heading in ("Numbers", "Errors kept apart", "Likelihood", "Without a caption", "Typical samples", "Failures", "Copies of training pictures",
                    "Quality against cost", "Quality against guidance", "Against tiny", "How it was measured"):
        assert heading in text
    assert text.count("<svg") >= 10
    assert found.about["model"]["hash"] in text


@pytest.mark.parametrize(("change", "code"), [
    ({"num": 5}, "too_few"), ({"held_out": None}, "held_out_unknown"), ({"held_out": "6", "reference": "held-out"}, "too_few"),
    ({"bits": 1}, "too_few"), ({"bits": 1000}, "too_few"), ({"request": dataclasses.replace(SMALL, width=33)}, "invalid_size"),
    ({"curves": Curves(num=3)}, "too_few"), ({"curves": Curves(num=11)}, "too_few"),
    ({"curves": Curves(("nonsense",))}, "unknown_name"), ({"reference": "x"}, "bad_reference")])
def test_what_cannot_be_measured_is_refused_before_a_picture_is_made(change: dict[str, Any], code: str, pipeline: Pipeline, data: Path,
                                                                    extractor: NetworkExtractor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pipeline, "generate", lambda *given, **more: pytest.fail("a picture was made"))
    options = dataclasses.replace(Options(SMALL, num=16, reference="all", held_out="6", bits=0), **change)
    with pytest.raises(UsageError) as caught:
        evaluate(pipeline, [data], options, extractor)
    assert caught.value.code == code


def test_data_without_captions_is_refused(pipeline: Pipeline, extractor: NetworkExtractor, tmp_path: Path) -> None:
    folder = build_data(tmp_path / "plain", 20)
    for path in folder.glob("*.txt"):
        path.unlink()
    with pytest.raises(DataError) as caught:
        evaluate(pipeline, [folder], Options(SMALL, num=16, held_out="all", bits=0), extractor)
    assert caught.value.code == "no_captions"


def test_a_name_that_is_not_utf8_can_be_written() -> None:
    assert written("caf\udce9").encode("utf-8") == b"caf\\udce9"
    assert written("café") == "café"


def test_fewer_samples_than_captions_take_captions_of_all_sources() -> None:
    captions = [f"emoji {i}" for i in range(100)] + [f"scene {i}" for i in range(100)]
    part = [request.prompt for request in requests_for(SMALL, captions, 60, 0)]
    assert len(set(part)) == 60
    assert 15 <= sum(text.startswith("scene") for text in part) <= 45
    assert [request.prompt for request in requests_for(SMALL, captions, 90, 0)][:60] == part
    assert [request.prompt for request in requests_for(SMALL, captions, 201, 0)] == [*captions, captions[0]]


def test_where_the_extrapolation_is_not_valid_it_decides_nothing() -> None:
    real, a, b = (torch.randn(30, 40, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    assert {"fd", "fd_at_n"} & set(compare_all(Views(a), Views(b), Views(real))) == {"fd_at_n"}
    assert {"fd", "fd_at_n"} & set(compare_all(Views(a[:, :4]), Views(b[:, :4]), Views(real[:, :4]))) == {"fd"}


def test_the_gate_takes_the_distance_at_this_n_where_the_extrapolation_is_not_valid(found: Evaluation) -> None:
    result = as_json(found)
    baseline = json.loads(json.dumps(result))
    assert check_baseline(result, baseline, 0.1)[0].startswith("fd ")
    for stored in (result, baseline):
        stored["metrics"]["fd"]["note"] = "fewer samples than feature dimensions"
    baseline["metrics"]["fd"]["value"] = -30.0
    assert check_baseline(result, baseline, 0.1)[0].startswith("fd_at_n ")
    baseline["metrics"]["fd_at_n"]["value"] = result["metrics"]["fd_at_n"]["value"] / 2
    with pytest.raises(VerifyError, match="fd_at_n"):
        check_baseline(result, baseline, 0.1)


def test_curves_show_the_distance_at_this_n_where_the_extrapolation_is_not_valid(found: Evaluation) -> None:
    assert METRICS["fd"].title in curves(found)
    noted = [point._replace(metrics={**point.metrics, "fd": point.metrics["fd"]._replace(note="too few")}) for point in found.curves]
    text = curves(found._replace(curves=noted))
    assert METRICS["fd"].title not in text
    assert METRICS["fd_at_n"].title in text


def test_the_card_claims_nothing_of_memorization_where_planted_copies_were_not_found(found: Evaluation) -> None:
    result = as_json(found)
    assert found.memory is not None
    for share, kept in ((0.49, False), (0.5, True)):
        memory = found.memory._replace(canaries=found.memory.canaries._replace(value=share))
        result["memorization"]["canaries"]["value"] = share
        assert ("memorized" in summary(result), memory.conclusive) == (kept, kept)


@pytest.mark.parametrize("change", [{"about": None}, {"about": {}}, {"about": {"data": 5}}, {"metrics": {"fd": {"num": math.inf}}}])
def test_a_damaged_baseline_is_told_as_one(change: dict[str, Any], found: Evaluation, tmp_path: Path) -> None:
    result = as_json(found)
    row = change.get("metrics", {}).get("fd")
    changed = {**result, "metrics": {"fd": {**result["metrics"]["fd"], **row}}} if row else {**result, **change}
    (tmp_path / "result.json").write_text(json.dumps(changed))
    with pytest.raises(CheckpointError) as caught:
        read_result(tmp_path)
    assert caught.value.code == "result_unreadable"


def test_equal_scores_have_an_interval_and_few_pairs_decide_nothing() -> None:
    ones = score_interval(torch.ones(20))
    assert (ones.low, ones.high) == pytest.approx(wilson(1.0, 20))
    near = score_interval(torch.tensor([1.0] * 19 + [0.5]))
    assert near.low < near.value < near.high == 1.0
    draw = torch.Generator().manual_seed(0)
    a, b, real = (Views(torch.randn(16, 3, generator=draw), adherence=torch.tensor([score] * known + [math.nan] * (16 - known)))
                  for score, known in ((1.0, 3), (0.0, 3), (0.5, 16)))
    answer = compare_all(a, b, real)["adherence"]
    assert (answer.p, answer.better) == (0.25, "undecided")
    assert "adherence" not in compare_all(a, b._replace(adherence=torch.tensor([0.0] + [math.nan] * 15)), real)


def test_a_picture_that_lost_nothing_does_not_make_the_mean_infinite(found: Evaluation, pipeline: Pipeline) -> None:
    assert found.psnr is not None
    psnr = torch.full_like(found.psnr, 30.0)
    psnr[0] = math.inf
    text = page(found._replace(psnr=psnr), pipeline)
    assert "30.00 dB PSNR on average, 30.00 dB at worst; without any loss: 1" in text
