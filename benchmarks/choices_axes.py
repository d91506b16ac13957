"""What is chosen among: for each axis of a recipe the ways that are compared, as settings on top of the base. The first way is the base itself."""

from __future__ import annotations

UNET = ("UNetConfig(in_channels=8, out_channels=8, widths={widths}, blocks={blocks}, attention=(False, True, True), cross={cross}, "
        "text_dim=192, pooled_dim=192, embed_dim=192)")
DIT = "DiTConfig(in_channels=8, out_channels=8, patch={patch}, width={width}, depth={depth}, heads={heads}, text_dim=192, pooled_dim=192)"
VAE = "AutoencoderConfig(latent_channels={channels}, widths={widths}, encoder_blocks={blocks[0]}, decoder_blocks={blocks[1]}, patch=2)"
ALL, COARSE = (True, True, True), (False, True, True)
EIGHTH, QUARTER = ((1, 1, 2), (2, 2, 3)), ((1, 2), (2, 3))
WORDS = "TextEncoderConfig(vocab=1536, width=192, layers={layers}, heads=4, max_tokens=32, init=1.0)"
NOTHING = ("text=null", "train_text=false", "optimizer.scale={}", "vocab=1536")


Ways = dict[str, tuple[str, ...]]


def _network(text: str) -> tuple[str, ...]:
    return (f"network={text}",)


DENOISER: dict[str, Ways] = {
    "prediction": {"v": (), "eps": ("prediction=Eps()", "process=DiscreteCosine()"), "x0": ("prediction=X0()",),
                   "rectified flow": ("process=Straight()", "prediction=Velocity()")},
    "levels": {"logit-normal 0.5, 1.2": (), "logit-normal 0, 1": ("levels=LogitNormalLevels(mean=0.0, std=1.0)",),
               "stratified": ("levels=stratified",), "uniform": ("levels=uniform",)},
    "weighting": {"simple": (), "min-SNR 5": ("weighting=MinSNRWeight(gamma=5.0)",), "sigmoid": ("weighting=sigmoid",)},
    "network": {"U-Net 128, 128, 144": (), "text at 8 x 8 and 4 x 4 only": _network(UNET.format(widths=(128, 128, 144), blocks=1, cross=COARSE)),
                "U-Net 96, 128, 192": _network(UNET.format(widths=(96, 128, 192), blocks=1, cross=ALL)),
                "U-Net 96, 96, 112, two blocks": _network(UNET.format(widths=(96, 96, 112), blocks=2, cross=ALL)),
                "DiT 256 x 6, patch 2": _network(DIT.format(patch=2, width=256, depth=6, heads=4)),
                "DiT 192 x 6, patch 1": _network(DIT.format(patch=1, width=192, depth=6, heads=3))},
    "text": {"contrastive, trained along at 0.3": (), "at a tenth": ("optimizer.scale={'^text': 0.1}",), "at the full rate": ("optimizer.scale={}",),
             "frozen": ("train_text=false", "optimizer.scale={}"),
             "from nothing, three layers": (*NOTHING, f"text_network={WORDS.format(layers=3)}"),
             "from nothing, one layer": (*NOTHING, f"text_network={WORDS.format(layers=1)}")},
    "drop": {"0.1": (), "0": ("drop=0",), "0.2": ("drop=0.2",)},
    "captions": {"four forms": (), "one form": ("data.rewrite=[]",)},
    "repeats": {"emoji twelve times, photos four": (), "once": ("data.repeat={}",)},
    "flip": {"no": (), "yes": ("data.flip=true",)},
    "optimizer": {"AdamW 1e-3": (), "AdamW 5e-4": ("optimizer.lr=5.0e-4",), "AdamW 2e-3": ("optimizer.lr=2.0e-3",),
                  "Muon 0.02": ("optimizer.kind=muon",), "Muon 0.005": ("optimizer.kind=muon", "optimizer.muon_lr=0.005")},
    "batch": {"128": (), "64": ("batch=64",), "32": ("batch=32",), "256": ("batch=256",)},
    "average": {"ramp 0.1": (), "ramp 0.03": ("ema_ramp=0.03",), "none": ("ema_half_life=0",)},
}
AUTOENCODER: dict[str, Ways] = {
    "latents": {"1/8, 8 channels": (), "1/8, 4 channels": _network(VAE.format(channels=4, widths=(64, 96, 160), blocks=EIGHTH)),
                "1/8, 16 channels": _network(VAE.format(channels=16, widths=(64, 96, 160), blocks=EIGHTH)),
                "1/4, 4 channels": _network(VAE.format(channels=4, widths=(96, 160), blocks=QUARTER))},
    "losses": {"L1, L2, edges": (), "L2": ("l1=0", "edges=0"), "L1": ("l2=0", "edges=0"), "L1, L2": ("edges=0",),
               "and a perceptual one": ("perceptual=0.5",), "and a patch discriminator": ("adversarial=0.05", "adversarial_start=100"),
               "and both": ("perceptual=0.5", "adversarial=0.05", "adversarial_start=100")},
}
