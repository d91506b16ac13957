"""Starting from a picture: image to image, and painting a part of it.

Image to image puts noise on the encoded picture, x = alpha * x0 + sigma * eps, at the level where the last part of the path begins, and runs
that part (SDEdit: Meng et al. 2021, arXiv 2108.01073). At strength 1 that is the terminal level: where alpha is 0 there, as on a cosine, x
has the bits of text to image; elsewhere a trace of the picture remains. As strength goes to 0 the result goes to the picture, encoded and
decoded. With a mask, a cell of model space is painted where any of its pixels is more than black (`sample.known` keeps the others), and at
last the picture itself is laid over: pixel = mask * made + (1 - mask) * picture. So pixels under black keep their bits, in spite of the
autoencoder; a white mask changes nothing; grey is the soft edge.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from inkwash.codec import Codec
from inkwash.request import Request
from inkwash.sample import Known, Plan, Program, start


def from_picture(codec: Codec, request: Request, plan: Plan, device: torch.device) -> Program:
    """The program of a request with an image. Its noise is that of text to image with the same seed."""
    assert request.image is not None
    x0 = codec.encode(request.image.pixels()[None]).x[0].to("cpu", torch.float32)                             # (C, h, w)
    known = None
    if request.mask is not None:
        paint = F.max_pool2d((request.mask.grey() > 0).float()[None, None], codec.factor)[0].bool()            # (1, h, w)
        known = Known(x0.to(device), paint.to(device))
    return Program(plan, request.seed, 0, start(plan, x0, request.seed, 0).to(device), known)


def lay_over(request: Request, pixels: Tensor) -> Tensor:
    """The made pixels (3, H, W) uint8 under the mask, the request's own image elsewhere."""
    if request.image is None or request.mask is None:
        return pixels
    weight = request.mask.grey().to(torch.int32)                                                              # (H, W) 0..255
    mixed = (weight * pixels.to(torch.int32) + (255 - weight) * request.image.pixels().to(torch.int32) + 127) // 255
    return mixed.to(torch.uint8)
