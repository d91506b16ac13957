"""What is chosen among: for each axis of a recipe the ways that are compared, as settings on top of the base. The first way is the base itself."""

from __future__ import annotations

Ways = dict[str, tuple[str, ...]]
Axes = dict[str, Ways]
EACH, COARSE = (True, True, True), (False, True, True)
EIGHTH, QUARTER = ((1, 1, 2), (2, 2, 3)), ((1, 2), (2, 3))
NOTHING = ("text=null", "train_text=false", "optimizer.scale={}", "vocab=1536")


def _unet(widths: tuple[int, ...], blocks: int = 1, cross: tuple[bool, ...] = EACH) -> str:
    return (f"network=UNetConfig(in_channels=8, out_channels=8, widths={widths}, blocks={blocks}, attention=(False, True, True), cross={cross}, "
            "text_dim=192, pooled_dim=192, embed_dim=192)")


def _dit(patch: int, width: int, depth: int, heads: int, kind: str = "DiT") -> str:
    return (f"network={kind}Config(in_channels=8, out_channels=8, patch={patch}, width={width}, depth={depth}, heads={heads}, text_dim=192, "
            "pooled_dim=192)")


def _vae(channels: int, widths: tuple[int, ...], blocks: tuple[tuple[int, ...], tuple[int, ...]] = EIGHTH) -> str:
    return (f"network=AutoencoderConfig(latent_channels={channels}, widths={widths}, encoder_blocks={blocks[0]}, decoder_blocks={blocks[1]}, "
            "patch=2)")


def _words(layers: int) -> tuple[str, ...]:
    return (*NOTHING, f"text_network=TextEncoderConfig(vocab=1536, width=192, layers={layers}, heads=4, max_tokens=32, init=1.0)")


def bases(part: int) -> dict[str, tuple[str, ...]]:
    """What a recipe is changed by before anything is compared: nothing, or where `part` is 2, half of every width and small batches."""
    if part == 1:
        return {"mini-denoiser": (), "mini-autoencoder": ()}
    return {"mini-denoiser": (_unet((64, 64, 72)), "batch=32"), "mini-autoencoder": (_vae(8, (32, 48, 80)),)}


def recipes(part: int) -> dict[str, Axes]:
    """The axes of every recipe, with each width divided by `part`."""
    return {"mini-denoiser": {**DENOISER, **_sizes(part)}, "mini-autoencoder": {"seed": SEED, "latents": _latents(part), "losses": LOSSES}}


def _sizes(part: int) -> Axes:
    """Axes of the denoiser whose ways are numbers of channels or of pictures."""
    def of(*widths: int) -> tuple[int, ...]:
        return tuple(width // part for width in widths)

    def name(*widths: int) -> str:
        return ", ".join(map(str, of(*widths)))
    batch = 128 if part == 1 else 32
    return {
        "network": {
            f"U-Net {name(128, 128, 144)}": (),
            "text at 8 x 8 and 4 x 4 only": (_unet(of(128, 128, 144), cross=COARSE),),
            f"U-Net {name(96, 128, 192)}": (_unet(of(96, 128, 192)),),
            f"U-Net {name(96, 96, 112)}, two blocks": (_unet(of(96, 96, 112), 2),),
            f"DiT {name(256)} x 6, patch 2": (_dit(2, 256 // part, 6, 4),),
            f"MM-DiT {name(256)} x 5, patch 2": (_dit(2, 256 // part, 5, 4, "MMDiT"),),
            f"DiT {name(192)} x 6, patch 1": (_dit(1, 192 // part, 6, 3),),
        },
        "together": {"the base": (), "DiT, patch 2, stratified": (_dit(2, 256 // part, 6, 4), "levels=stratified")},
        "batch": {str(batch): (), **{str(each): (f"batch={each}",) for each in (batch // 4, batch // 2, 2 * batch)}},
    }


def _latents(part: int) -> Ways:
    wide, few = (64 // part, 96 // part, 160 // part), (96 // part, 160 // part)
    return {"1/8, 8 channels": (), "1/8, 4 channels": (_vae(4, wide),), "1/8, 16 channels": (_vae(16, wide),),
            "1/4, 4 channels": (_vae(4, few, QUARTER),)}


SEED: Ways = {"0": (), "1": ("seed=1",), "2": ("seed=2",)}    # not to choose among, but to know how much is chance
DENOISER: Axes = {
    "seed": SEED,
    "prediction": {"v": (), "eps": ("prediction=Eps()", "process=DiscreteCosine()"), "x0": ("prediction=X0()",),
                   "rectified flow": ("process=Straight()", "prediction=Velocity()")},
    "levels": {"logit-normal 0.5, 1.2": (), "logit-normal 0, 1": ("levels=LogitNormalLevels(mean=0.0, std=1.0)",),
               "stratified": ("levels=stratified",), "uniform": ("levels=uniform",)},
    "weighting": {"simple": (), "min-SNR 5": ("weighting=MinSNRWeight(gamma=5.0)",), "sigmoid": ("weighting=sigmoid",)},
    "text": {"contrastive, trained along at 0.3": (), "at a tenth": ("optimizer.scale={'^text': 0.1}",), "at the full rate": ("optimizer.scale={}",),
             "frozen": ("train_text=false", "optimizer.scale={}"),
             "from nothing, three layers": _words(3), "from nothing, one layer": _words(1)},
    "drop": {"0.1": (), "0": ("drop=0",), "0.2": ("drop=0.2",)},
    "captions": {"four forms": (), "one form": ("data.rewrite=[]",)},
    "repeats": {"emoji twelve times, photos four": (), "once": ("data.repeat={}",)},
    "flip": {"no": (), "yes": ("data.flip=true",)},
    "optimizer": {"AdamW 1e-3": (), "AdamW 5e-4": ("optimizer.lr=5.0e-4",), "AdamW 2e-3": ("optimizer.lr=2.0e-3",),
                  "Muon 0.02": ("optimizer.kind=muon",), "Muon 0.005": ("optimizer.kind=muon", "optimizer.muon_lr=0.005")},
    "average": {"ramp 0.1": (), "ramp 0.03": ("ema_ramp=0.03",), "none": ("ema_half_life=0",)},
}
LOSSES: Ways = {
    "L1, L2, edges": (), "L2": ("l1=0", "edges=0"), "L1": ("l2=0", "edges=0"), "L1, L2": ("edges=0",),
    "and a perceptual one": ("perceptual=0.5",), "and a patch discriminator": ("adversarial=0.05", "adversarial_start=100"),
    "and both": ("perceptual=0.5", "adversarial=0.05", "adversarial_start=100"),
}
