"""Number of concurrent engine calls, and tubelets per call."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from serving.models import ModelSource, slots_in_process
from serving.settings import Settings
from sfavivit import Repository
from sfavivit.config import named_dimensions
from sfavivit.engines.model import LoadedModel
from sfavivit.engines.onnxruntime import OnnxRuntimeEngine, default_threads
from sfavivit.errors import UsageError
from sfavivit.types import Features, Frames
from sfavivit.utils.cpus import available_cpus


class SlowEngine(OnnxRuntimeEngine):
    """A large model, as far as time goes: a chunk takes 0.4 s."""

    def spatial(self, frames: Frames) -> Features:
        threading.Event().wait(0.05)
        return super().spatial(frames)


class FastEngine(OnnxRuntimeEngine):
    """A model that a busy machine cannot make look large."""

    def spatial(self, frames: Frames) -> Features:
        return super().spatial(frames[:, :0])


CORES = available_cpus()


@pytest.mark.parametrize(("size", "threads"), [("tiny", CORES), ("B", CORES), ("demo", 1)])
def test_threads_of_a_call(size: str, threads: int) -> None:
    demo = size == "demo"
    dims = named_dimensions("tiny", {"": 2}, hidden_size=64) if demo else named_dimensions(size, {"": 2})
    assert default_threads(dims) == threads


@pytest.mark.parametrize(("engine", "slots"), [(SlowEngine, 1), (FastEngine, max(2, CORES))])
def test_a_large_model_runs_alone_and_a_small_one_on_every_core(
    repository: Path, engine: type[OnnxRuntimeEngine], slots: int
) -> None:
    models = Repository.load(repository)
    assert slots_in_process(LoadedModel(models, engine(models))) == slots


def test_what_is_set_counts(repository: Path) -> None:
    assert ModelSource(Settings(str(repository), engine_slots=5)).slots == 5


def test_the_size_of_a_call(repository: Path) -> None:
    asked = ModelSource(Settings(str(repository), chunk_tubelets=3)).current()
    assert asked.chunk_tubelets == 3
    assert ModelSource(Settings(str(repository))).current().chunk_tubelets == 8
    with pytest.raises(UsageError, match="chunk_tubelets must be more than 0, got 0"):
        Settings(str(repository), chunk_tubelets=0)
