"""The index by which diffusers opens a folder whose networks are ours: it names the classes of `inkwash.interop`, and holds what lies between parts.

diffusers imports no module that an index names. So the folder has a file of code, which it runs when it is called with trust_remote_code=True, and
which imports ours. This package never runs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inkwash.io.info import ModelInfo

LOADER = "inkwash_pipeline.py"
CODE = '''"""By this file diffusers opens the folder: `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`."""

from inkwash.interop import InkwashPipeline

__all__ = ["InkwashPipeline"]
'''
PARTS = {"text_encoder": "TextEncoder", "conditioner": "Null", "unet": "UNet", "vae": "Autoencoder"}


def own_index(info: ModelInfo, configs: Mapping[str, Mapping[str, Any]], tokenizer: bool) -> dict[str, Any]:
    """The model_index.json of a U-Net in the latents of an autoencoder, told of a text or of no prompt; empty for another model.

    A student of guidance is another: it is told the scale.
    """
    kinds = {name: raw.get("_class_name") for name, raw in configs.items()}
    if kinds != PARTS or not tokenizer or info.gauge != "VP" or info.sigma_data != 1.0 or "guidance=True" in configs["unet"]["config"]:
        return {}
    parts = {"scheduler": ["inkwash.interop.converted", "Scheduler"], "tokenizer": ["inkwash.interop.converted", "Tokenizer"],
             **{name: ["inkwash.interop.parts", kind] for name, kind in PARTS.items()}}
    between = {"coordinate": info.coordinate, "mean": info.mean, "std": info.std, "factor": info.factor,
               "size": info.sizes.default, "steps": info.defaults.steps, "guidance": info.defaults.guidance}
    return {"_class_name": [LOADER.removesuffix(".py"), "InkwashPipeline"], "_inkwash_version": info.inkwash, **parts, "inkwash": between}
