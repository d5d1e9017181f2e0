"""Engine whose ONNX models load on first use, so that stored features need no spatial model."""

from __future__ import annotations

import threading
from pathlib import Path

from sfavivit.engines.model import LoadedModel
from sfavivit.engines.onnxruntime import CPU, MODEL_FILE, OnnxModel, best_provider
from sfavivit.inference.recognizer import Recognizer
from sfavivit.repository.manifest import FEATURES, FRAMES, Repository, logits_tensor
from sfavivit.types import Features, Frames, Logits


class OnDemandEngine:
    """Thread-safe variant of ``OnnxRuntimeEngine`` that loads each model on first use."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._lock = threading.Lock()
        self._models: dict[Path, OnnxModel] = {}

    def spatial(self, frames: Frames) -> Features:
        provider = best_provider(self._repository.manifest.spatial.precision)
        model = self._model(self._repository.spatial_file(MODEL_FILE), provider)
        features: Features = model.run({FRAMES: frames})[FEATURES]
        return features

    def temporal(self, head: str, features: Features) -> Logits:
        model = self._model(self._repository.temporal_file(head, MODEL_FILE), CPU)
        logits = model.run({FEATURES: features})
        outputs = self._repository.manifest.head(head).outputs
        return {output: logits[logits_tensor(output)] for output in outputs}

    def _model(self, file: Path, provider: str) -> OnnxModel:
        with self._lock:
            if file not in self._models:
                self._models[file] = OnnxModel(file, provider=provider)
            return self._models[file]


def open_on_demand(repository: Path) -> Recognizer:
    """Return the recognizer of a verified repository, without loading models. Raises ``RepositoryError``."""
    catalog = Repository.load(repository)
    return Recognizer(LoadedModel(catalog, OnDemandEngine(catalog)))
