"""Recipes: every shipped one is valid, every mistake is told by file, key and nearest name."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tiny_runs import TOY, run, toy

import inkwash.recipes  # noqa: F401 - recipes name tasks of distill too
from inkwash.errors import UsageError
from inkwash.train.config import read_recipe, recipe_folder, recipe_names, validate


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_are_valid_and_written_out_in_full_they_are_the_same(name: str) -> None:
    config = read_recipe(name)
    assert validate(config.model_dump(mode="json"), name) == config
    assert config.optimizer.cooldown + config.optimizer.warmup <= config.steps


@pytest.mark.parametrize(("change", "message"), [
    ({"stps": 3}, "mine.yaml: stps: is not a known key; did you mean steps?"),
    ({"optimizer": {"lrr": 1}}, "mine.yaml: optimizer.lrr: is not a known key; did you mean lr?"),
    ({"batch": 0}, "mine.yaml: batch: Input should be greater than 0, got '0'"),
    ({"seed": 10**22}, "mine.yaml: seed: Input should be less than or equal to 9223372036854775807"),
    ({"batch": 3_000_000_000}, "mine.yaml: batch: Input should be less than or equal to 65536, got '3000000000'"),
    ({"data": {"size": 10**9}}, "mine.yaml: data.size: Input should be less than or equal to 4096"),
    ({"steps": "many"}, "mine.yaml: steps: Input should be a valid integer"),
    ({"prediction": "W()"}, "mine.yaml: prediction: no prediction is called 'W'"),
    ({"network": "UNetConfig(width=3)"}, "mine.yaml: network: UNetConfig has no field 'width'"),
    ({"process": "UNetConfig()"}, "mine.yaml: process: no schedule is called 'UNetConfig'"),
    ({"task": "paint"}, "mine.yaml: task: must be one of autoencoder, contrastive, denoiser, classifier, features, guidance, got 'paint'"),
    ({"accumulate": 3}, "mine.yaml: recipe: batch 4 must be a multiple of accumulate 3"),
    ({"task": ["denoiser"]}, "mine.yaml: task: must be one of"),
    ({"optimizer": {"cooldown": 5}}, "mine.yaml: optimizer: cooldown has no effect with schedule constant; write schedule: wsd, or leave it out"),
    ({"optimizer": {"schedule": "cosine", "cooldown": 5}}, "cooldown has no effect with schedule cosine"),
    ({"optimizer": {"final": 0.1}}, "mine.yaml: optimizer: final has no effect with schedule constant"),
    ({"optimizer": {"betas": [0.9, 1.0]}}, "mine.yaml: optimizer.betas.1: Input should be less than 1"),
    ({"levels": "discrete(num_steps=0)"}, "mine.yaml: levels: num_steps must be at least 1, got 0"),
    ({"weighting": "edm(sigma_data=0)"}, "sigma_data must be above 0 and finite, got 0"),
    ({"weighting": "min_snr(gamma=-1)"}, "gamma must be above 0 and finite, got -1"),
    ({"weighting": "p2(k=0)"}, "k must be above 0 and finite, got 0"),
    ({"sample": {"seeds": []}}, "mine.yaml: sample.seeds: Tuple should have at least 1 item"),
    ({"optimizer": {"lr": float("nan")}}, "mine.yaml: optimizer.lr: Input should be"),
])
def test_mistakes_are_told_by_file_and_key(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**TOY, **change}))
    with pytest.raises(UsageError) as caught:
        read_recipe(str(path))
    assert caught.value.code == "bad_recipe"
    assert message in caught.value.message
    assert caught.value.exit_code == 2


def test_settings_go_on_top() -> None:
    config = read_recipe("toy", ["optimizer.lr=0.5", "prediction=X0()", "sample.prompts=[a, b]", "optimizer.clip=null", "name=1e3x"])
    assert config.optimizer.lr == 0.5
    assert repr(config.prediction) == "X0()"  # type: ignore[attr-defined]
    assert config.sample.prompts == ("a", "b")
    assert config.optimizer.clip is None
    assert config.name == "1e3x"
    assert config.optimizer.warmup == read_recipe("toy").optimizer.warmup


@pytest.mark.parametrize(("setting", "message"), [
    ("steps", "is not key=value"), ("steps.a=1", "steps is a value"), ("stepz=1", "did you mean steps?"), ("=1", "is not key=value")])
def test_bad_settings(setting: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        read_recipe("toy", [setting])


def test_a_file_that_nests_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "deep.yaml").write_text("[" * 5000)
    with pytest.raises(UsageError, match=r"deep.yaml: cannot be read as YAML"):
        read_recipe(str(tmp_path / "deep.yaml"))


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"did you mean toy.* known: .*mini-autoencoder.*toy"):
        read_recipe("toyy")


def test_yaml_runs_no_code(tmp_path: Path) -> None:
    (tmp_path / "evil.yaml").write_text("task: !!python/object/apply:os.system ['touch exploded']\n")
    with pytest.raises(UsageError, match="cannot be read as YAML"):
        read_recipe(str(tmp_path / "evil.yaml"))


def test_recipes_are_data() -> None:
    assert {path.stem for path in recipe_folder().glob("*.yaml")} == set(recipe_names())


def test_predictions_that_a_schedule_makes_singular_are_refused(tmp_path: Path, data: Path) -> None:
    from inkwash.train.run import train

    with pytest.raises(UsageError, match="zero signal-to-noise"):
        train(toy(prediction="Eps()", process="ZeroTerminal(Linear())"), [data], tmp_path / "run", quiet=True)


def test_t20_data_that_are_not_there(tmp_path: Path, command) -> None:
    arguments = command(tmp_path / "run")
    arguments[arguments.index("--data") + 1] = str(tmp_path / "nothing")
    found = run(arguments)
    assert found.returncode == 3
    assert found.stderr.startswith("inkwash: error[data_missing]: there is no ")
    assert str(tmp_path / "nothing") in found.stderr
    assert found.stderr.count("\n") == 1


@pytest.mark.parametrize("files", [(), ("notes.md",)])
def test_t20_folders_without_images(tmp_path: Path, files: tuple[str, ...]) -> None:
    from inkwash.errors import DataError
    from inkwash.train.run import train

    (tmp_path / "empty").mkdir()
    for name in files:
        (tmp_path / "empty" / name).write_text("text")
    with pytest.raises(DataError, match=r"found 0 images among .* formats: Parquet") as caught:
        train(toy(), [tmp_path / "empty"], tmp_path / "run", quiet=True)
    assert str(tmp_path / "empty") in caught.value.message
    assert caught.value.exit_code == 3


def test_t21_t22_unreadable_images(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json
    import shutil

    from inkwash.errors import DataError
    from inkwash.train.run import train

    damaged = tmp_path / "damaged"
    shutil.copytree(data, damaged)
    for i in (3, 5):
        path = damaged / f"{i:03d}.png"
        path.write_bytes(path.read_bytes()[:120])
    config = toy(steps=2, data={"unreadable": 0.2})
    train(config, [damaged], tmp_path / "run")
    assert "2 " in capsys.readouterr().err.splitlines()[-1]
    lines = [json.loads(line) for name in ("quarantine.jsonl", "quarantine-validation.jsonl") if (tmp_path / "run" / name).is_file()
             for line in (tmp_path / "run" / name).read_text().splitlines()]
    assert sorted({line["key"] for line in lines}) == ["003.png", "005.png"]
    with pytest.raises(DataError) as caught:
        train(toy(steps=2), [damaged], tmp_path / "other", quiet=True)
    assert caught.value.exit_code == 3
    assert not (tmp_path / "other" / "log.jsonl").exists()
