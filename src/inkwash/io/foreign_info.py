"""What a model folder of diffusers says of itself, as ModelInfo: read without importing torch.

    model_index.json                   the pipeline's class and those of its parts
    scheduler/scheduler_config.json    the noise process, the prediction, a default sampler and spacing
    unet/ vae/ tokenizer/              sizes, the scale of the latents, the length of a prompt

Stable Diffusion 1 and 2 (StableDiffusionPipeline) and pixel models without a condition (DDPMPipeline, DDIMPipeline) are known. Their networks
count noise levels 0..T-1, which is `TimeIndex(process, T, -1)`, and their latents are z * scale.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from inkwash.errors import CheckpointError
from inkwash.io.info import INFO, Defaults, ModelInfo, Sizes

INDEX = "model_index.json"
TEXT_PIPELINES = ("StableDiffusionPipeline",)
PIXEL_PIPELINES = ("DDPMPipeline", "DDIMPipeline")
# our sampler, their class and what sets it apart there; a config is the first that fits
SAMPLERS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("ddim", "DDIMScheduler", {}), ("ddpm_beta", "DDPMScheduler", {"variance_type": "fixed_large"}), ("ddpm", "DDPMScheduler", {}),
    ("euler", "EulerDiscreteScheduler", {}), ("euler_a", "EulerAncestralDiscreteScheduler", {}), ("heun", "HeunDiscreteScheduler", {}),
    ("lms", "LMSDiscreteScheduler", {}), ("unipc_3", "UniPCMultistepScheduler", {"solver_order": 3}), ("unipc", "UniPCMultistepScheduler", {}),
    ("deis", "DEISMultistepScheduler", {"solver_order": 3}), ("DEIS(2)", "DEISMultistepScheduler", {}),
    ("dpmpp_3m_sde", "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_order": 3}),
    ("dpmpp_2m_sde", "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ("dpmpp_3m", "DPMSolverMultistepScheduler", {"solver_order": 3}), ("dpmpp_2m", "DPMSolverMultistepScheduler", {}))
GRIDS = {"use_karras_sigmas": "karras", "use_exponential_sigmas": "log_snr"}
WITHOUT_GRIDS = ("DDIMScheduler", "DDPMScheduler", "EulerAncestralDiscreteScheduler")
ROUNDING = ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler")  # these make whole timesteps of such a grid
WITHOUT_ZERO = ("HeunDiscreteScheduler", "DEISMultistepScheduler", "LMSDiscreteScheduler")    # these cannot rescale to zero terminal SNR
PREDICTIONS = {"epsilon": "Eps()", "v_prediction": "V()", "sample": "X0()"}


def is_foreign(folder: Path) -> bool:
    """Whether a folder holds a model of diffusers that no program of ours wrote."""
    return (folder / INDEX).is_file() and not (folder / INFO).is_file()


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object of a foreign folder. Raises CheckpointError `model_damaged`."""
    try:
        raw = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError("model_damaged", f'cannot read "{path}": {error}; restore the file') from None
    if not isinstance(raw, dict):
        raise CheckpointError("model_damaged", f'"{path}" is not a JSON object; restore the file')
    return raw


def foreign_info(folder: Path) -> ModelInfo:
    """The ModelInfo of a diffusers folder. Raises CheckpointError `unsupported_model` for a pipeline or noise process that is not known."""
    kind = read_config(folder / INDEX).get("_class_name")
    if kind not in (*TEXT_PIPELINES, *PIXEL_PIPELINES):
        raise CheckpointError("unsupported_model", f'"{folder}" holds a {str(kind)[:60]}; known: {", ".join((*TEXT_PIPELINES, *PIXEL_PIPELINES))}')
    scheduler = read_config(folder / "scheduler" / "scheduler_config.json")
    unet = read_config(folder / "unet" / "config.json")
    process, steps = process_of(scheduler), scheduler.get("num_train_timesteps", 1000)
    prediction = scheduler.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise CheckpointError("unsupported_model", f'"{folder}" predicts {str(prediction)[:60]!r}; known: {", ".join(PREDICTIONS)}')
    text = kind in TEXT_PIPELINES
    vae = read_config(folder / "vae" / "config.json") if text else {}
    factor = 2 ** (len(vae["block_out_channels"]) - 1) if text else 1
    channels = int(vae.get("latent_channels", 4)) if text else 0
    multiple = factor * 2 ** (len(unet["block_out_channels"]) - 1)
    side = int(unet.get("sample_size") or 64) * factor
    if vae.get("shift_factor"):
        raise CheckpointError("unsupported_model", f'"{folder}" has shift_factor={vae["shift_factor"]!r}, which a {kind} leaves out; set it to null')
    return ModelInfo(
        name=folder.resolve().name, process=process, prediction=PREDICTIONS[prediction], coordinate=f"TimeIndex({process}, {float(steps)!r}, -1.0)",
        codec="latent" if text else "pixels", channels=channels, factor=factor, mean=(0.0,) * channels,
        std=(1 / float(vae.get("scaling_factor") or 0.18215),) * channels,
        conditioning="text" if text else "none", length=prompt_length(folder) if text else 0,
        sizes=Sizes((side, side), multiple, max(side, side // multiple * multiple * 2), multiple),
        defaults=Defaults(30, _sampler(scheduler), _spacing(scheduler), 7.5 if text else 1.0),
        card={"origin": str(kind)})


def process_of(scheduler: dict[str, Any]) -> str:
    """The text of the noise process that a scheduler_config.json describes."""
    start, end = float(scheduler.get("beta_start", 0.0001)), float(scheduler.get("beta_end", 0.02))
    steps, kind = int(scheduler.get("num_train_timesteps", 1000)), scheduler.get("beta_schedule", "linear")
    if scheduler.get("thresholding"):
        raise CheckpointError("unsupported_model", "a scheduler with thresholding=true cannot be opened; set it to false and ask for a guidance "
                                                   "with a threshold instead")
    betas = scheduler.get("trained_betas")
    if betas:
        process = f"Tabulated(({', '.join(repr(float(beta)) for beta in betas)},))"
    elif kind in ("linear", "scaled_linear"):
        process = f"{'Linear' if kind == 'linear' else 'ScaledLinear'}({start!r}, {end!r}, {steps})"
    elif kind == "squaredcos_cap_v2":
        process = f"DiscreteCosine(num_steps={steps})"
    elif kind == "sigmoid":
        process = f"Sigmoid({start!r}, {end!r}, {steps}, symmetric=True)"
    else:
        raise CheckpointError("unsupported_model", f"the noise process {str(kind)[:60]!r} is not known; known: linear, scaled_linear, "
                                                   "squaredcos_cap_v2, sigmoid")
    return f"ZeroTerminal({process})" if scheduler.get("rescale_betas_zero_snr") else process


def _sampler(scheduler: dict[str, Any]) -> str:
    return next((name for name, kind, options in SAMPLERS if kind == scheduler.get("_class_name")
                 and all(scheduler.get(key) == value for key, value in options.items())), "dpmpp_2m")


def _spacing(scheduler: dict[str, Any]) -> str:
    for key, name in (*GRIDS.items(), ("use_lu_lambdas", "log_snr")):
        if scheduler.get(key):
            return name
    spacing = str(scheduler.get("timestep_spacing", "trailing"))
    return spacing if spacing in ("leading", "linspace") else "trailing"


def prompt_length(folder: Path) -> int:
    """Tokens of a prompt, the marks of start and end included."""
    limits = [read_config(folder / "text_encoder" / "config.json").get("max_position_embeddings", 77)]
    path = folder / "tokenizer" / "tokenizer_config.json"
    if path.is_file():
        limits.append(read_config(path).get("model_max_length", limits[0]))
    return int(min(limits))
