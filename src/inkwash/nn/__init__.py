"""Plain networks: (x, bounded noise scalar, condition) -> y. They know no diffusion."""

from inkwash.nn.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig
from inkwash.nn.classifier import ClassifierConfig, NoisyClassifier
from inkwash.nn.clip import Clip, ClipConfig
from inkwash.nn.clip_text import ClipText, ClipTextConfig
from inkwash.nn.config import NetworkConfig
from inkwash.nn.dit import DiT, DiTConfig
from inkwash.nn.image_tower import ImageTower, ImageTowerConfig
from inkwash.nn.mmdit import MMDiT, MMDiTConfig
from inkwash.nn.text import Text, TextEncoder, TextEncoderConfig
from inkwash.nn.unet import UNet, UNetConfig
from inkwash.nn.unet2d import UNet2D, UNet2DConfig
from inkwash.nn.vae import Autoencoder, AutoencoderConfig

__all__ = ["Autoencoder", "AutoencoderConfig", "AutoencoderKL", "AutoencoderKLConfig", "ClassifierConfig", "Clip", "ClipConfig", "ClipText",
           "ClipTextConfig", "DiT", "DiTConfig", "ImageTower", "ImageTowerConfig", "MMDiT", "MMDiTConfig",
           "NetworkConfig", "NoisyClassifier", "Text", "TextEncoder", "TextEncoderConfig", "UNet", "UNet2D", "UNet2DConfig", "UNetConfig"]
