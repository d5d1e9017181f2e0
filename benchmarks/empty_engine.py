"""The video service over an engine that computes nothing: what is left is the service's own cost.

Run as ``python -m benchmarks.empty_engine REPOSITORY``.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import numpy as np

from serving.lifecycle import serve
from serving.settings import Settings
from sfavivit.engines import ENGINES
from sfavivit.repository.manifest import Catalog
from sfavivit.types import Features, Frames, Logits


class EmptyEngine:
    """Engine (``sfavivit.engines.base.Engine``) that returns zeros of the right shape."""

    device = "none"

    def __init__(self, catalog: Catalog, **options: Any) -> None:
        self._manifest = catalog.manifest

    def spatial(self, frames: Frames) -> Features:
        """Return float32 zeros [B, T, D]."""
        dims = self._manifest.dimensions
        shape = (len(frames), frames.shape[1] // dims.tubelet_frames, dims.hidden_size)
        return np.zeros(shape, np.float32)

    def temporal(self, head: str, features: Features) -> Logits:
        """Return float32 zeros [B, C] for each output."""
        outputs = self._manifest.head(head).outputs
        return {name: np.zeros((len(features), classes), np.float32) for name, classes in outputs.items()}


if __name__ == "__main__":
    ENGINES["empty"] = (__spec__.name, EmptyEngine.__name__, "")
    asyncio.run(serve(Settings(sys.argv[1], "empty", port=0, metrics_port=None)))
