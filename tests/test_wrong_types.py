"""What a program gets that calls the Python API with a wrong type or with nothing: one clear line with a code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from inkwash import Pipeline, Request
from inkwash.errors import UsageError
from inkwash.evaluate.extractors.load import load_extractor
from inkwash.evaluate.run import Options, evaluate
from inkwash.picture import Picture
from inkwash.sample import Sampler
from inkwash.serve.engine import Engine
from inkwash.train.config import read_recipe, validate
from inkwash.train.run import train
from inkwash.value import parse
from inkwash.verify.against import compare
from inkwash.verify.model import report
from inkwash.verify.registry import conform

Call = Callable[[Any], object]
REQUEST = Request("a cube", steps=1, width=32, height=32)
LONG = "x" * 5000


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> Pipeline:
    return Pipeline.from_pretrained(tiny_model)


CASES: dict[str, list[Call]] = {
    "bad_path": [lambda p: Pipeline.from_pretrained(None), lambda p: Pipeline.from_pretrained(3), lambda p: Pipeline.from_pretrained(LONG),
                 lambda p: Pipeline.from_pretrained("a\0b"), lambda p: Pipeline.from_pretrained(""),
                 lambda p: Pipeline.from_pretrained(p.source, weak=[]), lambda p: Pipeline.from_pretrained(p.source, classifier=1.5),
                 lambda p: p.save_pretrained(None), lambda p: p.save_pretrained("a\0b"),
                 lambda p: train(read_recipe("toy"), ["scenes:40"], None), lambda p: train(read_recipe("toy"), None, Path("nowhere")),
                 lambda p: train(read_recipe("toy"), ["scenes:40"], Path("nowhere"), resume=5), lambda p: read_recipe(None),
                 lambda p: evaluate(p, None, Options(REQUEST), None), lambda p: evaluate(p, [3], Options(REQUEST), None),
                 lambda p: report(p.source, None, 3), lambda p: load_extractor(None),
                 lambda p: load_extractor("")],
    "bad_prompt": [lambda p: p([], output_type="pt"), lambda p: p((), output_type="pil"), lambda p: p(None), lambda p: p([None]),
                   lambda p: p("a cube", negative_prompt=torch.ones(2))],
    "bad_dtype": [lambda p: p.to("cpu", "float32"), lambda p: p.save_pretrained("unused", dtype=1), lambda p: p.to("cpu", torch.int8),
                  lambda p: Pipeline.from_pretrained(p.source, dtype="")],
    "bad_device": [lambda p: p.to(10**400), lambda p: p.to(10**5000), lambda p: p.to(None)],
    "bad_callback": [lambda p: p("a cube", callback_on_step_end=3), lambda p: p.generate([REQUEST], "x")],
    "bad_output_type": [lambda p: p("a cube", output_type=torch.ones(2))],
    "bad_request": [lambda p: p.generate(None), lambda p: p.generate([REQUEST, None]), lambda p: p.generate("a cube"),
                    lambda p: Engine(p).submit(None), lambda p: Engine(p).cost([]), lambda p: Options("a cube")],
    "bad_tile": [lambda p: p.enable_vae_tiling("large"), lambda p: p.enable_vae_tiling(0)],
    "bad_value": [lambda p: Engine(None), lambda p: Engine(p, policy=3), lambda p: Engine(p).submit(REQUEST, key=[]),
                  lambda p: Engine(p).submit(REQUEST, priority=None), lambda p: Engine(p).cancel(0), lambda p: Engine(p).preview(None),
                  lambda p: Engine(p).resume("x"), lambda p: parse(None, Sampler), lambda p: Options(REQUEST, reference=1),
                  lambda p: evaluate(None, ["scenes:40"], Options(REQUEST), None)],
    "bad_deadline": [lambda p: Engine(p).submit(REQUEST, deadline_sec="soon")],
    "bad_image": [lambda p: Picture(2, 2, None), lambda p: Picture.of(3)],
    "invalid_size": [lambda p: Picture(None, 2, b"x" * 12), lambda p: Picture(2, 2, b"x" * 12).fit("8", 8),
                     lambda p: Picture(10**5000, 2, b"x" * 12)],
    "bad_recipe": [lambda p: validate(None, "recipe"), lambda p: train(None, ["scenes:40"], Path("nowhere"))],
    "bad_setting": [lambda p: read_recipe("toy", None), lambda p: read_recipe("toy", [3])],
    "bad_count": [lambda p: Options(REQUEST, num=1.5)],
    "bad_number": [lambda p: Options(REQUEST, level=float("nan")), lambda p: Options(REQUEST, minutes=None)],
    "unknown_library": [lambda p: compare(None)],
    "unknown_part": [lambda p: conform(3), lambda p: report(p.source, [])],
}


@pytest.mark.parametrize(("code", "call"), [(code, call) for code, calls in CASES.items() for call in calls],
                         ids=[f"{code}-{i}" for code, calls in CASES.items() for i, _ in enumerate(calls)])
def test_one_line_with_a_code(code: str, call: Call, pipe: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        call(pipe)
    assert caught.value.code == code, caught.value.line()
    assert "\n" not in caught.value.message
    assert list(tmp_path.iterdir()) == [], "nothing was begun"


def test_a_folder_that_cannot_be_written_is_named(pipe: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file" / "model", Path("/proc/model")):
        with pytest.raises(UsageError, match=str(folder)) as caught:
            pipe.save_pretrained(folder)
        assert caught.value.code == "output_not_writable"


def test_one_path_of_data_is_as_good_as_a_list(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no 'nowhere'"):
        train(read_recipe("toy"), "nowhere", tmp_path / "run")  # type: ignore[arg-type]
