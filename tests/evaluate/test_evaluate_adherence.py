"""What a caption asks for, and that wrong kinds, colours and scenes lower the score."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import inkwash.evaluate.judges.adherence as module
from inkwash.data.scenes.source import draw
from inkwash.data.scenes.wanted import read
from inkwash.evaluate.judges.adherence import Asked, adherence, asked, judge_name
from inkwash.evaluate.judges.scene_words import scene_of

EASY = read("objects=1..2,material=matte,light=soft,color=red+green+blue+purple,shape=sphere+cube+star,size=medium+large")


@pytest.mark.parametrize(("caption", "garment", "color"), [
    ("photo of a navy skirt", "skirt", "navy"), ("Photo of a light blue dress", "dress", "light blue"),
    ("photo of a red pair of shoes", "shoes", "red"),
    ("photo of a t-shirt", "t-shirt", None), ("photo of a black and white dress", "dress", None), ("photo of a black dress and a hat", None, None),
    ("emoji of a red dress", None, None), ("a small red brick", None, None), ("", None, None)])
def test_what_a_photo_is_asked_for(caption: str, garment: str | None, color: str | None) -> None:
    assert asked(caption) == Asked(garment, color)


@pytest.mark.parametrize("caption", ["a glass red ball", "a red metal ball", "a white cube", "a red cube, evening light", "red cube",
                                     "a red cube and a hat",
                                     "a red cube behind a red star", "emoji of a red heart"])
def test_scenes_that_the_rules_cannot_judge_are_left_out(caption: str) -> None:
    assert scene_of(caption) is None


def test_captions_of_scenes_are_read_back() -> None:
    """Every judged caption of 600 scenes says what was drawn; some say less, since a number of alike groups may be left open."""
    read_back = 0
    for number in range(600):
        picture = draw(5, number, 32, pixels=False)
        scene = scene_of(picture.caption)
        if scene is None:
            continue
        read_back += 1
        drawn = picture.labels["objects"]
        assert isinstance(drawn, list)
        kinds = [{(group["shape"], group["color"], group["count"]) for group in groups} for groups in (scene["objects"], drawn)]
        assert kinds[0] == kinds[1], picture.caption
        relation = picture.labels["relation"]
        assert (scene["relation"] is None) == (relation is None), picture.caption
        if isinstance(relation, dict):
            assert scene["relation"]["relation"] == relation["relation"], picture.caption
            assert scene["objects"][0]["color"] == drawn[relation["subject"]]["color"], picture.caption
    assert read_back > 30


def test_the_share_of_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "names_garment", lambda images: ["dress"] * len(images))
    monkeypatch.setattr(module, "names_color", lambda images: ["red"] * len(images))
    captions = ["photo of a red dress", "photo of a navy dress", "emoji of a dress", "photo of a navy hat", "photo of a dress"]
    found = adherence(torch.zeros(5, 3, 8, 8, dtype=torch.uint8), captions)
    assert found[[0, 1, 3, 4]].tolist() == [1.0, 0.5, 0.0, 1.0]
    assert math.isnan(found[2])


def test_the_colour_rule_sees_plain_colours() -> None:
    red = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    red[:, 0] = 200
    with_rule = adherence(red.repeat(2, 1, 1, 1), ["photo of a red skirt", "photo of a green skirt"])
    assert float(with_rule[0] - with_rule[1]) == 0.5
    assert len(judge_name()) > 64


def test_drawn_scenes_follow_their_captions_and_not_those_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILHOUETTES", 150)
    pictures = [draw(3, number, 64, wanted=EASY) for number in range(40)]
    judged = [picture for picture in pictures if scene_of(picture.caption)]
    images: Tensor = torch.from_numpy(np.stack([picture.pixels for picture in judged])).permute(0, 3, 1, 2)
    captions = [picture.caption for picture in judged]
    own, others = adherence(images, captions), adherence(images, captions[1:] + captions[:1])
    assert len(judged) >= 20
    assert float(own.mean()) > 0.9
    assert float(others.mean()) < float(own.mean()) - 0.4
