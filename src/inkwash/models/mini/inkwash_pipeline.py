"""By this file diffusers opens the folder: `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`."""

from inkwash.interop import InkwashPipeline

__all__ = ["InkwashPipeline"]
