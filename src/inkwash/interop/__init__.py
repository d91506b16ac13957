"""A model folder of ours as a pipeline of diffusers, for models whose networks diffusers does not have.

`DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` finds `InkwashPipeline` by the folder's own index. Their code loads the weights,
makes the steps and saves; ours are the networks. Nothing else of the package imports this one, which needs diffusers and transformers.
"""

import importlib.util

from inkwash.errors import UsageError, install

if any(importlib.util.find_spec(name) is None for name in ("diffusers", "transformers")):
    raise UsageError("missing_extra", f"inkwash.interop needs diffusers and transformers; {install('interop')}")

from inkwash.interop.converted import Scheduler, Tokenizer
from inkwash.interop.parts import Autoencoder, Null, TextEncoder, UNet
from inkwash.interop.pipeline import InkwashPipeline

__all__ = ["Autoencoder", "InkwashPipeline", "Null", "Scheduler", "TextEncoder", "Tokenizer", "UNet"]
