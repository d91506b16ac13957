"""The networks of a folder of ours as models of diffusers and of transformers.

Each is built from the text of its NetworkConfig, the key `config` of its config.json, and holds the very parameters of our module, under our names.
So their loaders read our files as they are, and what they save can be opened by both again.
"""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

import inkwash.condition
import inkwash.nn  # noqa: F401  the texts of its networks can be parsed from here on
from inkwash.nn.config import NetworkConfig
from inkwash.value import parse


def adopt(model: nn.Module, text: str) -> nn.Module:
    """The network of a NetworkConfig's text, whose parameters become those of `model`, name by name."""
    network = parse(text, NetworkConfig).build()  # type: ignore[type-abstract]
    for store in ("_parameters", "_buffers", "_modules"):
        model.__dict__[store] = network.__dict__[store]    # one dictionary for both: a tensor that a loader puts into one is in the other
    return network


def hide(model: nn.Module, network: nn.Module) -> None:
    """Keeps `network` as `model.network` without its name in the names of parameters."""
    model.__dict__["network"] = network


class UNet(ModelMixin, ConfigMixin):
    """Our U-Net. Its `timestep` is the noise coordinate that the network was trained with (B,), which the pipeline works out."""

    @register_to_config
    def __init__(self, config: str) -> None:
        super().__init__()
        hide(self, adopt(self, config))

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor, pooled_projections: Tensor,
                return_dict: bool = True) -> UNet2DConditionOutput | tuple[Tensor]:
        """The prediction (B, C, h, w) for x (B, C, h, w), tokens (B, L, D), their mask (B, L) bool and the pooled text (B, P)."""
        cond = {"tokens": encoder_hidden_states, "mask": encoder_attention_mask, "pooled": pooled_projections}
        found = self.network(sample, timestep, cond)
        return UNet2DConditionOutput(sample=found) if return_dict else (found,)


class Autoencoder(ModelMixin, ConfigMixin):
    """Our autoencoder. Images (B, 3, H, W) in [-1, 1]; latents as it makes them: the pipeline knows their mean and deviation."""

    @register_to_config
    def __init__(self, config: str) -> None:
        super().__init__()
        hide(self, adopt(self, config))

    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """The distribution of the latent of each image."""
        found = DiagonalGaussianDistribution(torch.cat(self.network.encode(x), dim=1))
        return AutoencoderKLOutput(latent_dist=found) if return_dict else (found,)

    def decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """The image of each latent."""
        found = self.network.decode(z)
        return DecoderOutput(sample=found) if return_dict else (found,)


class PartConfig(PretrainedConfig):
    """The config.json of a part that transformers loads. Opened in float32 like the others, whatever is stored, unless a dtype is given."""

    model_type = "inkwash"
    config: str = ""
    dtype: str = "float32"


class Part(PreTrainedModel):
    """A network of ours that transformers loads."""

    config_class = PartConfig

    def __init__(self, config: PartConfig) -> None:
        super().__init__(config)
        hide(self, adopt(self, config.config))
        self.post_init()


class TextEncoder(Part):
    """Our text encoder."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> BaseModelOutputWithPooling:
        """Vectors of the tokens (B, L, D) and of the texts (B, P), from ids and mask (B, L)."""
        found = self.network(input_ids, attention_mask.bool())
        return BaseModelOutputWithPooling(last_hidden_state=found.tokens, pooler_output=found.pooled)


class Null(Part):
    """The learned condition of no prompt."""

    def forward(self, batch: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, L, D), mask (B, L) and pooled (B, P), as the text encoder gives them for a prompt."""
        found = self.network(batch, length)
        return found["tokens"], found["mask"], found["pooled"]
