"""What fewer bits cost in answers: the demo model at each precision, on its held-out videos."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Figure, Row
from examples.motions.videos import write_held_out
from export.exporter import ExportOptions, export_model
from export.source import read_source
from sfavivit import Recognizer
from sfavivit.repository.manifest import Precision, Repository
from sfavivit.video.reader import VideoReader

Floats = NDArray[np.float32]


def measure(
    repository: Path, precisions: Sequence[Precision], videos: int, folder: Path, done: Callable[[int], None]
) -> list[Row]:
    """Answers at each of ``precisions`` against those of ``repository``, fp32; ``done``: videos so far.

    The first window of each video counts, from the same frames. ``same top-1``: as fp32, right or wrong.
    """
    exact = Recognizer.load(repository)
    models = {"fp32": exact, **{name: _exported(repository, folder / name, name) for name in precisions}}
    cosines, right, same = (defaultdict[str, list[float]](list) for _ in range(3))
    (head,) = exact.heads
    for index in range(videos):
        video = folder / "held_out.mp4"
        label = write_held_out(video, index)
        frames = _frames(exact, video)
        features = {name: model.features(frames) for name, model in models.items()}
        best = {name: int(model.logits(features[name], head)[""].argmax()) for name, model in models.items()}
        for name in models:
            cosines[name].append(_least_cosine(features["fp32"], features[name]))
            right[name].append(exact.labels[head][""][best[name]] == label)
            same[name].append(best[name] == best["fp32"])
        done(index + 1)
    return [
        Row(
            {"model": "demo", "precision": name, "videos": videos},
            {
                "top-1": Figure("%", "higher", (100 * float(np.mean(right[name])),)),
                "same top-1": Figure("%", "higher", (100 * float(np.mean(same[name])),)),
                "least feature cosine": Figure("", "higher", (min(cosines[name]),)),
            },
        )
        for name in models
    ]


def _exported(repository: Path, target: Path, precision: Precision) -> Recognizer:
    source, sampling = read_source(repository, [], None), Repository.load(repository).manifest.sampling
    options = ExportOptions(fps=sampling.fps, shortest_side=sampling.shortest_side, precision=precision)
    export_model(source.model, source.labels, target, options)
    return Recognizer.load(target)


def _frames(recognizer: Recognizer, video: Path) -> NDArray[np.uint8]:
    """As many as a window has, from the start of the video."""
    manifest = recognizer.manifest
    with VideoReader(video, manifest.sampling, chunk_frames=manifest.dimensions.max_frames) as reader:
        return next(iter(reader))


def _least_cosine(expected: Floats, found: Floats) -> float:
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    return float(((expected * found).sum(axis=1) / lengths).min())
