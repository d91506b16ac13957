"""Configurations of networks as diffusers and transformers write them <-> our NetworkConfigs.

Each kind has a table of keys that must have a neutral value, because our network has no such part; every other key is read or is known to be
of no consequence. A key that is neither is refused, so that no model is half understood.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inkwash.errors import CheckpointError
from inkwash.nn.autoencoder_kl import AutoencoderKLConfig
from inkwash.nn.clip_text import ClipTextConfig
from inkwash.nn.config import NetworkConfig
from inkwash.nn.unet2d import GUIDANCE_FEATURES, Reads, UNet2DConfig

Config = Mapping[str, Any]

_NEUTRAL: dict[str, dict[str, tuple[Any, ...]]] = {
    "UNet2DConditionModel": {
        "act_fn": ("silu", "swish"), "addition_embed_type": (None, "text_time"), "attention_type": ("default",), "center_input_sample": (False,),
        "class_embed_type": (None,), "class_embeddings_concat": (False,), "conv_in_kernel": (3,), "conv_out_kernel": (3,),
        "cross_attention_norm": (None,), "dual_cross_attention": (False,), "encoder_hid_dim": (None,), "encoder_hid_dim_type": (None,),
        "mid_block_only_cross_attention": (None, False), "mid_block_scale_factor": (1,), "mid_block_type": ("UNetMidBlock2DCrossAttn",),
        "only_cross_attention": (False,), "resnet_out_scale_factor": (1,), "resnet_skip_time_act": (False,), "resnet_time_scale_shift": ("default",),
        "reverse_transformer_layers_per_block": (None,), "time_cond_proj_dim": (None, GUIDANCE_FEATURES), "time_embedding_act_fn": (None,),
        "time_embedding_dim": (None,), "time_embedding_type": ("positional",), "timestep_post_act": (None,),
    },
    "UNet2DModel": {
        "act_fn": ("silu", "swish"), "attn_norm_num_groups": (None,), "center_input_sample": (False,), "class_embed_type": (None,),
        "downsample_type": ("conv",), "mid_block_scale_factor": (1,), "mid_block_type": ("UNetMidBlock2D",), "resnet_time_scale_shift": ("default",),
        "time_embedding_dim": (None,), "time_embedding_type": ("positional",), "upsample_type": ("conv",),
    },
    "AutoencoderKL": {"act_fn": ("silu", "swish"), "latents_mean": (None,), "latents_std": (None,)},
    "CLIPTextModel": {"hidden_act": ("quick_gelu", "gelu")},
}
_READ: dict[str, set[str]] = {
    "UNet2DConditionModel": {
        "addition_time_embed_dim", "attention_head_dim", "block_out_channels", "cross_attention_dim", "down_block_types", "downsample_padding",
        "dropout", "flip_sin_to_cos", "freq_shift", "in_channels", "layers_per_block", "norm_eps", "norm_num_groups", "num_attention_heads",
        "num_class_embeds", "out_channels", "projection_class_embeddings_input_dim", "sample_size", "transformer_layers_per_block", "up_block_types",
        "use_linear_projection"},
    "UNet2DModel": {
        "add_attention", "attention_head_dim", "block_out_channels", "down_block_types", "downsample_padding", "dropout", "flip_sin_to_cos",
        "freq_shift", "in_channels", "layers_per_block", "norm_eps", "norm_num_groups", "num_class_embeds", "out_channels", "sample_size",
        "up_block_types"},
    "AutoencoderKL": {"block_out_channels", "down_block_types", "in_channels", "latent_channels", "layers_per_block", "mid_block_add_attention",
                      "norm_num_groups", "out_channels", "sample_size", "scaling_factor", "shift_factor", "up_block_types", "use_post_quant_conv",
                      "use_quant_conv"},
}
# without consequence for what the module computes
_IDLE = {"config", "upcast_attention", "addition_embed_type_num_heads", "num_train_timesteps", "force_upcast"}
_BLOCKS: dict[str, dict[str, Reads]] = {
    "UNet2DConditionModel": {"CrossAttn{}Block2D": "text", "{}Block2D": "none"},
    "UNet2DModel": {"Attn{}Block2D": "pixels", "{}Block2D": "none"},
}
HEADS_OF_CLASS = {"CLIPTextModelWithProjection": "CLIPTextModel"}


def from_foreign(raw: Config) -> NetworkConfig:
    """The NetworkConfig of a foreign config.json. Raises CheckpointError `unsupported_model` naming the first key that does not fit."""
    kinds = raw.get("architectures")
    kind = str(raw.get("_class_name") or (kinds[0] if isinstance(kinds, list) and kinds else "nothing"))
    name = HEADS_OF_CLASS.get(kind, kind)
    if name not in _NEUTRAL:
        raise CheckpointError("unsupported_model", f"a {kind[:60]} cannot be opened; known: {', '.join(sorted(_NEUTRAL))}")
    for key, allowed in _NEUTRAL[name].items():
        if raw.get(key, allowed[0]) not in allowed:
            raise CheckpointError("unsupported_model", f"a {kind} with {key}={str(raw[key])[:60]!r} cannot be opened; "
                                                       f"only {key}={allowed[0]!r} is known")
    unknown = [] if name == "CLIPTextModel" else sorted(key for key in set(raw) - set(_NEUTRAL[name]) - _READ[name] - _IDLE
                                                        if not key.startswith("_") and raw[key] is not None)
    if unknown:
        raise CheckpointError("unsupported_model", f"a {kind} with {unknown[0]}={str(raw[unknown[0]])[:60]!r} cannot be opened; the key is not known")
    try:
        match name:
            case "AutoencoderKL":
                return _vae(raw)
            case "CLIPTextModel":
                return _clip(raw, kind)
            case _:
                return _unet(raw, name)
    except (KeyError, TypeError, ValueError, IndexError, ArithmeticError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError("unsupported_model", f"the config of a {kind} cannot be read: {type(error).__name__} {error}; "
                                                   "restore the file") from None


def _unet(raw: Config, name: str) -> UNet2DConfig:
    widths = tuple(raw["block_out_channels"])
    text = name == "UNet2DConditionModel"
    head = raw.get("attention_head_dim", 8)
    if text:
        heads = _each(raw.get("num_attention_heads") or head, len(widths))              # the published files call the number of heads a dimension
    else:
        heads = tuple(1 if head is None else width // int(head) for width in widths)
    mid: Reads = "text" if text else "pixels" if raw.get("add_attention", True) else "none"
    pooled = raw.get("addition_embed_type") == "text_time"
    sizes = int(raw["addition_time_embed_dim"]) if pooled else 0
    return UNet2DConfig(
        int(raw["in_channels"]), int(raw["out_channels"]), widths, _one(raw.get("layers_per_block", 2), "layers_per_block"),
        _reads(raw["down_block_types"], name, "Down"), tuple(reversed(_reads(raw["up_block_types"], name, "Up"))), mid, heads,
        _each(raw.get("transformer_layers_per_block", 1), len(widths)), _one(raw["cross_attention_dim"], "cross_attention_dim") if text else 0,
        int(raw.get("num_class_embeds") or 0), int(raw["projection_class_embeddings_input_dim"]) - 6 * sizes if pooled else 0, sizes,
        bool(raw.get("use_linear_projection", False)), int(raw.get("norm_num_groups", 32)), float(raw.get("norm_eps", 1e-5)),
        bool(raw.get("flip_sin_to_cos", True)), float(raw.get("freq_shift", 0)), int(raw.get("downsample_padding", 1)),
        float(raw.get("dropout", 0.0)), int(raw.get("sample_size") or 64), bool(raw.get("time_cond_proj_dim")))


def _reads(types: list[str], name: str, way: str) -> tuple[Reads, ...]:
    known = {pattern.format(way): reads for pattern, reads in _BLOCKS[name].items()}
    for one in types:
        if one not in known:
            raise CheckpointError("unsupported_model", f"a {name} with a {str(one)[:60]} cannot be opened; known: {', '.join(known)}")
    return tuple(known[one] for one in types)


def _each(value: Any, levels: int) -> tuple[int, ...]:
    return (int(value),) * levels if isinstance(value, int) else tuple(int(one) for one in value)


def _one(value: Any, key: str) -> int:
    found = {value} if isinstance(value, int) else set(value)
    if len(found) != 1:
        raise CheckpointError("unsupported_model", f"a U-Net with {key}={value!r} cannot be opened; only one number for all resolutions is known")
    return int(found.pop())


def _vae(raw: Config) -> AutoencoderKLConfig:
    quant, post = bool(raw.get("use_quant_conv", True)), bool(raw.get("use_post_quant_conv", True))
    plain = set(raw["down_block_types"]) == {"DownEncoderBlock2D"} and set(raw["up_block_types"]) == {"UpDecoderBlock2D"}
    if quant != post or not plain or raw.get("in_channels", 3) != raw.get("out_channels", 3):
        raise CheckpointError("unsupported_model", "an AutoencoderKL whose two halves differ, or with blocks other than DownEncoderBlock2D and "
                                                   "UpDecoderBlock2D, cannot be opened")
    return AutoencoderKLConfig(int(raw.get("in_channels", 3)), int(raw["latent_channels"]), tuple(raw["block_out_channels"]),
                               int(raw.get("layers_per_block", 1)), int(raw.get("norm_num_groups", 32)),
                               bool(raw.get("mid_block_add_attention", True)), quant, int(raw.get("sample_size") or 512))


def _clip(raw: Config, kind: str) -> ClipTextConfig:
    vocab, end = int(raw["vocab_size"]), int(raw.get("eos_token_id", 49407))
    return ClipTextConfig(vocab, int(raw["hidden_size"]), int(raw["intermediate_size"]), int(raw["num_hidden_layers"]),
                          int(raw["num_attention_heads"]), int(raw.get("max_position_embeddings", 77)), raw.get("hidden_act", "quick_gelu"),
                          int(raw["projection_dim"]) if kind == "CLIPTextModelWithProjection" else 0,
                          vocab - 1 if end == 2 else end,                               # old files say 2 and mean the highest id
                          float(raw.get("layer_norm_eps", 1e-5)))


def to_foreign(config: NetworkConfig) -> dict[str, Any]:
    """The config.json by which diffusers or transformers build the same module; empty for a network that they do not have."""
    match config:
        case UNet2DConfig():
            return _unet_out(config)
        case AutoencoderKLConfig():
            levels = len(config.widths)
            return {"_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": list(config.widths), "in_channels": config.channels,
                    "out_channels": config.channels, "latent_channels": config.latent_channels, "layers_per_block": config.blocks,
                    "down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels,
                    "mid_block_add_attention": config.attention, "norm_num_groups": config.groups, "sample_size": config.image,
                    "use_quant_conv": config.quant, "use_post_quant_conv": config.quant}
        case ClipTextConfig():
            return {"architectures": ["CLIPTextModelWithProjection" if config.projection else "CLIPTextModel"], "model_type": "clip_text_model",
                    "vocab_size": config.vocab, "hidden_size": config.width, "intermediate_size": config.inner, "num_hidden_layers": config.layers,
                    "num_attention_heads": config.heads, "max_position_embeddings": config.max_tokens, "hidden_act": config.activation,
                    "projection_dim": config.projection or config.width, "layer_norm_eps": config.eps, "eos_token_id": config.end,
                    "bos_token_id": config.end - 1, "pad_token_id": config.end,
                    "dtype": "float32"}                                                  # as the other parts are opened, whatever is stored
        case _:
            return {}


def _unet_out(config: UNet2DConfig) -> dict[str, Any]:
    reads = {*config.down, *config.up, config.mid} - {"none"}
    text = "text" in reads
    name = "UNet2DConditionModel" if text else "UNet2DModel"
    if reads > {"text"} or (text and config.mid != "text") or (not text and (config.pooled_dim or config.guidance)):
        return {}                                                                       # no module of theirs has sites of two kinds, or these inputs
    names = {kind: pattern for pattern, kind in _BLOCKS[name].items()}
    common = {"_class_name": name, "act_fn": "silu", "block_out_channels": list(config.widths), "in_channels": config.in_channels,
              "out_channels": config.out_channels, "layers_per_block": config.blocks, "sample_size": config.image,
              "down_block_types": [names[kind].format("Down") for kind in config.down],
              "up_block_types": [names[kind].format("Up") for kind in reversed(config.up)],
              "downsample_padding": config.pad, "dropout": config.dropout, "num_class_embeds": config.num_classes or None,
              "flip_sin_to_cos": config.flip, "freq_shift": int(config.shift) if config.shift == int(config.shift) else config.shift,
              "norm_eps": config.eps, "norm_num_groups": config.groups}
    if text:
        extra = {"addition_embed_type": "text_time", "addition_time_embed_dim": config.sizes_dim,
                 "projection_class_embeddings_input_dim": config.pooled_dim + 6 * config.sizes_dim} if config.pooled_dim else {}
        return {**common, **extra, "attention_head_dim": list(config.heads), "cross_attention_dim": config.text_dim,
                "mid_block_type": "UNetMidBlock2DCrossAttn", "transformer_layers_per_block": list(config.depth),
                "use_linear_projection": config.linear, "time_cond_proj_dim": GUIDANCE_FEATURES if config.guidance else None}
    used = {(width, heads) for width, heads, *kinds in zip(config.widths, config.heads, config.down, config.up) if "pixels" in kinds}
    used |= {(config.widths[-1], config.heads[-1])} if config.mid == "pixels" else set()
    dims = {width // heads for width, heads in used}
    if len(dims) > 1 and any(heads != 1 for _, heads in used):
        return {}                                                                       # heads of two sizes: no module of theirs has them
    single = all(heads == 1 for _, heads in used)
    return {**common, "add_attention": config.mid == "pixels", "attention_head_dim": None if single else dims.pop(),
            "mid_block_type": "UNetMidBlock2D"}

