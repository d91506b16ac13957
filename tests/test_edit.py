"""Image to image and painting through a whole model: what is kept keeps its bits, and an image still depends on its request alone."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from inkwash import Pipeline, Request
from inkwash.core.level import Clean
from inkwash.errors import DataError, InkwashError, InkwashWarning, UsageError
from inkwash.picture import Picture
from inkwash.request import as_dict

SIDE = 32


def drawn(seed: int = 0, side: int = SIDE) -> Picture:
    return Picture(side, side, np.random.default_rng(seed).integers(0, 256, 3 * side * side, dtype=np.uint8).tobytes())


def flat(value: int, side: int = SIDE) -> Picture:
    return Picture(side, side, bytes([value]) * (3 * side * side))


HALF = Picture(SIDE, SIDE, (b"\xff" * 3 * (SIDE // 2) + b"\0" * 3 * (SIDE // 2)) * SIDE)                       # the left half is painted
EDIT = Request("a small red cube", seed=7, steps=8, sampler="dpmpp_2m", guidance=3.0, width=SIDE, height=SIDE, image=drawn(), strength=0.6)


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> Pipeline:
    pipeline = Pipeline.from_pretrained(tiny_model, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize(("strength", "rows"), [(0.01, 1), (0.3, 2), (0.6, 5), (0.99, 8), (1.0, 8)])
def test_K2_rows_run_are_the_share_of_steps_and_reported(pipe: Pipeline, strength: float, rows: int) -> None:
    [made] = pipe.generate([dataclasses.replace(EDIT, strength=strength, guidance=1.0)])
    assert made.rows == made.nfe == rows == max(1, round(strength * 8))


def test_K2_strength_one_is_text_to_image_and_strength_zero_the_picture(pipe: Pipeline) -> None:
    """On a schedule that ends in pure noise the first is equal to the bit."""
    free = dataclasses.replace(EDIT, image=None, strength=None)
    whole, plain, least = pipe.generate([dataclasses.replace(EDIT, strength=1.0), free, dataclasses.replace(EDIT, strength=1e-6)])
    assert torch.equal(whole.pixels, plain.pixels)
    assert EDIT.image is not None
    code = pipe.codec.encode(EDIT.image.pixels()[None]).x
    assert torch.allclose(least.latent, code[0], atol=1e-3)
    back = pipe.codec.decode(Clean(code))[0]
    assert int((least.pixels.int() - back.int()).abs().max()) <= 1


def test_K2_834_and_835_differ(pipe: Pipeline) -> None:
    a, b = pipe.generate([dataclasses.replace(EDIT, strength=strength) for strength in (0.834, 0.835)])
    assert a.rows == b.rows
    assert not torch.equal(a.latent, b.latent)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "dpmpp_2m_sde", "unipc", "heun", "euler_a"])
def test_K3_black_is_kept_to_the_bit_white_is_image_to_image(pipe: Pipeline, sampler: str) -> None:
    edit = dataclasses.replace(EDIT, sampler=sampler, steps=4)
    assert edit.image is not None
    original = edit.image.pixels()
    free, white, black, half = pipe.generate([edit, *(dataclasses.replace(edit, mask=mask) for mask in (flat(255), flat(0), HALF))])
    assert torch.equal(free.pixels, white.pixels)
    assert torch.equal(free.latent, white.latent)
    assert torch.equal(black.pixels, original)
    assert "black everywhere" in " ".join(black.warnings)
    assert torch.equal(half.pixels[:, :, SIDE // 2:], original[:, :, SIDE // 2:])
    assert not torch.equal(half.pixels[:, :, : SIDE // 2], original[:, :, : SIDE // 2])
    code = pipe.codec.encode(original[None]).x[0]
    cells = code.shape[2] // 2
    assert torch.equal(half.latent[:, :, cells:], code[:, :, cells:])
    assert not torch.equal(half.latent[:, :, :cells], free.latent[:, :, :cells])                              # it saw the kept half


def test_K3_grey_mixes_pixels(pipe: Pipeline) -> None:
    free, grey = pipe.generate([EDIT, dataclasses.replace(EDIT, mask=flat(102))])
    assert EDIT.image is not None
    mixed = 0.4 * free.pixels.double() + 0.6 * EDIT.image.pixels().double()
    assert float((grey.pixels.double() - mixed).abs().max()) <= 0.5


def test_K3_a_cell_is_painted_if_any_of_its_pixels_is(pipe: Pipeline) -> None:
    data = bytearray(flat(0).data)
    data[0:3] = b"\1\1\1"
    program = pipe.program(dataclasses.replace(EDIT, mask=Picture(SIDE, SIDE, bytes(data))))
    assert program.known is not None
    assert program.known.paint.nonzero().tolist() == [[0, 0, 0]]


def test_S8_edits_have_the_same_bytes_in_any_company(pipe: Pipeline) -> None:
    asked = [EDIT, dataclasses.replace(EDIT, mask=HALF, sampler="heun"), dataclasses.replace(EDIT, image=None, strength=None, steps=3),
             dataclasses.replace(EDIT, image=drawn(5), strength=0.2, sampler="euler_a")]
    for request, made in zip(asked, pipe.generate(asked), strict=True):
        [alone] = pipe.generate([request])
        assert torch.equal(alone.pixels, made.pixels)
        assert alone.nfe == made.nfe


def test_a_request_is_known_by_its_pixels() -> None:
    buffer = io.BytesIO()
    drawn().pil().save(buffer, "WEBP", lossless=True)
    same = dataclasses.replace(EDIT, image=Picture.of(buffer.getvalue()))
    assert same == EDIT
    assert hash(same) == hash(EDIT)
    assert dataclasses.replace(EDIT, image=drawn(1)) != EDIT
    assert as_dict(EDIT)["image"] == {"size": "32x32", "sha256": drawn().sha256}
    assert not {"image", "mask", "strength"} & set(as_dict(Request("a")))


def test_the_names_of_diffusers(pipe: Pipeline, tmp_path: Path) -> None:
    picture = drawn().pil()
    picture.save(tmp_path / "a.png")
    settings = {"strength": 0.5, "num_inference_steps": 4, "seed": 3, "output_type": "pt"}
    a = pipe("a cube", image=picture, mask_image=HALF.pil(), **settings).images
    b = pipe("a cube", image=tmp_path / "a.png", mask_image=HALF, **settings).images
    assert torch.equal(a, b)
    with pytest.warns(InkwashWarning, match="48x40 was cut to its middle and resized to 32x32"):
        pipe("a cube", image=PIL.Image.new("RGB", (48, 40)), **settings)


def test_a_picture_of_another_size_is_cut_as_training_data_is() -> None:
    wide = PIL.Image.new("RGB", (64, 32), "red")
    wide.paste("blue", (16, 0, 48, 32))
    assert Picture.of(wide).fit(32, 32).pil().getpixel((0, 0)) == (0, 0, 255)
    clear = PIL.Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert Picture.of(clear) == flat(255, 4)


@pytest.mark.parametrize("value", [0.0, 100.0, 255.0])
def test_a_picture_of_floats_means_what_it_means_to_pillow(value: float) -> None:
    assert Picture.of(PIL.Image.new("F", (4, 4), value)) == flat(int(value), 4)


def test_a_picture_of_premultiplied_grey_is_laid_on_white() -> None:
    assert Picture.of(PIL.Image.new("La", (4, 4), (0, 0))) == flat(255, 4)


@pytest.mark.parametrize(("change", "code"), [
    ({"image": None}, "needs_image"), ({"image": None, "strength": None, "mask": HALF}, "needs_image"), ({"strength": 0}, "bad_strength"),
    ({"strength": 2}, "bad_strength"), ({"strength": float("nan")}, "bad_strength"), ({"strength": True}, "bad_strength"),
    ({"image": drawn(0, 16)}, "image_size_differs"), ({"mask": flat(0, 16)}, "mask_size_differs"), ({"image": "a.png"}, "bad_image")])
def test_bad_edits_are_refused(change: dict[str, object], code: str) -> None:
    with pytest.raises(UsageError) as caught:
        dataclasses.replace(EDIT, **change)
    assert caught.value.code == code


def _png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def _animated(kind: str) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("L", (8, 8)).save(buffer, kind, save_all=True, append_images=[PIL.Image.new("L", (8, 8), 255)])
    return buffer.getvalue()


@pytest.mark.parametrize(("data", "code"), [
    (b"", "image_unreadable"), (b"no picture", "image_format"), (_png(64, 64)[:50], "image_unreadable"), (_animated("GIF"), "image_format"),
    (_animated("PNG"), "image_format"), (_animated("WEBP"), "image_format"),
    (_png(13000, 13000), "image_too_large"), (b"<svg/>", "image_format")], ids=["empty", "text", "cut", "gif", "apng", "webp", "huge", "svg"])
def test_T30_broken_pictures_are_refused(data: bytes, code: str) -> None:
    with pytest.raises(DataError) as caught:
        Picture.of(data)
    assert caught.value.code == code
    assert "PNG, JPEG or WebP" in caught.value.line()


def test_a_picture_of_pillow_that_cannot_be_decoded_is_refused() -> None:
    closed = PIL.Image.new("RGB", (4, 4))
    closed.close()
    for source in (PIL.Image.open(io.BytesIO(_png(64, 64)[:50])), closed):
        with pytest.raises(DataError) as caught:
            Picture.of(source)
        assert caught.value.code == "image_unreadable"


def test_a_picture_without_an_end_is_not_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inkwash.picture.MAX_BYTES", 1 << 16)
    reads = []
    monkeypatch.setattr(Path, "read_bytes", lambda path: reads.append(path) or b"\0" * (1 << 17))     # what would never come back
    with pytest.raises(DataError) as caught:
        Picture.of("/dev/zero")
    assert caught.value.code == "image_too_large"
    assert not reads


@pytest.mark.parametrize("source", ["nowhere.png", "\0", "."])
def test_paths_without_a_picture_are_refused(source: str) -> None:
    with pytest.raises(InkwashError):
        Picture.of(source)
