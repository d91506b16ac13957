"""An image depends on its request alone, costs what it says, and a model folder is all or nothing."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from inkwash import Pipeline, Request
from inkwash.core.spacing import Spacing
from inkwash.device import compute_dtype, own_precision
from inkwash.errors import CheckpointError, InkwashError, InkwashWarning, UsageError
from inkwash.io.find import read_info
from inkwash.io.folder import save_info
from inkwash.record import record
from inkwash.sample import Sampler
from inkwash.value import alias_table, parse

ASK = Request("a small red cube", seed=7, steps=4, sampler="ddim", guidance=3.0, width=32, height=32)
OTHERS = [Request("emoji of a cat", seed=1, steps=6, sampler="euler_a", guidance=1.0, width=32, height=32),
          Request("two green cones", "red", seed=2, steps=3, sampler="dpmpp_2m", spacing="karras", guidance=5.0, width=32, height=32),
          Request("two green cones", seed=2, steps=2, sampler="heun", guidance=2.0, width=48, height=32),
          Request("a leather jacket", seed=3, steps=5, sampler="unipc", guidance="CFG(scale=4.0)", width=32, height=32)]


@pytest.fixture(scope="module", params=["float32", "fastest"])
def pipe(request: pytest.FixtureRequest, tiny_model: Path) -> Pipeline:
    dtype = torch.float32 if request.param == "float32" else None
    pipeline = Pipeline.from_pretrained(tiny_model, dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_S8_an_image_has_the_same_bytes_in_any_company(pipe: Pipeline) -> None:
    alone = pipe.generate([ASK])[0]
    for company in ([ASK, *OTHERS], [*OTHERS, ASK], [*OTHERS[:2], ASK, *OTHERS[2:]], [ASK, ASK], [ASK] * 5):
        made = pipe.generate(company)
        for i, request in enumerate(company):
            if request == ASK:
                assert torch.equal(made[i].pixels, alone.pixels)
                assert torch.equal(made[i].latent, alone.latent)
                assert made[i].nfe == alone.nfe


def test_S8_image_i_of_n_is_the_image_of_seed_plus_i(pipe: Pipeline) -> None:
    many = pipe("a small red cube", seed=40, num_images_per_prompt=3, output_type="latent")
    assert many.seeds == [40, 41, 42]
    for i in range(3):
        assert torch.equal(pipe("a small red cube", seed=40 + i, output_type="latent").images[0], many.images[i])
    assert not torch.equal(many.images[0], many.images[1])


def test_the_self_test_says_exact_here_and_tolerance_for_a_network_that_depends_on_its_slot(tiny_model: Path) -> None:
    pipe = Pipeline.from_pretrained(tiny_model)
    assert pipe.determinism == "exact"
    shape = pipe.codec.shape(32, 32)
    assert next(iter(pipe.call_seconds(shape, 8))) == pipe.micro_batch
    pipe.denoiser.network.register_forward_hook(lambda module, given, out: out + 1e-3 * torch.arange(len(out)).reshape(-1, 1, 1, 1))
    pipe.to("cpu")
    assert pipe.determinism == "tolerance"
    assert list(pipe.call_seconds(shape, 8)) == [2]


def test_a_preview_of_a_network_in_training_leaves_it_in_training(tiny_model: Path) -> None:
    pipe = Pipeline.from_pretrained(tiny_model)
    modes = []
    pipe.denoiser.network.register_forward_hook(lambda module, given, out: modes.append(module.training))
    for training in (False, True):
        pipe.denoiser.train(training)
        pipe.generate([ASK], decode=False)
        assert pipe.denoiser.network.training is training
    assert not any(modes)


def test_any_micro_batch_can_be_asked_for(tiny_model: Path) -> None:
    pipe = Pipeline.from_pretrained(tiny_model)
    for size in (1, 3, 4, 16):
        pipe.micro_batch = size
        pipe.to("cpu")
        assert next(iter(pipe.call_seconds(pipe.codec.shape(32, 32), 8))) == size
        assert len(pipe.generate([dataclasses.replace(ASK, steps=1)] * 9, decode=False)) == 9


def test_an_autocast_of_the_caller_changes_no_bit(pipe: Pipeline) -> None:
    [alone] = pipe.generate([ASK])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        [inside] = pipe.generate([ASK])
    assert torch.equal(inside.latent, alone.latent)
    assert torch.equal(inside.pixels, alone.pixels)


def test_the_self_test_tries_the_kernels_that_draw_whatever_autocast_the_caller_has(tiny_model: Path) -> None:
    pipe = Pipeline.from_pretrained(tiny_model, dtype=torch.float32)
    seen = set()
    pipe.denoiser.network.out.register_forward_hook(lambda module, given, out: seen.add(out.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert pipe.determinism == "exact"
        pipe.call_seconds(pipe.codec.shape(32, 32), 4)
    assert seen == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_a_default_type_of_the_caller_changes_no_bit(pipe: Pipeline, tiny_model: Path, dtype: torch.dtype) -> None:
    [alone] = pipe.generate([ASK])
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        [inside] = Pipeline.from_pretrained(tiny_model, dtype=pipe.dtype).generate([ASK])
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(inside.latent, alone.latent)
    assert torch.equal(inside.pixels, alone.pixels)


def _settings() -> list[str]:
    parts = (torch.backends, torch.backends.mkldnn, torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv, torch.backends.mkldnn.rnn)
    return [part.fp32_precision for part in parts]


@pytest.mark.parametrize("part", ["legacy", "generic", "backend", "operator"])
def test_a_float32_precision_of_the_caller_changes_no_bit_and_is_put_back(pipe: Pipeline, part: str) -> None:
    backends = {"generic": torch.backends, "backend": torch.backends.mkldnn, "operator": torch.backends.mkldnn.matmul}
    [alone] = pipe.generate([ASK])
    legacy, before, seen = torch.get_float32_matmul_precision(), _settings(), []
    hook = pipe.denoiser.network.register_forward_hook(lambda *_: seen.append(torch.backends.mkldnn.matmul.fp32_precision))
    try:
        if part == "legacy":
            torch.set_float32_matmul_precision("medium")
        else:
            backends[part].fp32_precision = "bf16"
        set_by_caller = _settings()
        [inside] = pipe.generate([ASK])
        assert _settings() == set_by_caller
        with pytest.raises(UsageError):
            pipe.generate([dataclasses.replace(ASK, sampler="nothing")])
        assert _settings() == set_by_caller
    finally:
        hook.remove()
        if part == "legacy":
            torch.set_float32_matmul_precision(legacy)
            torch.backends.mkldnn.matmul.fp32_precision = before[2]
        else:
            backends[part].fp32_precision = "none"
    assert _settings() == before                           # what was inherited is inherited again
    assert set(seen) == {"ieee"}
    assert torch.equal(inside.latent, alone.latent)
    assert torch.equal(inside.pixels, alone.pixels)


def test_a_float32_precision_stays_ours_until_the_last_thread_is_done() -> None:
    host, setting = own_precision(torch.device("cpu")), torch.backends.mkldnn.matmul
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with host:
            entered.set()
            assert leave.wait(60)

    setting.fp32_precision = "bf16"
    try:
        with host:
            thread = threading.Thread(target=other)
            thread.start()
            assert entered.wait(60)
        assert setting.fp32_precision == "ieee"
        leave.set()
        thread.join()
        assert setting.fp32_precision == "bf16"
    finally:
        setting.fp32_precision = "none"


def test_an_accelerator_has_its_own_precisions() -> None:
    parts = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
    before = [part.fp32_precision for part in parts]
    try:
        for part, other in zip(parts, ("tf32", "ieee", "ieee")):
            part.fp32_precision = other
        with own_precision(torch.device("cuda")):
            assert [part.fp32_precision for part in parts] == ["ieee", "tf32", "tf32"]
        assert [part.fp32_precision for part in parts] == ["tf32", "ieee", "ieee"]
    finally:
        for part, value in zip(parts, before):
            part.fp32_precision = value


def test_what_it_returns_can_be_trained_on_and_changed_in_place(pipe: Pipeline) -> None:
    seen: list[torch.Tensor] = []
    [made] = pipe.generate([ASK], lambda progress: seen.append(progress.x0))
    weight = torch.ones((), requires_grad=True)
    for tensor in (made.latent, seen[-1], pipe.encode("a cat")["pooled"], made.pixels):
        (tensor.float() * weight).square().sum().backward()
        tensor.add_(1)
    assert weight.grad is not None
    assert bool(weight.grad)


def test_a_default_device_of_the_caller_and_its_random_numbers_are_left_alone(pipe: Pipeline, tiny_model: Path) -> None:
    [alone] = pipe.generate([ASK])
    before = torch.get_rng_state()
    with torch.device("meta"):                             # as an accelerator would be, and every machine has it
        [inside] = Pipeline.from_pretrained(tiny_model, dtype=pipe.dtype).generate([ASK])
        assert torch.empty(0).device.type == "meta"
    assert torch.equal(inside.pixels, alone.pixels)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_hash_is_of_the_model_that_was_loaded(tiny_model: Path, stranger_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    pipe = Pipeline.from_pretrained(folder)
    Pipeline.from_pretrained(stranger_model).save_pretrained(folder)
    assert pipe.hash == Pipeline.from_pretrained(tiny_model).hash != Pipeline.from_pretrained(folder).hash


def test_a_decoder_that_leaves_the_finite_numbers_is_reported(tiny_model: Path) -> None:
    pipe = Pipeline.from_pretrained(tiny_model)
    with torch.no_grad():
        pipe.codec.vae.pixels.bias.fill_(float("nan"))
    [broken] = pipe.generate([ASK])
    assert "not finite" in broken.warnings[-1]
    assert set(broken.pixels.flatten().tolist()) == {128}


def test_numbers_that_are_not_finite_are_reported(tiny_model: Path) -> None:
    pipe = Pipeline.from_pretrained(tiny_model)
    fine = pipe.generate([ASK])[0]

    pipe.denoiser.network.register_forward_hook(lambda module, given, out: torch.where(given[1].reshape(-1, 1, 1, 1) == 1000.0, torch.nan, out))
    broken = pipe.generate([ASK])[0]
    assert "not finite" in broken.warnings[-1]
    assert bool(broken.latent.isfinite().all())
    assert not fine.warnings


@pytest.mark.parametrize(("guidance", "sampler", "steps"), [(3.0, "ddim", 4), (1.0, "ddim", 4), (3.0, "heun", 3), (1.0, "dpmpp_2m", 30)])
def test_S15_nfe_is_the_number_of_rows_that_a_hook_counts(tiny_model: Path, guidance: float, sampler: str, steps: int) -> None:
    pipe = Pipeline.from_pretrained(tiny_model)
    pipe.micro_batch = 1  # no filling up, so that every row counts
    rows = []
    pipe.denoiser.network.register_forward_hook(lambda module, given, out: rows.append(len(given[0])))
    pipe.calls = lambda shape, pending: lambda count: (1,) * count  # type: ignore[method-assign]
    [image] = pipe.generate([dataclasses.replace(ASK, guidance=guidance, sampler=sampler, steps=steps)])
    assert image.nfe == sum(rows)
    if sampler != "heun":
        assert image.nfe == steps * (1 if guidance == 1.0 else 2)


def test_T02_thirty_steps_are_thirty_network_calls_at_every_spacing(tiny_model: Path) -> None:
    pipe = Pipeline.from_pretrained(tiny_model)
    spacings = list(alias_table(Spacing))
    images = pipe.generate([dataclasses.replace(ASK, steps=30, guidance=1.0, spacing=spacing) for spacing in spacings], decode=False)
    assert {spacing: image.nfe for spacing, image in zip(spacings, images)} == dict.fromkeys(spacings, 30)


def test_every_sampler_runs_in_one_batch_and_gives_its_solo_image(tiny_model: Path) -> None:
    pipe = Pipeline.from_pretrained(tiny_model)
    requests = [dataclasses.replace(ASK, sampler=name, steps=3) for name in alias_table(Sampler)]
    together = pipe.generate(requests, decode=False)
    for request, image in zip(requests[::5], together[::5]):
        assert torch.equal(pipe.generate([request], decode=False)[0].latent, image.latent), request.sampler
    assert all(bool(image.latent.isfinite().all()) for image in together)


def test_G12_a_negative_prompt_is_reported_as_inert_without_guidance_and_works_with_it(pipe: Pipeline) -> None:
    plain, negative = (dataclasses.replace(ASK, guidance=1.0, negative=text) for text in ("", "blue sphere"))
    a, b = pipe.generate([plain, negative])
    assert torch.equal(a.latent, b.latent)
    assert not a.warnings
    assert "inert" in b.warnings[0]
    c, d = pipe.generate([ASK, dataclasses.replace(ASK, negative="blue sphere")])
    assert not torch.equal(c.latent, d.latent)
    assert not d.warnings


def test_guidance_by_name_equals_guidance_by_number(pipe: Pipeline) -> None:
    a, b, c = pipe.generate([ASK, dataclasses.replace(ASK, guidance="CFG(scale=3.0)"), dataclasses.replace(ASK, guidance="none")])
    assert torch.equal(a.latent, b.latent)
    assert c.nfe == 4


def test_words_never_seen_sizes_never_trained_and_cut_prompts_are_reported(pipe: Pipeline) -> None:
    with pytest.warns(InkwashWarning) as caught:
        found = pipe("a red xylophone, " + "green " * 20, seed=1, width=48, num_inference_steps=2)
    text = " | ".join(found.warnings[0])
    assert "xylophone" in text
    assert "48x32" in text
    assert "left out: 'green" in text
    assert len(caught) == 3


def test_output_types_have_the_same_pixels(pipe: Pipeline) -> None:
    pil, pt, array = (pipe("a cat", seed=1, output_type=kind).images for kind in ("pil", "pt", "np"))
    assert pt.shape == (1, 3, 32, 32)
    assert array.shape == (1, 32, 32, 3)
    assert np.array_equal(np.asarray(pil[0]), (array[0] * 255).round().astype(np.uint8))
    assert torch.equal(pt[0], torch.from_numpy(array[0]).permute(2, 0, 1))
    assert pipe("a cat", seed=1, output_type="latent").images.shape == (1, 4, 8, 8)
    with pytest.raises(UsageError, match="output_type"):
        pipe("a cat", output_type="jpeg")


def test_a_generator_draws_the_seed_and_moves_on(pipe: Pipeline) -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (pipe("a cat", generator=generator, num_inference_steps=1).seeds for _ in range(2))
    assert first != second
    assert pipe("a cat", generator=torch.Generator().manual_seed(0), num_inference_steps=1).seeds == first
    pair = [torch.Generator().manual_seed(i) for i in range(2)]
    assert pipe(["a cat", "a cube"], generator=pair, num_inference_steps=1).seeds[0] == first[0]
    for wrong in ({"seed": 1, "generator": generator}, {"generator": pair}, {"seed": -1}, {"seed": 2**63 - 1, "num_images_per_prompt": 2}):
        with pytest.raises(UsageError) as caught:
            pipe("a cat", **wrong)
        assert caught.value.code == "bad_seed"


def test_the_callback_sees_every_step(pipe: Pipeline) -> None:
    seen = []
    pipe("a cat", seed=1, callback_on_step_end=lambda self, step, steps, kept: seen.append((step, steps, kept["latents"].shape)))
    assert seen == [(i, 4, (1, 4, 8, 8)) for i in range(4)]


def test_on_step_names_requests_whatever_their_sizes(pipe: Pipeline) -> None:
    requests, seen = [ASK, OTHERS[2], OTHERS[1]], []
    pipe.generate(requests, lambda told: seen.append((told.done, told.total, told.which.tolist(), tuple(told.x0.shape))))
    small, wide = [row for row in seen if row[3][3] == 8], [row for row in seen if row[3][3] == 12]
    assert small == [(1, 4, [0, 2], (2, 4, 8, 8)), (2, 4, [0, 2], (2, 4, 8, 8)), (3, 4, [0, 2], (2, 4, 8, 8)), (4, 4, [0], (1, 4, 8, 8))]
    assert [row[:3] for row in wide] == [(1, 2, [1]), (2, 2, [1])]


@pytest.mark.parametrize(("change", "code"), [({"sampler": "ddimm"}, "unknown_name"), ({"width": 40}, "invalid_size"),
                                              ({"height": 640}, "invalid_size"), ({"num_inference_steps": 0}, "bad_steps"),
                                              ({"guidance_scale": float("nan")}, "bad_guidance"),
                                              ({"guidance_scale": "50%"}, "bad_guidance"), ({"spacing": "nope"}, "unknown_name"),
                                              ({"guidance_scale": "AutoGuidance()"}, "unknown_branch")])
def test_wrong_arguments_are_refused_before_the_network_runs(tiny_model: Path, change: dict[str, object], code: str) -> None:
    pipe = Pipeline.from_pretrained(tiny_model)
    calls = []
    pipe.denoiser.network.register_forward_hook(lambda *given: calls.append(1))
    pipe.set_progress_bar_config(disable=True)
    with pytest.raises(UsageError) as caught:
        pipe("a cat", **change)
    assert caught.value.code == code
    assert not calls


def test_saved_and_loaded_again_it_is_the_same_model(tiny_model: Path, tmp_path: Path) -> None:
    pipe = Pipeline.from_pretrained(tiny_model, dtype=torch.float32)
    pipe.save_pretrained(tmp_path / "copy")
    again = Pipeline.from_pretrained(tmp_path / "copy", dtype=torch.float32)
    assert again.hash == pipe.hash
    assert torch.equal(again.generate([ASK])[0].latent, pipe.generate([ASK])[0].latent)
    again.save_pretrained(tmp_path / "copy", dtype=torch.bfloat16)  # replaces a model
    assert Pipeline.from_pretrained(tmp_path / "copy").hash != pipe.hash
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_bytes(b"x")
    with pytest.raises(UsageError, match="other things"):
        pipe.save_pretrained(tmp_path / "photos")
    assert (tmp_path / "photos" / "me.jpg").exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_pipeline_made_of_parts_has_the_number_format_of_its_networks(tiny_model: Path, dtype: torch.dtype) -> None:
    whole = Pipeline.from_pretrained(tiny_model, dtype=dtype)
    made = Pipeline(whole.denoiser, whole.codec, whole.conditioner, whole.info, whole.source)
    assert (made.dtype, made.device) == (dtype, torch.device("cpu"))
    assert made.determinism == whole.determinism
    first, second = (record(pipe.generate([ASK])[0], pipe, "0" * 64) for pipe in (made, whole))
    assert first == second
    moved = Pipeline(whole.denoiser.to("meta"), whole.codec, whole.conditioner, whole.info)
    assert moved.device.type == "meta"


def test_tiled_decoding_is_close_to_whole_decoding(tiny_model: Path) -> None:
    pipe = Pipeline.from_pretrained(tiny_model, dtype=torch.float32)
    request = dataclasses.replace(ASK, width=64, height=64, steps=1)
    whole = pipe.generate([request])[0].pixels.int()
    pipe.enable_vae_tiling(48)
    tiled = pipe.generate([request])[0].pixels.int()
    assert not torch.equal(whole[:, :1], whole[:, 1:2])
    assert float((whole - tiled).abs().float().mean()) < 2


def test_unknown_devices_are_refused(tiny_model: Path) -> None:
    for name in ("tpu", "cuda:99", "meta", ""):
        with pytest.raises(UsageError, match="available: auto, cpu"):
            Pipeline.from_pretrained(tiny_model, device=name)
    assert compute_dtype(torch.device("cpu")) in (torch.bfloat16, torch.float32)


def _damage(folder: Path, what: str) -> None:
    if what == "weights":
        path = folder / "unet" / "diffusion_pytorch_model.safetensors"
        data = bytearray(path.read_bytes())
        data[-3] ^= 0x10
        path.write_bytes(data)
    elif what == "config":
        path = folder / "vae" / "config.json"
        path.write_text(path.read_text().replace("16, 16", "16, 32"))
    elif what == "info":
        path = folder / "inkwash.json"
        path.write_text(path.read_text().replace("V()", "Eps()"))
    elif what == "tokenizer":
        (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    elif what == "missing":
        (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    elif what == "newer":
        raw = json.loads((folder / "inkwash.json").read_text())
        (folder / "inkwash.json").write_text(json.dumps({**raw, "format": 99}))
    elif what == "process":
        save_info(folder, dataclasses.replace(read_info(folder), prediction="Nonsense()"))
    elif what == "json":
        (folder / "inkwash.json").write_text("{" * 10)


@pytest.mark.parametrize(("what", "code"), [("weights", "ckpt_corrupt"), ("config", "model_damaged"), ("info", "model_damaged"),
                                            ("tokenizer", "model_damaged"), ("missing", "ckpt_missing"), ("newer", "model_too_new"),
                                            ("process", "model_damaged"), ("json", "model_damaged")])
def test_a_damaged_model_is_refused(tiny_model: Path, tmp_path: Path, what: str, code: str) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    _damage(folder, what)
    with pytest.raises(CheckpointError) as caught:
        Pipeline.from_pretrained(folder)
    assert caught.value.code == code
    assert caught.value.exit_code == 4
    if what == "weights":
        assert "tensor" in caught.value.message


def test_a_process_that_does_not_exist_is_damage_too(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    save_info(folder, dataclasses.replace(read_info(folder), process="Parabola()"))     # with a manifest to match
    with pytest.raises(CheckpointError, match="Parabola"):
        Pipeline.from_pretrained(folder)


def test_a_request_survives_its_text(pipe: Pipeline) -> None:
    for request in (ASK, *OTHERS):
        assert Request(**json.loads(json.dumps(dataclasses.asdict(request)))) == request
        assert str(parse(request.sampler, Sampler)) == request.sampler  # type: ignore[type-abstract]


@pytest.mark.parametrize(("change", "code"), [({"prompt": None}, "bad_prompt"), ({"prompt": 5}, "bad_prompt"), ({"generator": 5}, "bad_seed"),
                                              ({"image": PIL.Image.new("RGB", (0, 0))}, "image_unreadable")])
def test_arguments_of_another_type_are_refused_by_name(pipe: Pipeline, change: dict[str, object], code: str) -> None:
    with pytest.raises(InkwashError) as caught:
        pipe(**{"prompt": "a cube", "num_inference_steps": 1, **change})  # type: ignore[arg-type]
    assert caught.value.code == code


def test_seeds_and_steps_may_be_numbers_of_numpy(pipe: Pipeline) -> None:
    out = pipe("a cube", num_inference_steps=np.int64(1), guidance_scale=np.float32(2), seed=np.int64(7))  # type: ignore[arg-type]
    assert out.seeds == [7]


def test_sizes_may_be_numbers_of_numpy_beside_a_picture_too(pipe: Pipeline) -> None:
    wide, high = map(np.int64, pipe.info.sizes.default)
    picture = PIL.Image.new("RGB", (int(wide), int(high)), "red")
    out = pipe("a cube", num_inference_steps=1, width=wide, height=high, image=picture, output_type="latent")  # type: ignore[arg-type]
    assert len(out.images) == 1


def test_a_model_is_not_saved_over_a_file(pipe: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("kept")
    with pytest.raises(UsageError, match="is a file"):
        pipe.save_pretrained(tmp_path / "notes")
    assert (tmp_path / "notes").read_text() == "kept"
