"""Mistakes about other systems. Each is compared with a short table of what their authors published, in our words; arithmetic where that decides."""

from __future__ import annotations

from errata.entry import Check, Erratum, require

PUBLISHED: dict[str, frozenset[str]] = {                   # what the source says; other words are not supported by it
    "DALL-E 3 backbone": frozenset({"not disclosed in detail"}),
    "MusicGen": frozenset({"autoregressive over codec tokens"}),
    "Sora": frozenset({"transformer on spacetime patches"}),
    "Stable Audio latents": frozenset({"of a waveform autoencoder"}),
    "RFdiffusion diffuses": frozenset({"residue frames: positions and rotations"}),
    "Diffuser diffuses": frozenset({"trajectories of states and actions"}),
}
FLUX_PARAMETERS, T5_PARAMETERS, CLIP_PARAMETERS, VAE_PARAMETERS = 11.9e9, 4.76e9, 0.123e9, 0.084e9
DDPM_CORES, DDPM_SEC, DDPM_IMAGES, DDPM_SIDE = 8, 300.0, 128, 256


def published(system: str) -> Check:
    """A check against one row of the table; `wrong` and `right` are filled in by `said`."""
    return Check(lambda words: require(words in PUBLISHED[system], f"{system}: its authors say {sorted(PUBLISHED[system])[0]}"), "", "")


def said(system: str, wrong: str) -> tuple[Check, ...]:
    """The wrong words and the published ones."""
    return (Check(published(system).test, wrong, min(PUBLISHED[system])),)


def is_the_hardware(cores: int) -> None:
    require(cores == DDPM_CORES, f"the paper used one TPU v3-8, which has {DDPM_CORES} cores")


def holds_the_weights(gigabytes: float) -> None:
    """All weights of FLUX.1 on the device, one byte each for the transformer and T5, two for CLIP and the VAE; no activations yet."""
    need = (FLUX_PARAMETERS + T5_PARAMETERS + 2 * CLIP_PARAMETERS + 2 * VAE_PARAMETERS) / 1e9
    require(gigabytes >= need, f"the weights alone are {need:.1f} GB, of which the transformer has {FLUX_PARAMETERS / 1e9:.1f}")


def is_plausible_per_image(hours: float) -> None:
    """DDPM's published time, scaled to side 1024 as if all of its work were attention (the fourth power), is an upper bound."""
    bound = DDPM_SEC / DDPM_IMAGES * (1024 / DDPM_SIDE) ** 4 * DDPM_CORES / 3600
    require(hours <= bound, f"{hours:g} hours for one image; even the fourth power of the side gives {bound:.1f}")


ERRATA = (
    Erratum(
        15, "A", "DALL-E 3",
        "DALL-E 3 is named as a DiT.",
        "Its report is about captions and does not describe the denoiser; nothing published says so.",
        "Not disclosed.",
        "Betker et al. 2023, Improving Image Generation with Better Captions",
        said("DALL-E 3 backbone", "DiT"), "unread"),
    Erratum(
        16, "A", "MusicGen",
        "MusicGen uses flow matching.",
        "It is one autoregressive transformer over EnCodec tokens.",
        "No diffusion and no flow.",
        "Copet et al. 2023, arXiv 2306.05284",
        said("MusicGen", "flow matching"), "fact"),
    Erratum(
        17, "A", "Sora",
        "Sora is a U-Net in space and time.",
        "Its report describes a diffusion transformer on spacetime patches of a compressed video.",
        "A transformer.",
        "Brooks et al. 2024, Video generation models as world simulators",
        said("Sora", "U-Net"), "fact"),
    Erratum(
        18, "A", "Stable Audio",
        "Stable Audio diffuses latents of mel spectrograms.",
        "Its latents are those of a convolutional autoencoder of the stereo waveform at 44.1 kHz.",
        "A waveform autoencoder.",
        "Evans et al. 2024, arXiv 2402.04825",
        said("Stable Audio latents", "of mel spectrograms"), "fact"),
    Erratum(
        19, "A", "RFdiffusion",
        "It diffuses coordinates and residue types.",
        "It diffuses the frames of residues, that is, the backbone. The sequence is designed afterwards by another network.",
        "Frames; then ProteinMPNN.",
        "Watson et al. 2023, Nature 620, De novo design of protein structure and function with RFdiffusion",
        said("RFdiffusion diffuses", "coordinates and residue types"), "fact"),
    Erratum(
        21, "A", "Diffuser",
        "Diffuser generates trajectories of actions.",
        "It diffuses states and actions together, as one array over time.",
        "States and actions.",
        "Janner et al. 2022, arXiv 2205.09991",
        said("Diffuser diffuses", "trajectories of actions"), "fact"),
    Erratum(
        27, "D", "hardware of DDPM",
        "DDPM was trained on 256 TPU v3 chips for days.",
        "The paper used a TPU v3-8 for all experiments; CIFAR-10 took 10.6 hours.",
        "8 cores.",
        "Ho et al. 2020, arXiv 2006.11239, appendix B",
        (Check(is_the_hardware, 256, 8),), "fact"),
    Erratum(
        34, "D", "memory of FLUX",
        "FLUX in FP8 runs in 12 GB.",
        "12 GB are the weights of the transformer alone. The T5 encoder has 4.8 billion more; activations come on top.",
        "About 17 GB for the weights, or moving parts to the host in turn.",
        "parameter counts of the released FLUX.1 and T5 v1.1 XXL encoder",
        (Check(holds_the_weights, 12.0, 17.1),), "fact"),
    Erratum(
        35, "D", "cost of pixels",
        "One image of 1024 x 1024 by diffusion on pixels takes hundreds of GPU-hours.",
        "DDPM made 128 images of 256 x 256 in 300 s on eight cores. Scaled with the fourth power of the side, which is too "
        "much, that is 1.3 core-hours.",
        "Hundreds of hours are of the order of a training, not of an image.",
        "Ho et al. 2020, arXiv 2006.11239, appendix B",
        (Check(is_plausible_per_image, 100.0, 1.0),), "fact"),
)
