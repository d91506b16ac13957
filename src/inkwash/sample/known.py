"""What of a sample is known beforehand: painting only part of an image, with any table.

After each row the kept part of x is replaced by what the known image looks like at the level that the row reached, alpha * x0 + sigma * eps.
The network so sees a whole image at one level and fits the rest to it (RePaint without resampling: Lugmayr et al. 2022, arXiv 2201.09865,
eq. 8; in latent space: Avrahami et al. 2022, arXiv 2206.02779). There eps is drawn anew at every row; here it is one, that of the start, so
that the kept part moves on the straight line that an exact denoiser would send it along, and methods with a memory see no jump. Rows mix each
number of x with itself alone, so what a row remembers of the kept part never reaches the painted part except through the network.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Known(NamedTuple):
    """The known part of one sample."""

    x0: Tensor                                             # (...) clean, in model space
    eps: Tensor                                            # (...) the noise it bears
    paint: Tensor                                          # bool, broadcasts over x0: True where the sampler decides

    def impose(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """x (...) of that level with the kept part replaced."""
        return torch.where(self.paint, x, alpha * self.x0 + sigma * self.eps)
