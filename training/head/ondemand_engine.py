"""Engine whose ONNX models load on first use, so that stored features need no spatial model."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path

from sfavivit.engines.device import Device, start_on
from sfavivit.engines.model import LoadedModel
from sfavivit.engines.onnxruntime import MODEL_FILE, OnnxModel, has_cuda, require_cuda, usable_device
from sfavivit.inference.recognizer import Recognizer
from sfavivit.repository.manifest import FEATURES, FRAMES, Repository, logits_tensor
from sfavivit.types import Features, Frames, Logits


class OnDemandEngine:
    """Thread-safe variant of ``OnnxRuntimeEngine`` that loads each model on first use."""

    def __init__(self, repository: Repository, device: Device = "auto") -> None:
        self._repository = repository
        self._lock = threading.Lock()
        self._models: dict[Path, OnnxModel] = {}
        self._wanted = usable_device(device, repository.manifest.spatial.precision)
        if device == "cuda":
            require_cuda()  # now, not after an hour of training

    @property
    def device(self) -> str:
        """Device of the loaded models; before there are any, the one that was asked for."""
        return next((model.device for model in self._models.values()), self._wanted)

    def spatial(self, frames: Frames) -> Features:
        model = self._model(self._repository.spatial_file(MODEL_FILE))
        features: Features = model.run({FRAMES: frames})[FEATURES]
        return features

    def temporal(self, head: str, features: Features) -> Logits:
        model = self._model(self._repository.temporal_file(head, MODEL_FILE))
        logits = model.run({FEATURES: features})
        outputs = self._repository.manifest.head(head).outputs
        return {output: logits[logits_tensor(output)] for output in outputs}

    def _model(self, file: Path) -> OnnxModel:
        with self._lock:
            if file not in self._models:
                model = start_on(self._wanted, partial(OnnxModel, file, None), gpu_package=has_cuda())
                self._wanted = "cpu" if model.device == "cpu" else "cuda"  # the first decides for all
                self._models[file] = model
            return self._models[file]


def open_on_demand(repository: Path, device: Device = "auto") -> Recognizer:
    """Return the recognizer of a verified repository, without loading models.

    Raises:
        RepositoryError: the repository cannot be used.
        EngineError, UsageError: ``device`` cannot be used.
    """
    catalog = Repository.load(repository)
    return Recognizer(LoadedModel(catalog, OnDemandEngine(catalog, device)))
