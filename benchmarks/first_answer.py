"""The first answer of a fresh process, timed part by part.

``python -m benchmarks.first_answer`` is that process: it does what ``sfavivit classify --json`` does, and
prints when each part was done. The process is cold, the disk is not: after the first time, its files are in
the page cache.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from sfavivit.engines.device import Device

ROOT = Path(__file__).parent.parent
PARTS = ("imports", "load", "decode", "rest")


def first_answer(
    location: str, video: Path, engine: str, chunk_tubelets: int, device: str
) -> dict[str, float]:
    """Return the seconds of each of ``PARTS``, one after the other, from the start of a process to its end.

    ``imports``: the interpreter, the command line, the engine's runtime. ``load``: the repository read and
    verified, the engine started. ``decode``: until the first chunk of frames. ``rest``: answer and exit.
    ``location``: an absolute path, or ``triton://HOST:PORT``.
    """
    words = [location, str(video.resolve()), engine, str(chunk_tubelets), device]
    command = [sys.executable, "-m", __name__, *words]
    start = time.perf_counter()  # CLOCK_MONOTONIC on Linux: the same in all processes
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    end = time.perf_counter()
    moments = [start, *json.loads(done.stdout.splitlines()[-1]), end]
    return dict(zip(PARTS, (after - before for before, after in pairwise(moments)), strict=True))


def _answer(location: str, video: str, engine: str, chunk_tubelets: str, device: str) -> None:
    """Classify, and print the answer and the times of the parts' ends."""
    import sfavivit.cli.main  # noqa: F401, PLC0415 - loads what the command loads; imports are measured here
    from sfavivit.engines import ENGINES  # noqa: PLC0415
    from sfavivit.engines.onnxruntime_package import import_onnxruntime  # noqa: PLC0415
    from sfavivit.inference.recognizer import Recognizer  # noqa: PLC0415
    from sfavivit.inference.results import Timings  # noqa: PLC0415
    from sfavivit.inference.streaming import FrameStream  # noqa: PLC0415
    from sfavivit.video.reader import VideoReader  # noqa: PLC0415

    import_module(ENGINES[engine][0])
    if engine == "onnxruntime":
        import_onnxruntime()
    moments = [time.perf_counter()]
    recognizer = Recognizer.load(
        location, engine=engine, chunk_tubelets=int(chunk_tubelets), device=cast("Device", device)
    )
    moments.append(time.perf_counter())
    stream, sampling = FrameStream(recognizer.model), recognizer.manifest.sampling
    with VideoReader(video, sampling, chunk_frames=recognizer.model.chunk_frames) as reader:
        for frames in reader:
            if len(moments) == 2:
                moments.append(time.perf_counter())
            stream.push(frames)
    stream.finish()
    print(json.dumps(stream.session.result(video, Timings(0, 0, 0, 0)).to_json()))
    print(json.dumps(moments))


if __name__ == "__main__":
    _answer(*sys.argv[1:])
