"""Text to images with the loop of diffusers: their scheduler makes the steps, our networks predict.

What lies between the parts is the pipeline's own config, in model_index.json: the coordinate, which makes what the network is told of the
scheduler's level; mean and deviation of the latents; the default size, steps and guidance.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from inkwash.core.coordinate import Angle, Coordinate
from inkwash.core.level import Gauge
from inkwash.interop.parts import Autoencoder, Null, TextEncoder, UNet
from inkwash.value import parse

Conditions = list[Tensor]                                  # tokens (B, L, D), mask (B, L) bool, pooled (B, P)


class InkwashPipeline(DiffusionPipeline):
    """A text-to-image model of ours in diffusers. `inkwash` is what its index says of it under that name."""

    def __init__(self, vae: Autoencoder, text_encoder: TextEncoder, tokenizer: Any, conditioner: Null, unet: UNet, scheduler: Any,
                 inkwash: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.register_modules(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, conditioner=conditioner, unet=unet, scheduler=scheduler)
        if inkwash is None:
            raise ValueError('the model_index.json has no "inkwash": coordinate, mean, std, factor, size, steps, guidance')
        self.register_to_config(inkwash=dict(inkwash))
        told = inkwash["coordinate"]
        self.coordinate = parse(told, Coordinate) if told else Angle()  # type: ignore[type-abstract]
        self.mean, self.std = (torch.tensor(inkwash[name]).reshape(1, -1, 1, 1) for name in ("mean", "std"))
        self.image_processor = VaeImageProcessor(vae_scale_factor=inkwash["factor"])

    def encode_prompt(self, prompts: list[str]) -> Conditions:
        """What the network is told for each prompt."""
        found = self.tokenizer(prompts, padding="max_length", truncation=True, max_length=self.tokenizer.model_max_length, return_tensors="pt")
        ids, mask = found.input_ids.to(self._execution_device), found.attention_mask.to(self._execution_device).bool()
        text = self.text_encoder(ids, mask)
        return [text.last_hidden_state, mask, text.pooler_output]

    @torch.no_grad()
    def __call__(self, prompt: str | Sequence[str], negative_prompt: str | Sequence[str] | None = None, height: int | None = None,
                 width: int | None = None, num_inference_steps: int | None = None, guidance_scale: float | None = None,
                 num_images_per_prompt: int = 1,
                 generator: torch.Generator | list[torch.Generator] | None = None, latents: Tensor | None = None, output_type: str = "pil",
                 return_dict: bool = True) -> ImagePipelineOutput | tuple[Any]:
        """Images, in the words of StableDiffusionPipeline. What is None is the model's own.

        Guidance compares with the negative prompt where there is one, else with the learned condition of no prompt. `latents` is noise of unit
        variance (B, C, h, w), and `output_type` "pil", "np", "pt" or "latent". Raises ValueError for no prompt, and sizes that it cannot make.
        """
        told, device = self.config.inkwash, self._execution_device
        wide, high = told["size"][0] if width is None else width, told["size"][1] if height is None else height
        if any(side < 1 or side % told["factor"] for side in (wide, high)):
            raise ValueError(f"height and width must be multiples of {told['factor']} above 0, got {high} and {wide}")
        prompts = [text for text in ([prompt] if isinstance(prompt, str) else prompt) for _ in range(num_images_per_prompt)]
        if not prompts:
            raise ValueError("there is no prompt; give at least one text")
        scale = told["guidance"] if guidance_scale is None else guidance_scale
        cond = self.encode_prompt(prompts)
        if scale != 1.0:
            cond = [torch.cat(pair) for pair in zip(self._against(negative_prompt, prompts, num_images_per_prompt), cond, strict=True)]
        tokens, mask, pooled = (part if part.dtype == torch.bool else part.to(self.unet.dtype) for part in cond)

        self.scheduler.set_timesteps(told["steps"] if num_inference_steps is None else num_inference_steps, device=device)
        shape = (len(prompts), len(told["mean"]), high // told["factor"], wide // told["factor"])
        if latents is None:
            latents = randn_tensor(shape, generator, device, torch.float32)
        elif tuple(latents.shape) != shape:
            raise ValueError(f"latents must have the shape {shape}, got {tuple(latents.shape)}")
        x = latents.to(device, torch.float32) * self.scheduler.init_noise_sigma
        extra = {"generator": generator} if "generator" in inspect.signature(self.scheduler.step).parameters else {}
        for time in self.progress_bar(self.scheduler.timesteps):
            given = self.scheduler.scale_model_input(torch.cat([x] * (2 if scale != 1.0 else 1)), time)
            y = self.unet(given.to(self.unet.dtype), self.noise(time).expand(len(given)), tokens, mask, pooled).sample.float()
            if scale != 1.0:
                against, toward = y.chunk(2)
                y = against + scale * (toward - against)
            x = self.scheduler.step(y, time, x, **extra, return_dict=False)[0]
        images: Any = x
        if output_type != "latent":
            z = (x * self.std.to(x) + self.mean.to(x)).to(self.vae.dtype)
            images = self.image_processor.postprocess(self.vae.decode(z).sample.float(), output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def noise(self, time: Tensor) -> Tensor:
        """What the network is told at a timestep of the scheduler, float32 (1,): the coordinate of the level that the scheduler has there.

        Between two timesteps log(sigma / alpha) is linear, as their schedulers have it.
        """
        left, right = math.floor(time), math.ceil(time)
        abar = self.scheduler.alphas_cumprod[[left, right]].double().cpu()
        low, high = 0.5 * (abar.log() - torch.log1p(-abar))
        lam = low if left == right else torch.lerp(low, high, float(time) - left)
        return self.coordinate(Gauge.VP.split(lam)).float().reshape(1).to(self._execution_device)

    def _against(self, negative: str | Sequence[str] | None, prompts: list[str], each: int) -> Conditions:
        given = [negative or ""] * (len(prompts) // each) if negative is None or isinstance(negative, str) else list(negative)
        if len(given) * each != len(prompts):
            raise ValueError(f"a list of negative prompts needs one for each prompt, got {len(given)} for {len(prompts) // each}")
        texts = [text for text in given for _ in range(each)]
        told, null = self.encode_prompt(texts), self.conditioner(len(texts), self.tokenizer.model_max_length)
        some = torch.tensor([bool(text) for text in texts], device=told[0].device)
        return [torch.where(some.reshape(-1, *[1] * (a.dim() - 1)), a, b) for a, b in zip(told, null, strict=True)]
