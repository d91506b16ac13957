"""Decoding is safe and colours come out right; fitting crops or pads around the middle."""

import io

import numpy as np
import pytest
import torch
from data_examples import encoded, picture
from PIL import Image

from inkwash.data.transform import decode, fit, probe
from inkwash.errors import DataError


def stored(image: Image.Image, kind: str = "PNG", **settings: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()


def test_transparent_pixels_lie_on_white_in_every_mode() -> None:
    half = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    half.paste((0, 0, 255, 255), (0, 0, 4, 8))
    for image in (half, half.quantize(), half.convert("LA"), half.convert("PA")):
        pixels = np.asarray(decode(stored(image if image.mode != "PA" else half)))
        assert pixels[:, 4:].min() == 255
        assert pixels[:, :4].max(axis=(0, 1)).min() < 60
    soft = np.asarray(decode(stored(Image.new("RGBA", (2, 2), (0, 0, 0, 128)))))
    assert abs(int(soft[0, 0, 0]) - 127) <= 1
    keyed = np.asarray(decode(stored(Image.new("RGB", (4, 4), (1, 2, 3)), transparency=(1, 2, 3))))
    assert keyed.min() == 255


def test_deep_grey_palette_and_cmyk_become_rgb() -> None:
    deep = Image.fromarray((np.arange(256, dtype=np.uint16) * 257).reshape(16, 16))
    assert np.array_equal(np.asarray(decode(stored(deep)))[:, :, 0], np.arange(256).reshape(16, 16))
    palette = picture(3).quantize(8)
    assert np.abs(np.asarray(decode(stored(palette))).astype(int) - np.asarray(palette.convert("RGB"))).max() == 0
    cmyk = Image.new("RGB", (16, 16), (200, 40, 30)).convert("CMYK")
    assert np.abs(np.asarray(decode(stored(cmyk, "JPEG", quality=95))).astype(int) - (200, 40, 30)).max() < 25
    assert np.asarray(decode(stored(Image.new("1", (4, 4), 1)))).min() == 255


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (20, 10), "white")
    image.paste((255, 0, 0), (0, 0, 10, 10))                                            # red on the left
    exif = Image.Exif()
    exif[0x0112] = 6                                                                    # turn clockwise to display
    data = stored(image, "JPEG", exif=exif, quality=95)
    upright = decode(data)
    assert upright.size == (10, 20) == probe(data)
    assert np.asarray(upright)[2, 5, 1] < 60                                            # red came to the top
    assert np.asarray(upright)[17, 5, 1] > 200


def test_only_three_formats_are_opened() -> None:
    for kind in ("PNG", "JPEG", "WEBP"):
        assert decode(encoded(picture(1), kind)).size == (24, 20)
    for kind in ("GIF", "BMP", "TIFF", "EPS"):
        with pytest.raises(DataError) as caught:
            decode(encoded(picture(1), kind))
        assert caught.value.code == "image_format"
    for data in (b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"<html>", b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"):
        with pytest.raises(DataError):
            decode(data)


def test_t30_a_huge_image_is_refused_from_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    data = stored(Image.new("1", (13000, 13000)))
    assert len(data) < 60_000
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoding started"))
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(DataError) as caught:
        decode(data)
    assert caught.value.code == "image_too_large"
    assert "13000x13000" in caught.value.message


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("hint", [None, 8])
def test_truncation_is_noticed_in_every_format(kind: str, hint: int | None) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    for part in (0.02, 0.3, 0.9):
        with pytest.raises(DataError):
            decode(data[:int(len(data) * part)], hint=hint)


def test_crop_keeps_the_middle_and_pad_keeps_everything() -> None:
    image = Image.new("RGB", (90, 30), (10, 200, 10))
    image.paste((200, 10, 10), (0, 0, 30, 30))
    image.paste((10, 10, 200), (60, 0, 90, 30))                                         # red, green, blue squares
    middle = fit(image, 30)
    assert middle.shape == (3, 30, 30)
    assert torch.equal(middle[:, 15, 15], torch.tensor([10, 200, 10], dtype=torch.uint8))
    assert (middle[1, :, 2:28] > 190).all()
    padded = fit(image, 30, "pad")
    assert (padded[:, :9] == 255).all()
    assert (padded[:, 21:] == 255).all()
    assert padded[0, 15, 4] > 190
    assert padded[2, 15, 26] > 190
    wide = fit(image, (20, 60))
    assert wide.shape == (3, 20, 60)
    assert wide[:, 10, 30].tolist() == [10, 200, 10]


def test_a_reduced_jpeg_looks_like_the_whole_one() -> None:
    rows, columns = np.mgrid[:512, :768]
    smooth = np.stack([rows / 2, columns / 3, 128 + 100 * np.sin(rows / 40) * np.cos(columns / 50)], -1).clip(0, 255).astype(np.uint8)
    data = encoded(Image.fromarray(smooth), "JPEG")
    whole, quick = fit(decode(data), 64), fit(decode(data, hint=64), 64)
    assert decode(data, hint=64).width < 768
    assert (whole.float() - quick.float()).abs().mean() < 1.5


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_damaged_bytes_give_an_image_or_a_data_error_and_nothing_else(kind: str) -> None:
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = stored(Image.fromarray(rng.integers(0, 255, (40, 56, 3), dtype=np.uint8)), kind, exif=exif)
    refused = 0
    for number in range(80):
        damaged = bytearray(data)
        for _ in range(3):
            damaged[rng.integers(0, min(len(data), 300 if number % 2 else len(data)))] = rng.integers(0, 256)
        for read in (decode, probe):
            try:
                read(bytes(damaged))
            except DataError:
                refused += 1
    assert refused > 10
