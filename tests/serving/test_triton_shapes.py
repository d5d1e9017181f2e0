"""A wrong number of frames at a real Triton is the client's error, in one line, and nobody else's."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from hypothesis import given, settings
from hypothesis import strategies as st

from export.versions import rewrite_configs
from serving.triton import TritonServer
from sfavivit import Recognizer
from tests.conftest import SIDE, random_frames
from tests.serving.support import triton_executions

Client: Any = triton_grpc.InferenceServerClient
Input: Any = triton_grpc.InferInput
HIDDEN, TUBELET = 32, 2
MAX_TUBELETS = {"default": 8, "long": 12}
ENSEMBLE_LIMITS = "at most 16 by the ensemble sfavivit_default, at most 24 by the ensemble sfavivit_long"
TOO_LONG = "are taken (frames: a multiple of 2 from 2 to"
REFUSED = {
    ("sfavivit_spatial", 15): f"15 frames came; a multiple of 2 is taken, at least 2, {ENSEMBLE_LIMITS}",
    ("sfavivit_spatial", 0): f"0 frames came; a multiple of 2 is taken, at least 2, {ENSEMBLE_LIMITS}",
    ("sfavivit_temporal_long", 13): f"13 tubelets (26 frames) came; 1 to 12 tubelets {TOO_LONG} 24)",
    ("sfavivit_temporal_default", 0): f"0 tubelets (0 frames) came; 1 to 8 tubelets {TOO_LONG} 16)",
    ("sfavivit_long", 15): f"15 frames came; a multiple of 2 is taken, at least 2, {ENSEMBLE_LIMITS}",
    ("sfavivit_default", 0): f"0 frames came; a multiple of 2 is taken, at least 2, {ENSEMBLE_LIMITS}",
    ("sfavivit_default", 130): f"65 tubelets (130 frames) came; 1 to 8 tubelets {TOO_LONG} 16)",
}


@pytest.fixture(scope="module")
def client(triton_server: TritonServer) -> Iterator[Any]:
    with Client(f"{triton_server.address}:{triton_server.ports.grpc}") as client:
        yield client


def an_input(model: str, length: int) -> Any:
    """An input of one clip with so many frames, or tubelets if the model is temporal."""
    if model.startswith("sfavivit_temporal"):
        return np.zeros((1, length, HIDDEN), np.float32)
    return random_frames(length)[None]


def infer(client: Any, model: str, array: Any) -> Any:
    name, kind = ("FRAMES", "UINT8") if array.dtype == np.uint8 else ("FEATURES", "FP32")
    tensor = Input(name, list(array.shape), kind)
    tensor.set_data_from_numpy(array)
    return client.infer(model, [tensor])


def refusal(client: Any, model: str, array: Any) -> str:
    """The message of INVALID_ARGUMENT, without the name of the ensemble that Triton puts before it."""
    with pytest.raises(triton_grpc.InferenceServerException) as caught:
        infer(client, model, array)
    error: Any = caught.value
    assert error.status() == "StatusCode.INVALID_ARGUMENT"
    return str(error.message()).removeprefix(f"in ensemble '{model}', ")


@pytest.mark.parametrize(("model", "length"), REFUSED)
def test_a_number_that_is_not_taken_over_grpc_and_http(
    client: Any, triton_server: TritonServer, model: str, length: int
) -> None:
    array = an_input(model, length)
    assert refusal(client, model, array) == REFUSED[model, length]
    name, kind = ("FRAMES", "UINT8") if array.dtype == np.uint8 else ("FEATURES", "FP32")
    tensor = {"name": name, "datatype": kind, "shape": array.shape, "data": array.ravel().tolist()}
    url = f"http://{triton_server.address}:{triton_server.ports.http}/v2/models/{model}/infer"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(url, json.dumps({"inputs": [tensor]}).encode(), timeout=10)
    assert caught.value.code == 400
    assert json.load(caught.value)["error"].endswith(REFUSED[model, length])


@settings(max_examples=60)
@given(
    model=st.sampled_from(["spatial", "temporal_default", "temporal_long", "default", "long"]),
    length=st.integers(0, 40),
)
def test_a_number_is_taken_or_refused_by_the_rule(client: Any, model: str, length: int) -> None:
    half, _, head = model.rpartition("_")
    if half == "temporal":
        is_taken = 1 <= length <= MAX_TUBELETS[head]
    else:
        is_taken = length in range(TUBELET, TUBELET * MAX_TUBELETS.get(head, 1000) + 1, TUBELET)
    array = an_input(f"sfavivit_{model}", length)
    if is_taken:
        infer(client, f"sfavivit_{model}", array)
    else:
        assert f"{length} " in refusal(client, f"sfavivit_{model}", array)


@pytest.mark.parametrize(
    "shape", [(1, 16, SIDE, SIDE + 1, 3), (1, 16, SIDE, SIDE, 4), (17, 2, SIDE, SIDE, 3)]
)
def test_sizes_that_the_configs_fix_are_refused_by_triton_itself(client: Any, shape: tuple[int, ...]) -> None:
    assert "sfavivit_default" in refusal(client, "sfavivit_default", np.zeros(shape, np.uint8))


def test_requests_that_wait_together_do_not_harm_each_other(
    own_copy: Path, recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton waits long for further requests, so that those of all clients run in common batches."""
    monkeypatch.setattr("export.triton_configs.QUEUE_DELAY_MICROSECONDS", 300_000)
    rewrite_configs(own_copy)
    lengths = [16, 16, 15, 16, 16, 0, 16, 8, 130, 16, 16, 18, 16, 15, 16, 16]
    clips = [random_frames(length, seed=seed) for seed, length in enumerate(lengths)]
    together = Barrier(len(clips))

    def ask(clip: Any) -> Any:
        together.wait()
        if len(clip) in (8, 16):
            return infer(client, "sfavivit_default", clip[None]).as_numpy("LOGITS")[0]
        return refusal(client, "sfavivit_default", clip[None])

    with (
        TritonServer(own_copy, exit_seconds=0) as server,
        Client(f"{server.address}:{server.ports.grpc}") as client,
        ThreadPoolExecutor(len(clips)) as pool,
    ):
        answers = list(pool.map(ask, clips))
        requests, executions = triton_executions(server, "sfavivit_spatial")
    assert executions < requests == len(clips)
    for clip, answer in zip(clips, answers, strict=True):
        if len(clip) in (8, 16):
            expected = recognizer.logits(recognizer.features(clip), "default")[""]
            np.testing.assert_allclose(answer, expected, atol=1e-5)
        else:
            assert f"{len(clip)} frames" in answer


def test_without_a_manifest_beside_the_models_only_the_models_own_numbers_are_named(
    own_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where models were copied into a repository of others."""
    monkeypatch.setattr(TritonServer, "verify", lambda _: None)
    (own_copy / "manifest.json").unlink()
    with (
        TritonServer(own_copy, exit_seconds=0) as server,
        Client(f"{server.address}:{server.ports.grpc}") as client,
    ):
        expected = "15 frames came; a multiple of 2 is taken, at least 2"
        assert refusal(client, "sfavivit_spatial", random_frames(15)[None]) == expected
