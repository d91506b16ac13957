"""Plain networks: (x, bounded noise scalar, condition) -> y. They know no diffusion."""

from inkwash.nn.config import NetworkConfig
from inkwash.nn.unet import UNet, UNetConfig
from inkwash.nn.vae import Autoencoder, AutoencoderConfig

__all__ = ["Autoencoder", "AutoencoderConfig", "NetworkConfig", "UNet", "UNetConfig"]
