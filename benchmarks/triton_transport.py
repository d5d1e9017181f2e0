"""Frames to Triton inside the gRPC message against frames in system shared memory.

The spatial transformer is a toy on frames of real size (16 of 224 x 224: 2.4 MB a chunk), so that what is
measured is the way there and not the model. A last row says what the model of that size, ViT-B/16, takes
for a chunk on this machine: what the way there is to be weighed against.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import numpy as np
import torch
import tritonclient.grpc
from numpy.typing import NDArray
from tritonclient.utils import shared_memory as untyped_shared_memory

from benchmarks.figures import Figure, Row
from export.exporter import ExportOptions, export_model
from export.outputs import label_outputs
from serving.triton import TritonServer
from sfavivit.config import TransformerDimensions, named_dimensions
from sfavivit.engines.triton import TritonEngine
from sfavivit.models.vivit import SfaVivit
from sfavivit.repository.manifest import FRAMES, SPATIAL_MODEL

triton_grpc: Any = tritonclient.grpc
shared_memory: Any = untyped_shared_memory

CHUNK_FRAMES = 16
WARM_UP, MODEL_RUNS = 5, 5
Send = Callable[[], object]
_Sample = tuple[float, float]
"""Milliseconds of one request (median over all threads), and chunks a second of all threads together."""


def measure(folder: Path, requests: int, rounds: int) -> list[Row]:
    """Both transports in turn, ``rounds`` times, with 1 and 8 threads; a sample of each is one round's."""
    dims = named_dimensions(
        "tiny",
        {"": 2},
        frames=CHUNK_FRAMES,
        temporal_layers=1,
        hidden_size=16,
        image_size=224,
        patch_size=56,
        spatial=TransformerDimensions(1, 1, 16),
    )
    model = SfaVivit(dims).eval()
    export_model(model, label_outputs(model, {}), folder / "repository", ExportOptions())
    frames = np.random.default_rng(0).integers(0, 256, (1, CHUNK_FRAMES, 224, 224, 3), np.uint8)
    ways = {"grpc message": _by_message, "shared memory": _by_shared_memory}
    samples: dict[tuple[str, int], list[_Sample]] = {}
    with TritonServer(folder / "repository", exit_seconds=0) as server:
        for _ in range(rounds):
            for threads in (1, 8):
                for transport, prepare in ways.items():
                    with ExitStack() as stack:
                        sends = [prepare(server, frames, stack) for _ in range(threads)]
                        samples.setdefault((transport, threads), []).append(_run(sends, requests))
    samples["(ViT-B/16 itself)", 1] = [_model(frames)]
    rows = []
    for (transport, threads), measured in samples.items():
        milliseconds, rates = zip(*measured, strict=True)
        figures = {
            "request": Figure("ms", "lower", milliseconds),
            "throughput": Figure("chunks/s", "higher", rates),
        }
        rows.append(Row({"transport": transport, "threads": threads}, figures))
    return rows


def _model(frames: NDArray[np.uint8]) -> _Sample:
    spatial, clip = SfaVivit(named_dimensions("B", {"": 2})).eval().spatial, torch.from_numpy(frames)
    with torch.inference_mode():
        return _run([lambda: spatial(clip)], MODEL_RUNS)


def _by_message(server: TritonServer, frames: NDArray[np.uint8], stack: ExitStack) -> Send:
    engine = TritonEngine(server.url)
    stack.callback(engine.close)
    return lambda: engine.spatial(frames)


def _by_shared_memory(server: TritonServer, frames: NDArray[np.uint8], stack: ExitStack) -> Send:
    """What an engine would do: copy each chunk into its region and name the region in the request."""
    client = triton_grpc.InferenceServerClient(f"{server.address}:{server.ports.grpc}")
    stack.callback(client.close)
    name = f"sfavivit-{uuid4().hex}"
    region = shared_memory.create_shared_memory_region(name, f"/{name}", frames.nbytes, create_only=True)
    stack.callback(shared_memory.destroy_shared_memory_region, region)
    client.register_system_shared_memory(name, f"/{name}", frames.nbytes)
    tensor = triton_grpc.InferInput(FRAMES, list(frames.shape), "UINT8")
    tensor.set_shared_memory(name, frames.nbytes)

    def send() -> None:
        shared_memory.set_shared_memory_region(region, [frames])
        client.infer(SPATIAL_MODEL, [tensor])

    return send


def _run(sends: list[Send], requests: int) -> _Sample:
    seconds: list[float] = []

    def work(send: Send) -> None:
        for _ in range(requests // len(sends)):
            start = time.perf_counter()
            send()
            seconds.append(time.perf_counter() - start)

    for send in sends:
        for _ in range(WARM_UP):
            send()
    threads = [Thread(target=work, args=(send,)) for send in sends]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = len(seconds) / (time.perf_counter() - start)
    return 1000 * statistics.median(seconds), rate
