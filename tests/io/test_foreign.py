"""Folders of diffusers open here with the same pictures, and folders of ours open there (row L7 and the folder layout)."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from inkwash.cli.main import run
from inkwash.codec import Latent
from inkwash.companion import require_same_space
from inkwash.condition import NullConfig, TextConditioner
from inkwash.core.coordinate import Coordinate
from inkwash.core.prediction import V
from inkwash.denoiser import Denoiser
from inkwash.errors import CheckpointError
from inkwash.io.find import read_info
from inkwash.io.foreign import _name, foreign_tokenizer
from inkwash.io.foreign_config import from_foreign, to_foreign
from inkwash.io.foreign_info import process_of
from inkwash.io.info import ModelInfo, Sizes
from inkwash.nn import AutoencoderKLConfig, ClipTextConfig, NetworkConfig, UNet2DConfig
from inkwash.pipeline import Pipeline
from inkwash.request import Request
from inkwash.value import parse

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

WIDTHS, LENGTH = (16, 32), 12
SCHEDULER: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "timestep_spacing": "trailing"}
PROMPT = "The  cat, it's naïve 42!"


def tokenizer(folder: Path) -> Any:
    """CLIP's tokenizer with four merges, and the two files that published models have."""
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(letter + "</w>" for letter in letters), "th", "the</w>", "ca", "cat</w>", "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\nt h\nth e</w>\nc a\nca t</w>\n", encoding="utf-8")
    return transformers.CLIPTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=LENGTH)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion with random weights, written by diffusers."""
    where = tmp_path_factory.mktemp("foreign")
    torch.manual_seed(0)
    words = tokenizer(where / "words")
    last = len(words) - 1
    text = transformers.CLIPTextModel(transformers.CLIPTextConfig(
        vocab_size=last + 1, hidden_size=16, intermediate_size=32, projection_dim=12, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=LENGTH, bos_token_id=last - 1, eos_token_id=last, pad_token_id=last))
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=WIDTHS, layers_per_block=1, cross_attention_dim=16, norm_num_groups=8, attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
    vae = diffusers.AutoencoderKL(block_out_channels=WIDTHS, layers_per_block=1, norm_num_groups=8, latent_channels=4, sample_size=16,
                                  down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)
    scheduler = diffusers.DDIMScheduler(**SCHEDULER, clip_sample=False, set_alpha_to_one=True, steps_offset=1)
    diffusers.StableDiffusionPipeline(vae=vae, text_encoder=text, tokenizer=words, unet=unet, scheduler=scheduler, safety_checker=None,
                                      feature_extractor=None, requires_safety_checker=False).save_pretrained(where / "tiny-sd")
    shutil.copytree(where / "words", where / "tiny-sd" / "words")
    return where / "tiny-sd"


def open_there(folder: Path) -> Any:
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def request(sampler: str) -> Request:
    return Request(PROMPT, "a dog", 3, 5, sampler, "trailing", 7.5, 16, 16)


def picture_there(pipe: Any, scheduler: Any, start: Tensor) -> Tensor:
    """Their picture (3, H, W) in 0..1 from our start x in the VP gauge."""
    pipe.scheduler = scheduler
    scheduler.set_timesteps(5)
    at_start = start / scheduler.alphas_cumprod[-1].sqrt() if "Euler" in type(scheduler).__name__ else start
    latents = (at_start / scheduler.init_noise_sigma)[None].float()
    out = pipe(PROMPT, negative_prompt="a dog", num_inference_steps=5, guidance_scale=7.5, height=16, width=16, latents=latents, output_type="pt")
    return out.images[0]


@pytest.mark.parametrize(("sampler", "kind"), [("ddim", "DDIMScheduler"), ("euler", "EulerDiscreteScheduler")])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_foreign_folder_gives_the_pictures_of_diffusers(theirs: Path, tmp_path: Path, sampler: str, kind: str, prediction: str) -> None:
    folder = Path(shutil.copytree(theirs, tmp_path / "model"))
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "prediction_type": prediction}), encoding="utf-8")
    ours = Pipeline.from_pretrained(folder, dtype=torch.float32)
    start = ours.program(request(sampler)).x
    options = {"clip_sample": False, "set_alpha_to_one": True} if sampler == "ddim" else {}
    scheduler = getattr(diffusers, kind)(**SCHEDULER, prediction_type=prediction, **options)
    image = ours.generate([request(sampler)])[0]
    assert image.pixels is not None
    torch.testing.assert_close(image.pixels.float() / 255, picture_there(open_there(folder), scheduler, start), atol=1.5 / 255, rtol=0)


def test_zero_terminal_snr_and_the_defaults_are_read(theirs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(theirs, tmp_path / "model"))
    scheduler = diffusers.EulerDiscreteScheduler(**{**SCHEDULER, "timestep_spacing": "leading"}, prediction_type="v_prediction",
                                                 rescale_betas_zero_snr=True)
    scheduler.save_pretrained(folder / "scheduler")
    pipe = Pipeline.from_pretrained(folder)
    assert float(pipe.schedule(1.0).alpha) == 0.0
    assert (pipe.info.defaults.sampler, pipe.info.defaults.spacing, pipe.info.sizes.default) == ("euler", "leading", (16, 16))
    wanted = diffusers.DDIMScheduler(**SCHEDULER, rescale_betas_zero_snr=True).alphas_cumprod
    steps = torch.arange(1, 1001, dtype=torch.float64) / 1000
    torch.testing.assert_close(pipe.schedule(steps).alpha.square().float(), wanted, atol=1e-5, rtol=0)


def test_a_foreign_folder_is_inspected(theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(theirs), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["written_by"] == "diffusers"
    assert {part["part"]: part["parameters"] for part in found["parts"]}["unet"] == sum(
        item.numel() for item in Pipeline.from_pretrained(theirs).denoiser.network.parameters())


def test_prompts_have_the_ids_of_transformers(theirs: Path, tmp_path: Path) -> None:
    texts = [PROMPT, "", "cat " * 20, "THE\tcat\n'll x9"]
    wanted = open_there(theirs).tokenizer(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt").input_ids
    for source in ("tokenizer", "words"):                                               # one file of tokenizers, or the two files of old models
        folder = Path(shutil.copytree(theirs, tmp_path / source))
        if source == "words":
            shutil.rmtree(folder / "tokenizer")
            shutil.copytree(folder / "words", folder / "tokenizer")
        conditioner = Pipeline.from_pretrained(folder).conditioner
        assert isinstance(conditioner, TextConditioner)
        assert torch.equal(conditioner.tokenizer(texts).ids, wanted)


def trained_here(words: Path) -> Pipeline:
    """A pipeline of our networks, as a training here would leave it, with other sizes than the foreign one."""
    torch.manual_seed(1)
    encoder = ClipTextConfig(518, 24, 48, 1, 3, LENGTH, end=517).build()
    unet = UNet2DConfig(widths=WIDTHS, blocks=1, down=("none", "text"), up=("none", "text"), heads=(2, 4), depth=(1, 2), text_dim=24, groups=8,
                        linear=True, image=8).build()
    vae = AutoencoderKLConfig(widths=WIDTHS, blocks=1, groups=8, image=16).build()
    with torch.no_grad():
        for parameter in (*unet.parameters(), *vae.parameters()):
            if not parameter.any():
                parameter.normal_(std=0.1)
    vae.absorb(torch.full((4,), 0.5), torch.tensor([1.0, 2.0, 3.0, 0.5]))                # statistics that diffusers' one scale cannot say
    process = "ScaledLinear()"
    info = ModelInfo("tiny", process, "V()", coordinate=f"TimeIndex({process}, 1000.0, -1.0)", channels=4, factor=2, mean=(0.0,) * 4, std=(2.0,) * 4,
                     length=LENGTH, sizes=Sizes((16, 16), 4, 32, 4))
    denoiser = Denoiser(unet, V(), coordinate=parse(info.coordinate, Coordinate))  # type: ignore[type-abstract]
    tokens = foreign_tokenizer(words.parent, LENGTH)
    codec = Latent(vae.eval(), info.mean, info.std, 2)
    return Pipeline(denoiser.eval(), codec, TextConditioner(tokens, encoder, None), info).to("cpu", torch.float32)


def test_a_folder_of_ours_opens_in_diffusers_with_the_same_pictures(theirs: Path, tmp_path: Path) -> None:
    made = trained_here(theirs / "tokenizer")
    made.save_pretrained(tmp_path / "model")
    ours = Pipeline.from_pretrained(tmp_path / "model", dtype=torch.float32)
    image = ours.generate([request("ddim")])[0]
    first = made.generate([request("ddim")])[0]
    assert image.pixels is not None
    assert first.pixels is not None
    assert torch.equal(image.pixels, first.pixels)
    pipe = open_there(tmp_path / "model")
    config = dict(pipe.scheduler.config)
    scheduler = diffusers.DDIMScheduler.from_config(config)
    assert config["prediction_type"] == "v_prediction"
    there = picture_there(pipe, scheduler, ours.program(request("ddim")).x)
    torch.testing.assert_close(image.pixels.float() / 255, there, atol=1.5 / 255, rtol=0)


def test_a_learned_null_token_keeps_the_folder_ours(theirs: Path, tmp_path: Path) -> None:
    """diffusers would put the empty prompt in its place, and the pictures would differ."""
    pipe = trained_here(theirs / "tokenizer")
    assert isinstance(pipe.conditioner, TextConditioner)
    pipe.conditioner.empty = NullConfig(24, 24).build()
    pipe.save_pretrained(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "model_index.json").read_text("utf-8"))["_class_name"] == "Pipeline"


CONFIGS = ["sd1", "sd2", "sdxl", "ddpm_cifar10", "sd_vae", "sd1(guidance=True)", "clip_vit_l_14", "openclip_vit_h_14"]


@pytest.mark.parametrize("text", CONFIGS)
def test_configs_survive_the_way_there_and_back(text: str) -> None:
    config = parse(text, NetworkConfig)  # type: ignore[type-abstract]
    assert from_foreign(to_foreign(config)) == config


@pytest.mark.parametrize("text", CONFIGS[:6])
def test_diffusers_builds_the_same_names_and_shapes(text: str) -> None:
    config = parse(text, NetworkConfig)  # type: ignore[type-abstract]
    raw = to_foreign(config)
    with torch.device("meta"):
        there = getattr(diffusers, raw["_class_name"]).from_config(raw).state_dict()
        here = config.build().state_dict()
    assert {name: tensor.shape for name, tensor in there.items()} == {name: tensor.shape for name, tensor in here.items()}


@pytest.mark.parametrize(("change", "word"), [
    ({"class_embed_type": "timestep"}, "class_embed_type"), ({"conv_in_kernel": 5}, "conv_in_kernel"), ({"new_part": 7}, "new_part"),
    ({"down_block_types": ["SimpleCrossAttnDownBlock2D"] * 4}, "SimpleCrossAttnDownBlock2D"),
    ({"layers_per_block": [1, 2, 2, 2]}, "layers_per_block"),
    ({"_class_name": "FluxTransformer2DModel"}, "FluxTransformer2DModel"), ({"cross_attention_dim": None}, "UNet2DConditionModel"),
    ({"_class_name": None, "architectures": 5}, "nothing"), ({"norm_num_groups": 0}, "ZeroDivisionError"), ({"in_channels": math.inf}, "infinity"),
    ({"norm_eps": 10**400}, "too large")], ids=lambda value: str(value)[:40])
def test_what_is_not_understood_is_refused_by_name(change: dict[str, Any], word: str) -> None:
    raw = {**to_foreign(parse("sd1", NetworkConfig)), **change}  # type: ignore[type-abstract]
    with pytest.raises(CheckpointError, match=word) as caught:
        from_foreign(raw)
    assert caught.value.code == "unsupported_model"


@pytest.mark.parametrize("raw", [{"beta_schedule": "exp"}, {"thresholding": True}])
def test_an_unknown_noise_process_is_refused(raw: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError):
        process_of(raw)


@pytest.mark.parametrize("change", [{"block_out_channels": None}, {"sample_size": 1, "block_out_channels": [16] * 6}, {"sample_size": "large"},
                                    {"sample_size": math.inf}], ids=str)
def test_a_config_that_cannot_be_read_is_damage(theirs: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    folder = Path(shutil.copytree(theirs, tmp_path / "model"))
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError) as caught:
        read_info(folder)
    assert caught.value.code == "model_damaged"


def test_a_part_without_its_weights_has_no_hash(theirs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(theirs, tmp_path / "model"))
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointError) as caught:
        require_same_space(folder, theirs)
    assert caught.value.code == "ckpt_missing"


def test_a_foreign_file_with_other_shapes_is_refused(theirs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(theirs, tmp_path / "model"))
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "cross_attention_dim": 24}), encoding="utf-8")
    with pytest.raises(CheckpointError) as caught:
        Pipeline.from_pretrained(folder)
    assert caught.value.code == "arch_mismatch"


def test_a_config_of_boundless_size_takes_no_memory(theirs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(theirs, tmp_path / "model"))
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "cross_attention_dim": 10**13}), encoding="utf-8")
    with pytest.raises(CheckpointError) as caught:
        Pipeline.from_pretrained(folder)
    assert caught.value.code == "arch_mismatch"


def test_old_names_of_attention_are_read() -> None:
    assert _name("encoder.mid_block.attentions.0.query.weight", "vae") == "encoder.mid_block.attentions.0.to_q.weight"
    assert _name("decoder.mid_block.attentions.0.proj_attn.bias", "vae") == "decoder.mid_block.attentions.0.to_out.0.bias"
    assert _name("text_model.embeddings.position_ids", "text_encoder") == ""
    assert _name("final_layer_norm.bias", "text_encoder") == "text_model.final_layer_norm.bias"
