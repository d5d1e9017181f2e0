"""The PyTorch engine: float32, the reference for the other engines. CUDA has not been run on a GPU yet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from sfavivit.engines.device import Device, Processor, start_on
from sfavivit.errors import EngineError
from sfavivit.models.rotation import unrotated
from sfavivit.models.vivit import SpatialTransformer, TemporalTransformer
from sfavivit.repository.manifest import Repository
from sfavivit.types import Features, Frames, Logits
from sfavivit.utils.cpus import available_cpus
from sfavivit.utils.text import one_line

if TYPE_CHECKING:
    from torch import nn

WEIGHTS_FILE = "model.safetensors"


class TorchEngine:
    """Engine that runs the modules of ``sfavivit.models.vivit`` on the repository's weights.

    Reduced weights (fp16, int8) are widened to float32, so that results show the effect of reduced weights
    alone. The methods are those of ``engines.base.Engine``.

    Raises:
        EngineError: a file does not hold the weights of the model in the manifest, or CUDA cannot be used.
    """

    def __init__(
        self, repository: Repository, *, threads: int | None = None, device: Device = "auto"
    ) -> None:
        torch.set_num_threads(threads or available_cpus())  # PyTorch itself knows of no CPU quota
        self._device = working_device(device)
        manifest = repository.manifest
        self._spatial = SpatialTransformer(manifest.dimensions)
        _load(self._spatial, repository.spatial_file(WEIGHTS_FILE), self._device)
        self._temporal = {}
        for head, entry in manifest.heads.items():
            self._temporal[head] = TemporalTransformer(entry.dimensions)
            _load(self._temporal[head], repository.temporal_file(head, WEIGHTS_FILE), self._device)

    @property
    def device(self) -> str:
        return str(self._device)

    @torch.inference_mode()
    def spatial(self, frames: Frames) -> Features:
        # Convolutions would use TF32 on GPUs, unlike all other products, and keep 10 bits of the mantissa.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            features: Features = self._spatial(torch.from_numpy(frames).to(self._device)).cpu().numpy()
        return features

    @torch.inference_mode()
    def temporal(self, head: str, features: Features) -> Logits:
        logits = self._temporal[head](torch.from_numpy(features).to(self._device))
        return {name: value.cpu().numpy() for name, value in logits.items()}


def working_device(device: Device) -> torch.device:
    """Return a device that PyTorch can compute on.

    Raises:
        EngineError: CUDA was asked for, and cannot be used.
    """
    return start_on(device, _tried, gpu_package=False)


def _tried(processor: Processor) -> torch.device:
    try:
        return torch.zeros(1, device=processor).device
    except (RuntimeError, AssertionError) as error:  # the latter of a PyTorch without CUDA
        raise EngineError(f"PyTorch cannot use {processor}: {one_line(error)}") from error


def _load(module: nn.Module, file: Path, device: torch.device) -> None:
    try:
        weights = unrotated(_widened(load_file(file)))
        module.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    except (SafetensorError, RuntimeError, LookupError, ValueError) as error:
        raise EngineError(f"{file} does not hold this model's weights: {error}") from error
    module.eval().to(device)


def _widened(stored: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """Return stored weights as float32 under PyTorch's names; an int8 weight is value * scale of its row."""
    state = {}
    for name, value in stored.items():
        if name.endswith(".weight_int8"):
            scale = stored[name.removesuffix("int8") + "scale"]
            state[name.removesuffix("_int8")] = value * scale[:, None]
        elif not name.endswith(".weight_scale"):
            state[name] = value.astype(np.float32)
    return state
