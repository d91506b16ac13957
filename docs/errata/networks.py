"""Mistakes about sizes, costs and networks."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from errata.entry import Check, Erratum, near, require
from inkwash.errors import UsageError
from inkwash.nn.attention import attend
from inkwash.nn.unet import Site, UNetConfig
from inkwash.nn.vae import AutoencoderConfig

SIDE, CHANNELS, LATENT_SIDE, LATENT_CHANNELS = 512, 3, 64, 4


def is_the_growth_of_attention(exponent: float) -> None:
    """FLOPs of self-attention over side x side tokens, counted at two sides."""
    counts = []
    for side in (16, 32):
        q = torch.randn(1, 1, side * side, 8)
        with FlopCounterMode(display=False) as counter:
            attend(q, q, q, form="naive")
        counts.append(counter.get_total_flops())
    near(math.log2(counts[1] / counts[0]), exponent, 0.01)


def is_the_number_of_pixels(count: int) -> None:
    require(count == SIDE * SIDE, f"an image of {SIDE} x {SIDE} has {SIDE * SIDE:,} pixels and {SIDE * SIDE * CHANNELS:,} values")


def is_the_saving_in_values(ratio: float) -> None:
    near(ratio, SIDE**2 * CHANNELS / (LATENT_SIDE**2 * LATENT_CHANNELS), 1e-9)


def is_where_text_is_read(sites: frozenset[str]) -> None:
    """The places of a default U-Net that have cross-attention."""
    network = UNetConfig(in_channels=4, out_channels=4, widths=(16, 16), attention=(False, True), cross=(False, True), head_dim=16,
                         text_dim=8).build()
    found = {name.split(".")[0] for name, module in network.named_modules() if isinstance(module, Site) and module.cross is not None}
    found = {"middle" if name.startswith("mid") else name for name in found}
    require(sites == found, f"text is read in {sorted(found)}")


class Base(nn.Module):
    """One encoder and one decoder convolution with a skip between them: the least U-Net."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.encoder, self.decoder = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor, added: Tensor | float = 0.0) -> Tensor:
        out: Tensor = self.decoder(self.encoder(x).tanh() + added)
        return out


class ControlNet(nn.Module):
    """A trainable copy of the encoder, whose output goes through a convolution of zeros into the skip."""

    def __init__(self, base: Base) -> None:
        super().__init__()
        self.copy, self.zero = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.copy.load_state_dict(base.encoder.state_dict())
        nn.init.zeros_(self.zero.weight)
        nn.init.zeros_(self.zero.bias)

    def forward(self, x: Tensor, hint: Tensor) -> Tensor:
        out: Tensor = self.zero(self.copy(x + hint).tanh())
        return out


class ByCrossAttention(nn.Module):
    """The hint as tokens of one more attention layer."""

    def __init__(self, base: Base) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.attention = nn.MultiheadAttention(8, 1, kdim=4, vdim=4, batch_first=True)
            self.query = nn.Conv2d(4, 8, 1)

    def forward(self, x: Tensor, hint: Tensor) -> Tensor:
        tokens = hint.flatten(2).transpose(1, 2)
        out: Tensor = self.attention(self.query(x).flatten(2).transpose(1, 2), tokens, tokens)[0]
        return out.transpose(1, 2).reshape(x.shape[0], 8, *x.shape[2:])


class FromScratch(ControlNet):
    """New weights in place of the copy."""

    def __init__(self, base: Base) -> None:
        super().__init__(base)
        self.copy.load_state_dict(Base(seed=5).encoder.state_dict())


def changes_nothing_at_first(control: Callable[[Base], nn.Module]) -> None:
    base, x, hint = Base(), torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0)), torch.ones(1, 4, 4, 4)
    require(torch.equal(base(x, control(base)(x, hint)), base(x)), "an untrained control changes the images of the base model")


def starts_from_the_base(control: Callable[[Base], ControlNet]) -> None:
    base = Base()
    require(torch.equal(control(base).copy.weight, base.encoder.weight), "the branch does not start from the weights of the encoder")


def adds_to(place: str) -> None:
    """Where a trained control changes the base: its encoder's features must not change, the sum that the decoder reads must."""
    base, seen = Base(), {}
    control = ControlNet(base)
    nn.init.ones_(control.zero.weight)
    base.encoder.register_forward_hook(lambda module, given, out: seen.__setitem__("encoder", out))
    base.decoder.register_forward_hook(lambda module, given, out: seen.__setitem__("decoder", given[0]))
    x, hint = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0)), torch.ones(1, 4, 4, 4)
    base(x)
    before = dict(seen)
    base(x, control(x, hint))
    require(not torch.equal(seen[place], before[place]), f"the {place} sees what it saw without the control")


def may_be_shared(key: Callable[[str, int, tuple[int, int]], object]) -> None:
    """Two requests with one key would get one decoded picture; they must be the same picture."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = AutoencoderConfig(latent_channels=4, widths=(16, 16), encoder_blocks=(1, 1), decoder_blocks=(1, 1)).build()
    requests = [("a red cube", 1, (32, 32)), ("a cat", 2, (32, 32))]
    with torch.no_grad():
        pictures = [vae.decode(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))) for _, seed, _ in requests]
    require(not torch.equal(*pictures), "two latents decode to one picture")
    require(key(*requests[0]) != key(*requests[1]), "two requests of one size would share a picture")


def can_be_together(options: dict[str, object]) -> None:
    try:
        UNetConfig(in_channels=4, out_channels=4, widths=(16,), attention=(True,), cross=(False,), head_dim=16, **options)  # type: ignore[arg-type]
    except UsageError as error:
        raise AssertionError(error.message) from error


ERRATA = (
    Erratum(
        14, "A", "caching the decoder",
        "Outputs of the VAE decoder can be cached for common resolutions.",
        "The decoder's output is the picture itself. A resolution says nothing of it.",
        "Per size, compiled graphs can be cached; outputs only for the whole request.",
        "what a decoder computes",
        (Check(may_be_shared, lambda prompt, seed, size: size, lambda prompt, seed, size: (prompt, seed, size)),)),
    Erratum(
        20, "A", "cost and resolution",
        "Cost grows with the square of the resolution.",
        "Values and convolutions do. Self-attention compares all positions with all: the fourth power of the side.",
        "2 for convolutions, 4 for full attention.",
        "Vaswani et al. 2017, arXiv 1706.03762, table 1",
        (Check(is_the_growth_of_attention, 2.0, 4.0),)),
    Erratum(
        22, "B", "pixels of an image",
        "A 512 x 512 image has 786K pixels.",
        "It has 262,144 pixels of three values, 786,432 values.",
        "262,144 pixels.",
        "arithmetic",
        (Check(is_the_number_of_pixels, 786_432, 262_144),)),
    Erratum(
        23, "B", "saving by latents",
        "Latents make diffusion 4 to 8 times cheaper.",
        "512 x 512 x 3 values become 64 x 64 x 4: 48 times fewer values and 64 times fewer positions. Measured time is another "
        "number, and lies in between for every network.",
        "48 (values) or 64 (positions), said with the unit.",
        "Rombach et al. 2021, arXiv 2112.10752",
        (Check(is_the_saving_in_values, 8.0, 48.0),)),
    Erratum(
        24, "B", "how ControlNet is wired",
        "ControlNet conditions by additional cross-attention.",
        "It is a trainable copy of the encoder, whose outputs are added through convolutions that start at zero. So an "
        "untrained one changes nothing.",
        "Zero convolutions.",
        "Zhang et al. 2023, arXiv 2302.05543, section 3",
        (Check(changes_nothing_at_first, ByCrossAttention, ControlNet),)),
    Erratum(
        28, "D", "where text is read",
        "Cross-attention stands in the middle and the decoder.",
        "The U-Net of Stable Diffusion has it on the way down, in the middle and on the way up. So has ours.",
        "down, middle, up.",
        "Rombach et al. 2021, arXiv 2112.10752, section 3.3",
        (Check(is_where_text_is_read, frozenset({"middle", "up"}), frozenset({"down", "middle", "up"})),)),
    Erratum(
        29, "D", "how ControlNet is trained",
        "It is trained from scratch, and its features go into the encoder.",
        "Its branch starts as a copy of the base's encoder; what it finds is added to the skips and the middle, which the "
        "decoder reads. The base's encoder sees nothing of it.",
        "A copy, into the decoder's side.",
        "Zhang et al. 2023, arXiv 2302.05543, section 3",
        (Check(starts_from_the_base, FromScratch, ControlNet), Check(adds_to, "encoder", "decoder"))),
    Erratum(
        33, "D", "xformers and slicing",
        "Memory-efficient attention is switched on, and attention slicing after it.",
        "Both are settings of the same slot: slicing replaces the fused kernel, and is slower.",
        "One of them. Here both together are refused.",
        "the documentation of diffusers on memory",
        (Check(can_be_together, {"form": "sdpa", "attention_slice": 64}, {"form": "sdpa"}),)),
)
