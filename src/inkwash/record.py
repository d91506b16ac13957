"""What goes into a picture file beside its pixels: the `parameters` that the tools of the field read, and the record to make it again.
Imports torch only to run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inkwash._version import __version__
from inkwash.io.png import infotext
from inkwash.labels import ENDINGS, LABELS, write_label
from inkwash.request import Request, as_dict

if TYPE_CHECKING:
    from inkwash.output import Image
    from inkwash.pipeline import Pipeline


def settings(request: Request, pipeline: Pipeline) -> dict[str, object]:
    """The pairs of the `parameters` text, in the usual order."""
    scale = {"CFG scale": f"{request.guidance:g}"} if isinstance(request.guidance, float) else {"Guidance": request.guidance}
    strength = {} if request.strength is None else {"Denoising strength": f"{request.strength:g}"}
    labels = {"Sampler": write_label(request.sampler, LABELS), "Schedule type": write_label(request.spacing, ENDINGS)}
    return {"Steps": request.steps, **labels, **scale, "Seed": request.seed, "Size": f"{request.width}x{request.height}",
            "Model hash": pipeline.hash[:10], "Model": pipeline.info.name, **strength, "Version": f"inkwash {__version__}"}


def parameters(request: Request, pipeline: Pipeline) -> str:
    """The `parameters` text."""
    return infotext(request.prompt, request.negative, settings(request, pipeline))


def record(image: Image, pipeline: Pipeline, pixel_hash: str) -> dict[str, Any]:
    """All that it takes to make the picture again, and how to tell that it is the same."""
    import torch

    return {"format": 1, "version": __version__, "model": pipeline.info.name, "model_hash": pipeline.hash, "companions": pipeline.companions,
            "request": as_dict(image.request), "nfe": image.nfe, "pixel_sha256": pixel_hash, "determinism": pipeline.determinism,
            "device": pipeline.device.type, "dtype": str(pipeline.dtype).removeprefix("torch."), "torch": torch.__version__,
            "warnings": list(image.warnings)}
