"""Feature extractors: the same bits however a set is split, the right network for a file, and a space in which distances mean something."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from inkwash.data.scenes.source import Scenes
from inkwash.data.source import open_source
from inkwash.data.transform import decode, fit
from inkwash.errors import CheckpointError, InkwashError, UsageError
from inkwash.evaluate.extractors import inception as inception_v3
from inkwash.evaluate.extractors.clip import resize_and_crop
from inkwash.evaluate.extractors.features import Extractor, TextExtractor, extract
from inkwash.evaluate.extractors.load import load_extractor
from inkwash.evaluate.extractors.network import MICRO_BATCH, embedded, resize
from inkwash.evaluate.judges import garments
from inkwash.evaluate.metrics.frechet import distance
from inkwash.io.folder import load_part, save_part, save_tokenizer
from inkwash.io.tensors import digest, save_tensors
from inkwash.nn.clip import ClipConfig
from inkwash.nn.image_tower import ImageTowerConfig
from inkwash.nn.inception import InceptionConfig
from inkwash.nn.text import TextEncoderConfig
from inkwash.tokenizer import Tokenizer

CLOTHING = Path(__file__).parents[3] / "shared" / "data" / "clothing-train.parquet"


@pytest.fixture(scope="module")
def ink() -> Extractor:
    return load_extractor("ink")


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """Drawn scenes, uint8 (40, 3, 128, 128)."""
    source = Scenes(40, 7)
    return torch.stack([fit(decode(source[i]), 128) for i in range(len(source))])


def test_ink_is_in_the_package_and_small(ink: Extractor) -> None:
    assert ink.dim == 512
    assert not ink.unit
    assert ink.hash == digest(load_part(embedded(), "extractor").state_dict())
    assert sum(path.stat().st_size for path in embedded().rglob("*") if path.is_file()) <= 6 * 2**20
    assert not isinstance(ink, TextExtractor)


def test_bits_do_not_depend_on_company(ink: Extractor, pictures: Tensor) -> None:
    """Whole, in unequal parts, alone, in reverse: the same bits."""
    whole = extract(ink, [pictures])
    assert whole.shape == (40, 512)
    assert whole.dtype == torch.float32
    assert torch.equal(extract(ink, pictures.split([1, 7, MICRO_BATCH, 16])), whole)
    assert torch.equal(ink(pictures[11:12])[0], whole[11])
    assert torch.equal(ink(pictures.flip(0)).flip(0), whole)


def test_sizes_are_unlike_and_features_alike(ink: Extractor, pictures: Tensor) -> None:
    """A picture enlarged twice is itself, and not another one."""
    large = resize(pictures[:8], 256, 256).round().byte()
    assert torch.cdist(ink(large), ink(pictures)).argmin(1).tolist() == list(range(8))


def test_resize_is_antialiased_bicubic_of_floats() -> None:
    image = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    assert torch.equal(resize(image, 64, 96), image.float())
    half = resize(image, 32, 48)
    assert (half != half.round()).any()
    flat = torch.full((1, 3, 50, 70), 200, dtype=torch.uint8)
    torch.testing.assert_close(resize(flat, 33, 21), torch.full((1, 3, 33, 21), 200.0), rtol=0, atol=1e-3)
    edge = torch.cat([torch.zeros(1, 3, 32, 16), torch.full((1, 3, 32, 16), 255)], 3).byte()
    assert resize(edge, 64, 64).min() >= 0                                              # bicubic rings beyond the range and is clamped
    assert resize(edge, 64, 64).max() <= 255
    stripes = torch.tensor([0, 255], dtype=torch.uint8).repeat(32).expand(1, 3, 64, 64)
    assert (resize(stripes, 16, 16)[..., 4:-4] - 127.5).abs().max() < 2                 # without antialiasing these would alias to 0 or 255
    assert resize_and_crop(torch.zeros(1, 3, 64, 100, dtype=torch.uint8), 32).shape == (1, 3, 32, 32)


def test_resize_agrees_with_pillow() -> None:
    """The reference of this rule resizes single channels of floats with Pillow."""
    import numpy as np
    from PIL import Image

    image = torch.randint(0, 256, (1, 3, 61, 97), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))
    for high, wide in ((32, 32), (299, 299), (128, 100)):
        theirs = np.stack([np.asarray(Image.fromarray(channel.numpy().astype(np.float32)).resize((wide, high), Image.Resampling.BICUBIC)).clip(0, 255)
                           for channel in image[0]])
        torch.testing.assert_close(resize(image, high, wide)[0], torch.from_numpy(theirs), rtol=0, atol=0.02)


@pytest.mark.parametrize("wrong", [torch.zeros(2, 3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(2, 1, 8, 8, dtype=torch.uint8),
                                   torch.zeros(0, 3, 8, 8, dtype=torch.uint8)])
def test_wrong_images(ink: Extractor, wrong: Tensor) -> None:
    with pytest.raises(UsageError, match="uint8 of shape") as caught:
        ink(wrong)
    assert caught.value.code == "bad_images"
    with pytest.raises(UsageError, match="no images"):
        extract(ink, [])


def frechet(a: Tensor, b: Tensor) -> float:
    a, b = a.double(), b.double()
    return distance(a.mean(0), a.T.cov(), b.mean(0), b.T.cov())


def test_distance_rises_with_damage(ink: Extractor, pictures: Tensor) -> None:
    """Noise, a tint and a coarser grid, each twice as strong at every step."""
    clean = ink(pictures)
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))

    def coarse(size: int) -> Tensor:
        return resize(resize(pictures, size, size).round().byte(), 128, 128)

    curves = [[pictures + s * noise for s in (8, 16, 32)], [pictures + s * torch.tensor([1.0, -1, 0])[:, None, None] for s in (10, 20, 40)],
              [coarse(size) for size in (64, 32, 16)]]
    for curve in curves:
        values = [frechet(clean, ink(images.round().clamp(0, 255).byte())) for images in curve]
        assert 0 < values[0] < values[1] < values[2]


def test_nearest_picture_is_the_same_one(ink: Extractor, pictures: Tensor) -> None:
    """After a shift by 4 pixels and some noise, 95 % of scenes are still nearest to themselves."""
    noise = 10 * torch.randn(pictures.shape, generator=torch.Generator().manual_seed(1))
    moved = (pictures.roll(4, -1) + noise).round().clamp(0, 255).byte()
    nearest = torch.cdist(ink(moved), ink(pictures)).argmin(1)
    assert (nearest == torch.arange(40)).float().mean() >= 0.95


def test_garments_and_colours_of_photos() -> None:
    """On photos that training did not see: more right than the most common kind, 26 %, by far; colours agree with captions."""
    if not CLOTHING.is_file():
        pytest.skip(f"needs {CLOTHING.name}, which is not beside the repository")
    from inkwash.data.heldout import rank

    bound = json.loads((embedded() / "features.json").read_text("utf-8"))["card"]["held_out"]
    source = open_source([CLOTHING])
    unseen = [i for i in range(len(source)) if rank(source.key(i)) <= bound][::4]
    images = torch.stack([fit(decode(source[i], hint=128), 128) for i in unseen])
    captions = [source.caption(i) for i in unseen]
    kinds = [caption.endswith(f" {name}") for name, caption in zip(garments.names_garment(images), captions)]
    colours = [caption.split("photo of a", 1)[1].lstrip("n ").startswith(name.lstrip("n")) for name, caption in
               zip(garments.names_color(images), captions)]
    assert len(unseen) == 70
    assert sum(kinds) >= 42
    assert sum(colours) >= 49


PURE = {"red": (220, 20, 30), "green": (0, 128, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0), "orange": (255, 165, 0), "white": (255, 255, 255),
        "black": (0, 0, 0), "grey": (128, 128, 128), "navy": (0, 0, 128), "teal": (0, 128, 128), "purple": (128, 0, 128), "pink": (255, 192, 203),
        "olive": (128, 128, 0), "brown": (139, 69, 19), "beige": (245, 245, 220), "light blue": (173, 216, 230)}


def test_pure_colours_have_their_names() -> None:
    images = torch.full((len(PURE), 3, 64, 64), 255, dtype=torch.uint8)
    images[:, :, 12:52, 12:52] = torch.tensor(list(PURE.values()), dtype=torch.uint8)[:, :, None, None]
    assert garments.names_color(images) == list(PURE) == [name for name in PURE if name in garments.COLOURS]


def test_cielab_at_known_points() -> None:
    """White, black and the three primaries of sRGB under D65."""
    found = garments.lab(torch.tensor([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]]))
    known = torch.tensor([[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86]], dtype=torch.float64)
    torch.testing.assert_close(found, known, rtol=0, atol=0.02)


@pytest.fixture(scope="module")
def inception() -> dict[str, Tensor]:
    """Random weights in half the bytes."""
    torch.manual_seed(0)
    tensors = InceptionConfig().build().state_dict()
    return {name: tensor.bfloat16() for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}


def classes(count: int) -> dict[str, Tensor]:
    return {"fc.weight": torch.zeros(count, 2048), "fc.bias": torch.zeros(count)}


def test_inception_from_the_files_of_others(tmp_path: Path, pictures: Tensor, inception: dict[str, Tensor]) -> None:
    """Both ways of naming the FID network give the same features, and torchvision's network others."""
    place = {name: f"blocks.{i}.{j}" for i, names in enumerate(inception_v3._WRAPPED) for j, name in enumerate(names)}
    wrapped = {f"{place[name.split('.', 1)[0]]}.{name.split('.', 1)[1]}": tensor for name, tensor in inception.items()}
    (tmp_path / "folder").mkdir()
    save_tensors(tmp_path / "tf.safetensors", {**inception, **classes(1008)})
    save_tensors(tmp_path / "wrapped.safetensors", wrapped)
    save_tensors(tmp_path / "folder" / "tv.safetensors", {**inception, **classes(1000), "AuxLogits.conv0.conv.weight": torch.zeros(128, 768, 1, 1)})
    found = [load_extractor(str(tmp_path / name)) for name in ("tf.safetensors", "wrapped.safetensors", "folder")]
    assert [one.name for one in found] == ["inception-v3-fid", "inception-v3-fid", "inception-v3-imagenet"]
    assert [one.dim for one in found] == [2048] * 3
    assert found[0].hash == digest({**inception, **classes(1008)})
    a, b, c = (one.network(one.prepare(pictures[:1])) for one in found)  # type: ignore[attr-defined]
    assert torch.equal(a, b)
    assert not torch.allclose(a, c)


def test_files_that_are_no_inception(tmp_path: Path, inception: dict[str, Tensor]) -> None:
    def code(tensors: dict[str, Tensor]) -> tuple[str, str]:
        save_tensors(tmp_path / "x.safetensors", tensors)
        with pytest.raises(CheckpointError) as caught:
            load_extractor(str(tmp_path / "x.safetensors"))
        return caught.value.code, caught.value.message

    lost = "Mixed_6b.branch1x1.conv.weight"
    others = {name: tensor for name, tensor in inception.items() if name != lost}
    wrong, said = code({**others, **classes(1008), "new.bias": torch.zeros(3)})
    assert wrong == "arch_mismatch"
    assert f"{lost}: expected (192, 768, 1, 1), found nothing" in said
    assert "new.bias: expected nothing, found (3,)" in said
    stem = {"Conv2d_1a_3x3.conv.weight": torch.zeros(32, 3, 3, 3)}
    assert "is not an Inception v3" in code({"a.weight": torch.zeros(2)})[1]
    assert "cannot be told apart" in code(stem)[1]
    assert "has 7 classes" in code({**stem, **classes(7)})[1]
    save_tensors(tmp_path / "y.safetensors", stem)
    with pytest.raises(CheckpointError, match="holds 2 safetensors files"):
        load_extractor(str(tmp_path))


def test_clip_of_a_contrastive_run(tmp_path: Path, pictures: Tensor) -> None:
    """Both towers, unit vectors, fixed bits; the folder of a model without an image tower is refused in so many words."""
    torch.manual_seed(1)
    tokenizer = Tokenizer.train(["a small red cube", "two blue cones"] * 5, 280, 16)
    clip = ClipConfig(TextEncoderConfig(vocab=tokenizer.size, width=32, layers=1, heads=2, max_tokens=16),
                      ImageTowerConfig(widths=(16, 16), blocks=(1, 1), out_dim=16), 24).build()
    model = tmp_path / "run" / "model"
    model.mkdir(parents=True)
    save_part(model, "clip", clip)
    save_tokenizer(model, tokenizer)
    with pytest.raises(CheckpointError, match=r"no config\.json with data\.size"):
        load_extractor(f"clip:{model}")
    (tmp_path / "run" / "config.json").write_text(json.dumps({"data": {"size": 64}}))
    found = load_extractor(f"clip:{tmp_path / 'run'}")
    assert isinstance(found, TextExtractor)
    assert (found.dim, found.unit, found.hash) == (24, True, digest(clip.state_dict()))
    images, texts = found(pictures[:3]), found.text(["a small red cube", "two blue cones", "a cube"])
    torch.testing.assert_close(images.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(3))
    assert torch.equal(found.text(["a cube"])[0], texts[2])
    with pytest.raises(UsageError, match="no prompts"):
        found.text([])
    with pytest.raises(CheckpointError, match="carries only the text encoder"):
        load_extractor(f"clip:{embedded().parent / 'mini'}")


def test_clip_of_transformers(tmp_path: Path, pictures: Tensor) -> None:
    """A tiny CLIPModel from its folder: the vectors of transformers' own forward pass, and a file with other tensors is refused."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    torch.manual_seed(2)
    side: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = {word: i for i, word in enumerate(["<pad>", "<start>", "<end>", "a", "red", "cube", "cone", "<unk>"])}
    config = transformers.CLIPConfig(
        text_config={**side, "vocab_size": len(words), "max_position_embeddings": 12, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
        vision_config={**side, "image_size": 32, "patch_size": 8}, projection_dim=20)
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    raw.post_processor = tokenizers.processors.TemplateProcessing(single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<end>", unk_token="<unk>")
    tokenizer.save_pretrained(tmp_path)
    found = load_extractor(str(tmp_path))
    assert isinstance(found, TextExtractor)
    assert (found.dim, found.unit) == (20, True)
    assert found.hash == load_extractor(f"clip:{tmp_path}").hash
    prompts = ["a red cube", "a cone"]
    told = tokenizer(prompts, padding="max_length", max_length=12, return_tensors="pt")
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)))
    with torch.inference_mode():
        whole = model(input_ids=told["input_ids"], attention_mask=told["attention_mask"],
                      pixel_values=(resize(pictures[:2], 32, 32) / 255 - mean) / std)
    torch.testing.assert_close(found(pictures[:2]), whole.image_embeds, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.text(prompts), whole.text_embeds, rtol=1e-4, atol=1e-5)
    tensors = dict(model.state_dict())
    del tensors["visual_projection.weight"]
    save_tensors(tmp_path / "model.safetensors", {name: tensor.clone() for name, tensor in tensors.items()})
    with pytest.raises(CheckpointError, match=r"visual_projection.weight: expected \(20, 32\), found nothing"):
        load_extractor(str(tmp_path))


def test_names_that_are_nothing(tmp_path: Path) -> None:
    for text, code in (("inc", "unknown_extractor"), (f"clip:{tmp_path}", "no_part"), (str(tmp_path), "ckpt_missing")):
        with pytest.raises(InkwashError) as caught:
            load_extractor(text)
        assert caught.value.code == code
