"""How many operations a model takes: two for each multiply-add of matrix products and convolutions.

The rest (norms, softmax, GELU, copies) is what keeps an engine below the machine's ceiling.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sfavivit.config import ModelDimensions
from sfavivit.models.resnet import ResNet

PROBE_ROWS, PROBE_SIDE = 256, 768


def layer_shapes(dims: ModelDimensions) -> dict[str, tuple[int, int]]:
    """Linear layers of a spatial block: inputs K and outputs N of each."""
    d, width = dims.hidden_size, dims.spatial.mlp_dim
    return {"qkv": (d, 3 * d), "proj": (d, d), "fc1": (d, width), "fc2": (width, d)}


def spatial_operations(dims: ModelDimensions, *, last_block_for_cls: bool) -> int:
    """Of the spatial transformer, for one tubelet; of a hybrid, with the ResNet in front of it.

    ``last_block_for_cls``: as our graphs compute it, with queries, projection and MLP of the last block for
    the one token that leaves; else as the model is written.
    """
    d, s, last = dims.hidden_size, dims.patches + 1, 1 if last_block_for_cls else dims.patches + 1
    keys_and_values = 2 * s * d * (2 * d)
    for_each_query = 2 * d * d + 2 * (2 * s * d) + 2 * d * d + 2 * (2 * d * dims.spatial.mlp_dim)
    embedding = 2 * dims.patches * dims.patch_values * d
    queries = (dims.spatial.layers - 1) * s + last
    embedding += _resnet_operations(dims)
    return embedding + dims.spatial.layers * keys_and_values + queries * for_each_query


def _resnet_operations(dims: ModelDimensions) -> int:
    """For the frames of a tubelet; none where there is no ResNet."""
    if (resnet := dims.resnet) is None:
        return 0
    shape = (dims.tubelet_frames, 3, dims.image_size, dims.image_size)
    return counted_operations(lambda: (ResNet(resnet), {"images": torch.zeros(shape)}))


def counted_operations(make: Callable[[], tuple[nn.Module, dict[str, torch.Tensor]]]) -> int:
    """Of one call of any module: ``make`` gives it and its arguments. Nothing is allocated or computed."""
    with torch.device("meta"):
        module, arguments = make()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module.eval()(**arguments)
    return int(counter.get_total_flops())


def product_rate(dtype: torch.dtype, device: str = "cpu") -> float:
    """Operations a second of one matrix product small enough to be quick where ``dtype`` is emulated."""
    a = torch.ones(PROBE_ROWS, PROBE_SIDE, dtype=dtype, device=device)
    b = torch.ones(PROBE_SIDE, PROBE_SIDE, dtype=dtype, device=device)
    seconds = min(timed(lambda: torch.mm(a, b)) for _ in range(3))
    return 2 * PROBE_ROWS * PROBE_SIDE**2 / seconds


def timed(work: Callable[[], object]) -> float:
    """Seconds that ``work`` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
