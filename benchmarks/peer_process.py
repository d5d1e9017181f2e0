"""One peer in a process of its own, since threads of two runtimes in one process disturb each other."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.measuring import timed
from benchmarks.models import counted_operations, product_rate, random_model
from benchmarks.peer_models import (
    HUGGING_FACE_FRAMES,
    OpenVinoEngine,
    factorised_encoder,
    hugging_face,
)
from benchmarks.videos import random_frames
from sfavivit import Recognizer
from sfavivit.engines.model import LoadedModel, default_chunk_tubelets
from sfavivit.errors import EngineError, SfaVivitError, UsageError
from sfavivit.repository.manifest import Repository

OURS, OPENVINO, PYTORCH = "sfavivit", "openvino", "pytorch"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MODES = {
    OURS: ("onnxruntime", ("fp32", "int8")),
    OPENVINO: ("onnx", ("fp32", "int8")),
    **{model: ("eager, compile, frozen", tuple(DTYPES)) for model in (PYTORCH, *HUGGING_FACE_FRAMES)},
}
"""Model -> its modes, and its precisions."""
EXIT_SECONDS = 10.0

Logits = NDArray[np.float32]


class Peer(NamedTuple):
    """A model, its mode and precision. Mode ``frozen``: compiled with its weights as packed constants."""

    model: str
    mode: str
    precision: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``MODEL/MODE/PRECISION``; raise ``UsageError`` for anything else."""
        model, mode, precision = (*text.split("/"), "", "", "")[:3]
        modes, precisions = MODES.get(model, ("", ()))
        if text.count("/") != 2 or mode not in modes.split(", ") or precision not in precisions:
            known = "; ".join(f"{name}/({m})/({', '.join(p)})" for name, (m, p) in MODES.items())
            raise UsageError(f"no such peer {text!r}; MODEL/MODE/PRECISION is one of {known}")
        return cls(model, mode, precision)

    def __str__(self) -> str:
        return "/".join(self)

    @property
    def same_weights(self) -> bool:
        return self.model in (OURS, OPENVINO, PYTORCH)


@dataclass(frozen=True)
class Settings:
    """Settings of all peers.

    ``frames``: of a clip, for models without a published number. ``folder``: holds our repositories, one a
    precision. ``patience_seconds``: a clip predicted to take longer is not run.
    """

    size: str
    frames: int
    threads: int
    patience_seconds: float
    folder: Path


class Facts(NamedTuple):
    """Facts known before the first round; ``predicted_seconds`` of a clip where that exceeds the patience."""

    frames: int
    predicted_seconds: float | None
    logits: Logits | None


class PeerProcess:
    """Process of a peer, which warms up and then runs one clip at a time.

    Raises:
        SfaVivitError: the error that the peer raised.
        EngineError: the process died.
    """

    def __init__(self, peer: Peer, settings: Settings) -> None:
        context = multiprocessing.get_context("spawn")
        self.peer = peer
        self._pipe, child = context.Pipe()
        self._process = context.Process(target=_serve, args=(child, peer, settings))
        self._process.start()
        child.close()
        try:
            self.facts: Facts = self._answer()
        except BaseException:
            self.close()
            raise

    def seconds(self) -> float:
        """Run one clip, from frames in memory to logits, and return its seconds."""
        taken: float = self._answer("run")
        return taken

    def _answer(self, question: str = "") -> Any:
        try:
            if question:
                self._pipe.send(question)
            answer = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            self._process.join()
            raise EngineError(
                f"peer {self.peer} died with exit code {self._process.exitcode}; is there enough memory?"
            ) from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """End the process, once its clip is done or after ``EXIT_SECONDS``."""
        self._pipe.close()
        self._process.join(EXIT_SECONDS)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()


def _serve(pipe: Connection, peer: Peer, settings: Settings) -> None:
    """Answer every "run" with its seconds, until the other end is closed."""
    try:
        with torch.no_grad():
            facts, run = open_peer(peer, settings)
            pipe.send(facts)
            while pipe.recv():
                pipe.send(timed(run))
    except EOFError:
        return
    except SfaVivitError as error:
        pipe.send(error)
    except Exception as error:  # of a compiler or a runtime, whose errors can be pages long
        line = " ".join(str(error).split())
        pipe.send(EngineError(f"peer {peer} failed: {type(error).__name__}: {line:.300}"))


def open_peer(peer: Peer, settings: Settings) -> tuple[Facts, Callable[[], Logits]]:
    """Open the peer in this process and run it once, so that it is compiled and warm.

    Returns its facts, and a function that runs one clip.
    """
    torch.set_num_threads(settings.threads)
    if peer.model == OURS:
        repository = settings.folder / peer.precision
        recognizer = Recognizer.load(repository, engine=peer.mode, threads=settings.threads, device="cpu")
        return _open_recognizer(recognizer, settings)
    if peer.model == OPENVINO:
        return _open_recognizer(_over_openvino(peer, settings), settings)
    return _open_torch(peer, settings)


def _over_openvino(peer: Peer, settings: Settings) -> Recognizer:
    """Return a recognizer over OpenVINO, whose int8 is made from our fp32 files."""
    repository = Repository.load(settings.folder / "fp32")
    chunk_tubelets = default_chunk_tubelets(repository.manifest.dimensions)
    engine = OpenVinoEngine(repository, peer.precision, settings.threads, chunk_tubelets)
    return Recognizer(LoadedModel(repository, engine, chunk_tubelets=chunk_tubelets))


def _open_recognizer(recognizer: Recognizer, settings: Settings) -> tuple[Facts, Callable[[], Logits]]:
    frames = random_frames(settings.frames, recognizer.manifest.dimensions.image_size)
    head = recognizer.heads[0]

    def run() -> Logits:
        return recognizer.logits(recognizer.features(frames), head)[""]

    return Facts(len(frames), None, run()), run


def _open_torch(peer: Peer, settings: Settings) -> tuple[Facts, Callable[[], Logits]]:
    """Predict the time from the rate of a small matrix product; run peers that are within the patience."""
    dtype = DTYPES[peer.precision]
    seconds = counted_operations(lambda: _module(peer, settings)) / product_rate(dtype)
    own = HUGGING_FACE_FRAMES.get(peer.model, settings.frames)
    if seconds > settings.patience_seconds:
        return Facts(own, seconds, None), lambda: np.empty(0, np.float32)
    module, arguments = _module(peer, settings)
    module = module.to(dtype)
    arguments = {name: value.to(dtype) for name, value in arguments.items()}
    if peer.mode != "eager":
        torch._inductor.config.freezing = peer.mode == "frozen"
        module = torch.compile(module)  # type: ignore[assignment]  # calls like a module

    def run() -> Logits:
        with torch.inference_mode():
            answer = module(**arguments)
        logits: Tensor = answer if isinstance(answer, Tensor) else answer.logits
        values: Logits = logits[0].float().numpy()
        return values

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice of compilers
        first = run()
    return Facts(own, None, first if peer.same_weights else None), run


def _module(peer: Peer, settings: Settings) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return the model and one clip for it, float32."""
    if peer.model == PYTORCH:
        ours = random_model(settings.size, frames=settings.frames)
        frames = torch.from_numpy(random_frames(settings.frames, ours.dims.image_size)).permute(3, 0, 1, 2)[
            None
        ]
        return factorised_encoder(ours), {"frames": frames.float() * (2 / 255) - 1}
    model: Any = hugging_face(peer.model, settings.size)
    side = model.config.image_size
    return model, {"pixel_values": torch.zeros(1, model.config.num_frames, 3, side, side)}
