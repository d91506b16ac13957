"""A whole model, small and untrained, so that everything above the networks can be tried in a second."""

from __future__ import annotations

from pathlib import Path

import torch

CAPTIONS = ["a small red cube left of a blue sphere", "two green cones in soft light", "emoji of a smiling cat", "a black leather jacket"]


def build_tiny(folder: Path, seed: int = 0) -> Path:
    """Latent diffusion at 32 x 32 with text, random weights, saved as `folder`."""
    from inkwash.condition import Null, NullConfig
    from inkwash.io.folder import save_info, save_part, save_tokenizer
    from inkwash.io.info import Defaults, ModelInfo, Sizes, count_words
    from inkwash.nn.text import TextEncoderConfig
    from inkwash.nn.unet import UNetConfig
    from inkwash.nn.vae import AutoencoderConfig
    from inkwash.tokenizer import Tokenizer

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer = Tokenizer.train(CAPTIONS * 5, 300, 16)
        parts = {"text_encoder": TextEncoderConfig(vocab=tokenizer.size, width=32, layers=1, heads=2, max_tokens=16).build(),
                 "conditioner": Null(NullConfig(32, 32)),
                 "vae": AutoencoderConfig(latent_channels=4, widths=(16, 16), encoder_blocks=(1, 1), decoder_blocks=(1, 1)).build(),
                 "unet": UNetConfig(in_channels=4, out_channels=4, widths=(32, 32), attention=(False, True), cross=(False, True), head_dim=16,
                                    text_dim=32, pooled_dim=32).build()}
        for name, module in parts.items():
            for parameter in module.parameters():
                if not bool(parameter.any()):
                    torch.nn.init.normal_(parameter, std=0.1)
            save_part(folder, name, module)
    save_tokenizer(folder, tokenizer)
    save_info(folder, ModelInfo("tiny", "Cosine()", "V()", channels=4, factor=4, mean=(0.1, 0.0, -0.1, 0.0), std=(1.0, 1.1, 0.9, 1.0), length=16,
                                sizes=Sizes((32, 32), 16, 64, 16), defaults=Defaults(4, "ddim", "trailing", 3.0),
                                card={"license": "Apache-2.0", "summary": "untrained"}, vocabulary=count_words(CAPTIONS)))
    return folder
