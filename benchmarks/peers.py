"""This system against its alternatives, clip by clip in turn on the same cores.

docs/benchmarks.md has the method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, cast

import numpy as np
import typer

from benchmarks.command_options import ModelsFolder, Names, Out, Rounds
from benchmarks.figures import RESULTS, Case, Figure, Row, report, seconds_figure
from benchmarks.models import random_repository
from benchmarks.peer_models import HUGGING_FACE_FRAMES, has_openvino, has_transformers
from benchmarks.peer_process import OPENVINO, OURS, PYTORCH, Facts, Peer, PeerProcess, Settings
from sfavivit.config import SIZES, named_dimensions
from sfavivit.errors import EngineError, UsageError
from sfavivit.repository.manifest import Precision
from sfavivit.utils.cpus import available_cpus

LONG_FRAMES = 128
LOGIT_TOLERANCE = 1e-4
REFERENCE = Peer(OURS, "onnxruntime", "fp32")
DEFAULT_PEERS = (
    *(Peer(OURS, "onnxruntime", precision) for precision in ("fp32", "int8")),
    *(Peer(OPENVINO, "onnx", precision) for precision in ("fp32", "int8") if has_openvino()),
    *(Peer(PYTORCH, mode, precision) for precision in ("fp32", "bf16") for mode in ("eager", "compile")),
    *(Peer(model, "eager", "fp32") for model in HUGGING_FACE_FRAMES if has_transformers()),
)
GROUPS: dict[str, Callable[[Peer], bool]] = {
    "over PyTorch fp32": lambda peer: peer.model == PYTORCH and peer.precision == "fp32",
    "over PyTorch": lambda peer: peer.model == PYTORCH,
    "over OpenVINO": lambda peer: peer.model == OPENVINO,
    "over Hugging Face": lambda peer: peer.model in HUGGING_FACE_FRAMES,
}
"""Groups of peers; this system is compared with the fastest of each."""


def command(
    peer: Annotated[
        Names,
        typer.Option(
            help="MODEL/MODE/PRECISION, such as pytorch/compile/bf16; repeatable (default: sfavivit and "
            "OpenVINO in fp32 and int8; plain PyTorch eager and compiled, in fp32 and bf16; Hugging Face's "
            "three in fp32)."
        ),
    ] = None,
    size: Annotated[str, typer.Option(help=f"Size of all models: {', '.join(SIZES)}.")] = "B",
    frames: Annotated[
        int, typer.Option(help="Frames of a clip; Hugging Face's models have their own number.")
    ] = 16,
    rounds: Rounds = 3,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of each peer (default: all cores).")
    ] = None,
    patience_seconds: Annotated[
        float, typer.Option(help="Time of a clip above which a peer is predicted instead of run.")
    ] = 60.0,
    models: ModelsFolder = None,
    out: Out = RESULTS,
) -> None:
    """Compare this system with OpenVINO, plain PyTorch and Hugging Face's video models."""
    if size not in SIZES:
        raise UsageError(f"unknown size {size!r} of peers, which are plain ViTs; known: {', '.join(SIZES)}")
    asked = [Peer.parse(name) for name in peer] if peer else DEFAULT_PEERS
    with TemporaryDirectory() as scratch:
        folder = (models or Path(scratch)) / f"{size}-{frames}"
        cores = threads or available_cpus()
        measured = measure(asked, Settings(size, frames, cores, patience_seconds, folder), rounds)
    report("peers", measured, out)


def measure(peers: Sequence[Peer], settings: Settings, rounds: int) -> list[Row]:
    """Return a row for each peer and for ``REFERENCE``, which is always among them.

    Raises:
        UsageError: an unknown size, or frames that are no whole number of tubelets.
        EngineError: a peer does not start, dies, or is not the model it should be.
    """
    dims = named_dimensions(settings.size, {"": 1})
    if settings.frames < 1 or settings.frames % dims.tubelet_frames:
        raise UsageError(f"--frames {settings.frames} is not a multiple of {dims.tubelet_frames} above zero")
    asked = list(dict.fromkeys([REFERENCE, *peers]))
    for peer in asked:
        if peer.model == OURS:
            precision = cast(Precision, peer.precision)
            random_repository(settings.folder / precision, settings.size, precision, frames=settings.frames)
    with ExitStack() as stack:
        running = [stack.enter_context(closing(PeerProcess(peer, settings))) for peer in asked]
        facts = {process.peer: process.facts for process in running}
        check_same_model(facts)
        samples: dict[Peer, list[float]] = {peer: [] for peer in asked}
        for _ in range(rounds):
            for process in running:
                if process.facts.predicted_seconds is None:
                    samples[process.peer].append(process.seconds())
    return rows(facts, samples, settings, dims.tubelet_frames)


def check_same_model(facts: dict[Peer, Facts]) -> None:
    """Raise ``EngineError`` where a peer of the same weights does not give our logits, in fp32."""
    for peer in facts:
        difference = logit_difference(facts, peer) if peer.precision == "fp32" else None
        if difference is not None and not difference <= LOGIT_TOLERANCE:
            raise EngineError(
                f"peer {peer} is not the same model: its logits are off by {difference:.2g}, "
                f"more than {LOGIT_TOLERANCE:g}"
            )


def logit_difference(facts: dict[Peer, Facts], peer: Peer) -> float | None:
    """Return the largest difference from our fp32 logits; ``None`` for another model, or one not run."""
    ours, theirs = facts[REFERENCE].logits, facts[peer].logits
    if ours is None or theirs is None:
        return None
    return float(np.abs(ours - theirs).max())


def rows(
    facts: dict[Peer, Facts], samples: dict[Peer, list[float]], settings: Settings, tubelet_frames: int
) -> list[Row]:
    """Return the rows; ``samples`` are seconds of a clip, one a round, none where it was too slow to run."""
    found = []
    for peer, fact in facts.items():
        seconds = np.array(samples[peer] or [fact.predicted_seconds or 0.0])
        case: Case = {
            **peer._asdict(),
            "size": settings.size,
            "frames": fact.frames,
            "threads": settings.threads,
            "predicted": not samples[peer],
        }
        figures = {
            "throughput": Figure("frames/s", "higher", tuple(fact.frames / seconds)),
            "clip": seconds_figure(*seconds),
            f"{LONG_FRAMES} frames": seconds_figure(*(LONG_FRAMES / fact.frames * seconds)),
        }
        if peer.same_weights:
            tubelets = fact.frames / tubelet_frames / seconds
            figures["tubelets"] = Figure("tubelets/s", "higher", tuple(tubelets))
        if (difference := logit_difference(facts, peer)) is not None:
            figures["logits off by"] = Figure("", "lower", (difference,))
        if peer.model == OURS:
            figures |= _ratios(peer, facts, samples)
        found.append(Row(case, figures))
    return found


def _ratios(peer: Peer, facts: dict[Peer, Facts], samples: dict[Peer, list[float]]) -> dict[str, Figure]:
    """Return our frames a second over those of the fastest peer of each group, round by round."""
    figures = {}
    for name, belongs in GROUPS.items():
        group = [other for other, seconds in samples.items() if seconds and belongs(other)]
        if group:
            best = min(group, key=lambda other: median(samples[other]) / facts[other].frames)
            scale = facts[peer].frames / facts[best].frames
            faster = scale * np.divide(samples[best], samples[peer])
            figures[name] = Figure("x", "higher", tuple(faster))
    return figures
