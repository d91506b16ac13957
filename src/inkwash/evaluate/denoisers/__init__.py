"""Questions to a denoiser: what its network does, what it was trained on, and how likely it makes data."""
