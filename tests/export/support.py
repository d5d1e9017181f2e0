"""Helpers of the export's tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf import text_format
from onnx.reference import ReferenceEvaluator
from tritonclient.grpc import model_config_pb2

from export.exporter import ExportOptions, ExportSummary, export_model
from export.graphs import numpy_state, spatial_graph
from export.outputs import label_outputs
from export.writer import ENGINE_FILE, write_engine
from sfavivit.engines.onnxruntime import OnnxModel
from sfavivit.models.vivit import SfaVivit
from sfavivit.repository.manifest import Precision

ROOT = Path(__file__).parents[2]
PRECISIONS: Sequence[Precision] = ("fp32", "fp16", "int8")
_ModelConfig: Any = vars(model_config_pb2)["ModelConfig"]  # made at run time, unknown to mypy


def spatial_engines(model: SfaVivit, folder: Path) -> dict[Precision, OnnxModel]:
    """Engines of the spatial half in every precision, int8 with rounded weights, in folders of that name."""
    for precision in PRECISIONS:
        graph = spatial_graph(model.dims, numpy_state(model.spatial), precision)
        write_engine(folder / precision, graph, "onnxruntime")
    return {precision: OnnxModel(folder / precision / ENGINE_FILE) for precision in PRECISIONS}


def export_plainly(model: SfaVivit, target: Path, video: Path, **options: Any) -> ExportSummary:
    """Export with the labels ``class 0`` ..., and parity measured on ``video``."""
    return export_model(model, label_outputs(model, {}), target, ExportOptions(parity_video=video, **options))


def cosines(a: Any, b: Any) -> Any:
    """Cosines of the rows of two arrays [..., D]."""
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def run_reference(file: Path, frames: Any) -> Any:
    """FEATURES from a checked ``model.onnx`` by ONNX's own reference evaluator."""
    onnx.checker.check_model(str(file), full_check=True)
    evaluator: Any = ReferenceEvaluator(onnx.load(str(file)))
    return evaluator.run(None, {"FRAMES": frames})[0]


def contents(root: Path) -> dict[str, bytes]:
    """Content of every file below ``root`` by its relative path."""
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def config(repository: Path, model: str) -> Any:
    """Parsed ``config.pbtxt`` of a model."""
    return text_format.Parse((repository / model / "config.pbtxt").read_text(), _ModelConfig())
