"""What of a sample is known beforehand: painting only part of an image, with any table.

After each row the kept part of x is replaced by what the known image looks like at the level that the row reached, alpha * x0 + sigma * z. The
network so sees a whole image at one level and fits the rest to it (RePaint without resampling: Lugmayr et al. 2022, arXiv 2201.09865, eq. 8;
in latent space: Avrahami et al. 2022, arXiv 2206.02779). z is fresh at every row. One z for all rows, as some programs have it, can mislead
for good: where the data are (1, 1) or (-1, -1) and the first number is kept at 1, the second then ends at -1 more often (the theorem tests
show it). Rows mix each number of x with itself alone, so what they remember of the kept part never reaches the painted part
except through the network.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Known(NamedTuple):
    """The known part of one sample."""

    x0: Tensor                                             # (...) clean, in model space
    paint: Tensor                                          # bool, broadcasts over x0: True where the sampler decides

    def impose(self, x: Tensor, alpha: float, sigma: float, z: Tensor) -> Tensor:
        """x (...) of that level with the kept part replaced; z (...) is its noise."""
        return torch.where(self.paint, x, alpha * self.x0 + sigma * z)
