"""Answers of the demo model at each precision, on its held-out videos."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer

from benchmarks.command_options import DEMO_MODEL, Out
from benchmarks.figures import RESULTS, Figure, Row, report
from benchmarks.measuring import cosines
from benchmarks.videos import read_chunks
from examples.motions.videos import write_held_out
from export.exporter import ExportOptions, export_model
from export.source import read_source
from sfavivit import Recognizer
from sfavivit.cli.options import DeviceOption
from sfavivit.engines.device import Device
from sfavivit.repository.manifest import Precision, Repository
from training.progress import work_bar

PRECISIONS: tuple[Precision, ...] = ("fp16", "int8")


def command(
    videos: Annotated[int, typer.Option(min=1, help="Number of held-out videos.")] = 240,
    repository: Annotated[Path, typer.Option(help="Model repository of the demo model.")] = DEMO_MODEL,
    out: Out = RESULTS,
    device: DeviceOption = "cpu",
) -> None:
    """Measure the top-1 accuracy of the demo model at fp32, fp16 and int8 on its held-out videos."""
    lowest, right, same = (defaultdict[str, list[float]](list) for _ in range(3))
    exact = Recognizer.load(repository, device=device)
    (head,), window_frames = exact.heads, exact.manifest.dimensions.max_frames
    with TemporaryDirectory() as scratch, work_bar("held-out videos", videos) as done:
        folder = Path(scratch)
        models = {
            "fp32": exact,
            **{name: _exported(repository, folder / name, name, device) for name in PRECISIONS},
        }
        for index in range(videos):
            label = write_held_out(folder / "held_out.mp4", index)
            frames = next(read_chunks(folder / "held_out.mp4", exact.manifest.sampling, window_frames))
            features = {name: model.features(frames) for name, model in models.items()}
            best = {
                name: int(model.logits(features[name], head)[""].argmax()) for name, model in models.items()
            }
            for name in models:
                lowest[name].append(float(cosines(features["fp32"], features[name]).min()))
                right[name].append(exact.model.labels[head][""][best[name]] == label)
                same[name].append(best[name] == best["fp32"])
            done(index + 1)
    rows = [
        Row(
            {"model": "demo", "precision": name, "videos": videos},
            {
                "top-1": Figure("%", "higher", (100 * float(np.mean(right[name])),)),
                "same top-1": Figure("%", "higher", (100 * float(np.mean(same[name])),)),
                "min feature cosine": Figure("", "higher", (min(lowest[name]),)),
            },
        )
        for name in models
    ]
    report("precision", rows, out)


def _exported(repository: Path, target: Path, precision: Precision, device: Device) -> Recognizer:
    source, sampling = read_source(repository, [], None), Repository.load(repository).manifest.sampling
    options = ExportOptions(fps=sampling.fps, shortest_side=sampling.shortest_side, precision=precision)
    export_model(source.model, source.labels, target, options)
    return Recognizer.load(target, device="cpu" if precision == "int8" else device)
