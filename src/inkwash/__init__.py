"""Inkwash: text to images by diffusion. `Pipeline` is imported when it is first asked for, since it needs torch."""

from typing import TYPE_CHECKING, Any

from inkwash._version import __version__

if TYPE_CHECKING:
    from inkwash.output import Image
    from inkwash.pipeline import Pipeline
    from inkwash.request import Request

__all__ = ["Image", "Pipeline", "Request", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Pipeline":
        from inkwash.pipeline import Pipeline

        return Pipeline
    if name == "Image":
        from inkwash.output import Image

        return Image
    if name == "Request":
        from inkwash.request import Request

        return Request
    raise AttributeError(f"module 'inkwash' has no attribute {name!r}")
