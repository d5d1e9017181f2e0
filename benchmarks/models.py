"""Models of published sizes with random weights, and their number of operations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import timed
from export.exporter import ExportOptions, export_model
from export.outputs import label_outputs
from sfavivit.config import ModelDimensions, named_dimensions
from sfavivit.models.resnet import ResNet
from sfavivit.models.vivit import SfaVivit
from sfavivit.repository.manifest import Precision, Repository

CLASSES = 400  # as in Kinetics
PROBE_ROWS, PROBE_SIDE = 256, 768  # small enough to be quick where a type is emulated


def random_model(size: str, *, frames: int = 128, seed: int = 0) -> SfaVivit:
    """Return a model of ``size`` (tiny, B, L, H or g) with an adapter.

    The spatial half is the same for every ``seed``, so that models can be heads of one repository.
    """
    torch.manual_seed(seed)
    model = SfaVivit(named_dimensions(size, {"": CLASSES}, frames=frames)).eval()
    torch.manual_seed(0)
    model.spatial.load_state_dict(SfaVivit(model.dims).spatial.state_dict())
    return model


def random_repository(
    folder: Path, size: str, precision: Precision, *, frames: int = 128, heads: int = 1
) -> Path:
    """Return the repository in ``folder``, made unless it is there, with heads ``first``, ``second`` ...

    Raises:
        SfaVivitError: the folder holds no usable repository, or the export is refused.
    """
    if folder.exists():
        Repository.load(folder)
        return folder
    for seed, head in enumerate(("first", "second", "third", "fourth")[:heads]):
        model = random_model(size, frames=frames, seed=seed)
        options = ExportOptions(head=head, precision=precision)
        export_model(model, label_outputs(model, {}), folder, options)
    return folder


def layer_shapes(dims: ModelDimensions) -> dict[str, tuple[int, int]]:
    """Return inputs K and outputs N of each linear layer of a spatial block."""
    d, width = dims.hidden_size, dims.spatial.mlp_dim
    return {"qkv": (d, 3 * d), "proj": (d, d), "fc1": (d, width), "fc2": (width, d)}


def spatial_operations(dims: ModelDimensions, *, last_block_for_cls: bool) -> int:
    """Return the operations of the spatial transformer (and a hybrid's ResNet) on one tubelet.

    Each multiply-add of a matrix product or convolution counts as two; norms, softmax, GELU and copies do
    not count. ``last_block_for_cls``: as the exported graphs compute it, with queries, projection and MLP of
    the last block for the CLS token alone.
    """
    d, s, last = dims.hidden_size, dims.patches + 1, 1 if last_block_for_cls else dims.patches + 1
    keys_and_values = 2 * s * d * (2 * d)
    for_each_query = 2 * d * d + 2 * (2 * s * d) + 2 * d * d + 2 * (2 * d * dims.spatial.mlp_dim)
    embedding = 2 * dims.patches * dims.patch_values * d
    queries = (dims.spatial.layers - 1) * s + last
    if (resnet := dims.resnet) is not None:
        shape = (dims.tubelet_frames, 3, dims.image_size, dims.image_size)
        embedding += counted_operations(lambda: (ResNet(resnet), {"images": torch.zeros(shape)}))
    return embedding + dims.spatial.layers * keys_and_values + queries * for_each_query


def counted_operations(make: Callable[[], tuple[nn.Module, dict[str, torch.Tensor]]]) -> int:
    """Return the operations of one call of a module, allocating and computing nothing.

    ``make`` returns the module and its keyword arguments.
    """
    with torch.device("meta"):
        module, arguments = make()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module.eval()(**{name: value.to("meta") for name, value in arguments.items()})
    return int(counter.get_total_flops())


def product_rate(dtype: torch.dtype) -> float:
    """Return the operations a second of one small matrix product of PyTorch."""
    a = torch.ones(PROBE_ROWS, PROBE_SIDE, dtype=dtype)
    b = torch.ones(PROBE_SIDE, PROBE_SIDE, dtype=dtype)
    seconds = min(timed(lambda: torch.mm(a, b)) for _ in range(3))
    return 2 * PROBE_ROWS * PROBE_SIDE**2 / seconds
