"""Uploads are decoded in a child process: what it does, dies of or never ends with costs one request one clear error."""

from __future__ import annotations

import asyncio
import io
import resource
import subprocess
import sys
from collections.abc import Sequence

import PIL.Image
import pytest

from inkwash.picture import Picture
from inkwash.serve.http.errors import ApiError
from inkwash.serve.http.pictures import read_pictures
from inkwash.serve.http.raster import COMMAND, Raster, Start, decoded


def file(image: PIL.Image.Image, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def shades(mode: str) -> PIL.Image.Image:
    grey = PIL.Image.linear_gradient("L").resize((20, 30))
    if mode == "I;16":
        return PIL.Image.frombytes("I;16", (20, 30), bytes(range(256)) * 4 + bytes(176))
    return grey.convert("RGBA").convert("P" if mode == "P" else mode) if mode != "LA" else PIL.Image.merge("LA", (grey, grey))


@pytest.mark.parametrize(("mode", "form"), [("RGB", "PNG"), ("RGBA", "PNG"), ("L", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("1", "PNG"), ("I;16", "PNG"),
                                            ("RGB", "WEBP"), ("CMYK", "JPEG"), ("L", "JPEG")])
def test_the_pixels_are_those_of_the_library(mode: str, form: str) -> None:
    data = file(shades(mode), form)
    found = asyncio.run(decoded(data, "image"))
    assert read_pictures(Start(found, None, 0.5), 20, 30)[0] == Picture.of(data)


def test_a_start_goes_to_bytes_and_back() -> None:
    start = Start(Raster("RGB", 2, 1, b"abcdef"), Raster("RGBA", 1, 2, b"01234567"), 0.25, True)
    assert Start.of(start.head, start.body) == start
    assert Start.of(start._replace(mask=None).head, start.image.data) == start._replace(mask=None)


CRASH = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
HANG = "import time; time.sleep(600)"


@pytest.mark.parametrize(("program", "code"), [
    (CRASH, "image_unreadable"), (HANG, "image_timeout"), ("import sys; sys.exit(1)", "image_unreadable"), ("print('nonsense')", "image_unreadable"),
    ("print('{}')", "image_unreadable"), ("print('{\"mode\": \"RGB\", \"width\": 9, \"height\": 9}')", "image_unreadable"),
    ("print('[1]')", "image_unreadable"), ("pass", "image_unreadable")])
def test_a_decoder_that_fails_costs_one_clear_error(program: str, code: str) -> None:
    command = (sys.executable, "-S", "-c", program)
    with pytest.raises(ApiError) as caught:
        asyncio.run(decoded(b"x" * 200_000, "mask", 2.0 if program == HANG else 60.0, command))
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, "mask")


def test_others_are_served_while_decoders_hang() -> None:
    async def all_at_once() -> list[object]:
        def one(program: Sequence[str], sec: float) -> asyncio.Future[Raster]:
            return asyncio.ensure_future(decoded(file(shades("RGB")), "image", sec, program))

        bad = [one((sys.executable, "-S", "-c", HANG), 2.0) for _ in range(4)]
        good = [one(COMMAND, 60.0) for _ in range(3)]
        return await asyncio.gather(*bad, *good, return_exceptions=True)

    found = asyncio.run(all_at_once())
    assert [type(one) for one in found] == [ApiError] * 4 + [Raster] * 3


def test_the_child_has_limits() -> None:
    program = "import resource, inkwash.serve.http.decode as d; d.main(); import sys; print(resource.getrlimit(resource.RLIMIT_AS), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program, "100"], input=file(shades("RGB")), capture_output=True, check=True)
    assert b"the limit is 100 pixels" in done.stdout
    assert done.stderr.split(b"(")[-1].startswith(str(2 << 30).encode())
    assert resource.getrlimit(resource.RLIMIT_AS)[0] != 2 << 30, "only the child"
    loaded = "import sys, inkwash.serve.http.decode; print([name for name in ('torch', 'numpy', 'fastapi') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, check=True).stdout.strip() == b"[]", "a child starts in no time"
