"""The real Triton: the same numbers through any client, batches across streams, and servers that go away."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton_grpc
from typer.testing import CliRunner

from export.exporter import ExportOptions, export_model
from export.outputs import label_outputs
from serving.triton import TritonServer
from sfavivit import Recognizer, Repository
from sfavivit.cli.main import app as cli
from sfavivit.engines import open_models
from sfavivit.engines import triton as triton_engine
from sfavivit.engines.model import LoadedModel
from sfavivit.engines.triton import TritonEngine, TritonOptions, server_of
from sfavivit.errors import (
    CancelledRequestError,
    EngineError,
    EngineOutdatedError,
    EngineTimeoutError,
    EngineUnavailableError,
    RepositoryError,
    RepositoryVersionError,
    UsageError,
)
from sfavivit.repository.manifest import Precision, logits_tensor
from sfavivit.repository.triton_parameters import head_parameter, parse_catalog, spatial_parameter
from tests.conftest import SIDE, build_model, noise_video, random_frames
from tests.fake_proxy import fake_proxy
from tests.serving.support import triton_executions
from tests.waiting import eventually

Client: Any = triton_grpc.InferenceServerClient
Input: Any = triton_grpc.InferInput
Output: Any = triton_grpc.InferRequestedOutput
QUICK = TritonOptions(timeout_seconds=5, retry_seconds=0.5)


def remote(server: TritonServer, options: TritonOptions | None = None) -> Recognizer:
    engine = TritonEngine(server.url, options)
    return Recognizer(LoadedModel(engine.catalog, engine, chunk_tubelets=3))


@pytest.fixture(scope="module")
def recognizer_of_triton(triton_server: TritonServer) -> Recognizer:
    return Recognizer.load(triton_server.url, chunk_tubelets=3)


@pytest.fixture
def client(triton_server: TritonServer) -> Iterator[Any]:
    with Client(f"{triton_server.address}:{triton_server.ports.grpc}") as client:
        yield client


def infer(client: Any, model: str, name: str, array: Any, outputs: list[Any] | None = None) -> Any:
    tensor = Input(name, list(array.shape), "UINT8" if array.dtype == np.uint8 else "FP32")
    tensor.set_data_from_numpy(array)
    return client.infer(model, [tensor], outputs=outputs)


@pytest.mark.parametrize("head", ["default", "long"])
def test_any_triton_client_gets_the_logits(client: Any, recognizer: Recognizer, head: str) -> None:
    frames = random_frames(16, seed=3)
    features = recognizer.features(frames)
    expected = recognizer.logits(features, head)
    ensemble = infer(client, f"sfavivit_{head}", "FRAMES", frames[None])
    spatial = infer(client, "sfavivit_spatial", "FRAMES", frames[None])
    temporal = infer(client, f"sfavivit_temporal_{head}", "FEATURES", features[None])
    np.testing.assert_allclose(spatial.as_numpy("FEATURES")[0], features, atol=1e-5)
    for output, logits in expected.items():
        np.testing.assert_allclose(ensemble.as_numpy(logits_tensor(output))[0], logits, atol=1e-5)
        np.testing.assert_allclose(temporal.as_numpy(logits_tensor(output))[0], logits, atol=1e-5)


def test_class_count_gives_labels(client: Any, recognizer: Recognizer) -> None:
    frames = random_frames(16, seed=4)
    logits = recognizer.logits(recognizer.features(frames), "long")["verb"]
    for model, name, array in (
        ("sfavivit_long", "FRAMES", frames[None]),
        ("sfavivit_temporal_long", "FEATURES", recognizer.features(frames)[None]),
    ):
        answer = infer(client, model, name, array, [Output("LOGITS_verb", class_count=2)])
        rows = [row.decode().split(":") for row in answer.as_numpy("LOGITS_verb")[0]]
        best = np.argsort(-logits)[:2]
        assert [row[2] for row in rows] == [f"class {index}" for index in best], model
        np.testing.assert_allclose([float(row[0]) for row in rows], logits[best], atol=1e-4)


def test_the_catalog_comes_from_triton_alone(
    recognizer_of_triton: Recognizer, recognizer: Recognizer
) -> None:
    found, expected = recognizer_of_triton.manifest, recognizer.manifest
    assert found.model_dump(exclude={"files"}) == expected.model_dump(exclude={"files"})
    engines = {name: file for name, file in expected.files.items() if name.count("/") == 2}
    assert found.files == {name: file for name, file in engines.items() if not name.endswith(".gitkeep")}
    assert found.spatial_sha256 == expected.spatial_sha256
    assert recognizer_of_triton.model.labels == recognizer.model.labels


def test_a_video_gets_the_same_answer(
    recognizer_of_triton: Recognizer, recognizer: Recognizer, tmp_path: Path
) -> None:
    video = noise_video(tmp_path / "v.mp4", 150, seed=3)
    here, there = recognizer.classify(video), recognizer_of_triton.classify(video)
    for head, outputs in here.heads.items():
        for output, result in outputs.items():
            np.testing.assert_allclose(there.heads[head][output].logits, result.logits, atol=1e-5)
    assert there.timings.device == "triton:cpu"
    assert dataclasses.replace(there, timings=here.timings).to_json() == here.to_json()


def test_the_command_takes_a_triton_address(triton_server: TritonServer, parity_video: Path) -> None:
    done = CliRunner().invoke(
        cli, ["classify", str(parity_video), "--repository", triton_server.url, "--json"]
    )
    assert done.exit_code == 0, done.output
    assert set(json.loads(done.stdout)["heads"]) == {"default", "long"}


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_reduced_precisions(parity_video: Path, tmp_path: Path, precision: Precision) -> None:
    model = build_model()
    options = ExportOptions(precision=precision, shortest_side=SIDE, parity_video=parity_video)
    export_model(model, label_outputs(model, {}), tmp_path / "r", options)
    here, frames = Recognizer.load(tmp_path / "r", chunk_tubelets=3), random_frames(16)
    with TritonServer(tmp_path / "r", exit_seconds=0) as server:
        there = remote(server)
        features = there.features(frames)
        np.testing.assert_allclose(features, here.features(frames), atol=1e-5)
        np.testing.assert_allclose(there.logits(features)[""], here.logits(features)[""], atol=1e-5)


def test_streams_share_batches_and_nothing_else(
    triton_server: TritonServer, recognizer_of_triton: Recognizer, recognizer: Recognizer
) -> None:
    clips = [random_frames(120, seed=seed) for seed in range(16)]
    alone = [recognizer.features(clip) for clip in clips]
    before = triton_executions(triton_server, "sfavivit_spatial")
    with ThreadPoolExecutor(len(clips)) as pool:
        together = list(pool.map(recognizer_of_triton.features, clips))
    requests, executions = np.subtract(triton_executions(triton_server, "sfavivit_spatial"), before)
    for mine, expected in zip(together, alone, strict=True):
        np.testing.assert_allclose(mine, expected, atol=1e-5)
    assert requests == 16 * 20
    assert requests / executions > 1.5, f"{requests} requests in {executions} executions"


def test_requests_of_different_shapes_in_one_go(
    recognizer_of_triton: Recognizer, recognizer: Recognizer
) -> None:
    """The shim answers each request with its own rows, whatever else Triton hands it."""
    clips = [random_frames(2 * (1 + seed % 3), seed=seed)[None] for seed in range(24)]
    with ThreadPoolExecutor(len(clips)) as pool:
        together = list(pool.map(recognizer_of_triton.model.engine.spatial, clips))
    for mine, clip in zip(together, clips, strict=True):
        np.testing.assert_allclose(mine, recognizer.model.engine.spatial(clip), atol=1e-5)


@pytest.fixture(scope="module")
def own_server(repository: Path) -> Iterator[TritonServer]:
    """One that a test may stop, kill and start again."""
    with TritonServer(repository, exit_seconds=0) as server:
        yield server


@pytest.fixture
def frozen(own_server: TritonServer) -> Iterator[Recognizer]:
    """A recognizer whose server stands still (SIGSTOP) while the test runs."""
    assert own_server.process
    options = TritonOptions(timeout_seconds=0.5, retry_seconds=0.2, in_flight=1)
    recognizer = remote(own_server, options)
    own_server.process.send_signal(signal.SIGSTOP)
    while psutil.Process(own_server.process.pid).status() != psutil.STATUS_STOPPED:
        pass  # a thread on the other core may answer until then
    yield recognizer
    own_server.process.send_signal(signal.SIGCONT)


def test_deadline(frozen: Recognizer) -> None:
    start = time.monotonic()
    with pytest.raises(EngineTimeoutError, match=r"did not answer within 0\.5 s"):
        frozen.features(random_frames(2))
    assert time.monotonic() - start < 2


def test_a_check_of_a_server_that_stands_still(frozen: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_engine, "CHECK_SECONDS", 0.3)
    with pytest.raises(EngineTimeoutError, match=r"did not answer within 0\.3 s"):
        frozen.model.engine.check()  # type: ignore[attr-defined]


@pytest.mark.parametrize("retrying", [False, True])
def test_cancelling_ends_a_request_at_once_and_no_other(
    own_server: TritonServer, recognizer: Recognizer, retrying: bool
) -> None:
    everyone = TritonEngine(own_server.url, TritonOptions(retry_seconds=60))
    one, frames = everyone.scoped(), random_frames(2)[None]
    assert own_server.process
    if retrying:
        own_server.stop()
    else:
        own_server.process.send_signal(signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(2) as pool:
            given_up, patient = pool.submit(one.spatial, frames), pool.submit(everyone.spatial, frames)
            assert eventually(lambda: bool(one._calls._futures or retrying))
            start = time.monotonic()
            one.cancel()
            for call in (given_up.result, lambda: one.spatial(frames)):
                with pytest.raises(CancelledRequestError):
                    call()  # type: ignore[no-untyped-call]
            assert time.monotonic() - start < 1
            assert not patient.done()
            if retrying:
                own_server.start()
            else:
                own_server.process.send_signal(signal.SIGCONT)
            np.testing.assert_allclose(patient.result(30), recognizer.model.engine.spatial(frames), atol=1e-5)
    finally:
        own_server.process.send_signal(signal.SIGCONT)


def test_requests_in_flight_are_bounded(frozen: Recognizer) -> None:
    def ask(_: int) -> str:
        with pytest.raises(EngineTimeoutError) as caught:
            frozen.features(random_frames(2))
        return str(caught.value)

    with ThreadPoolExecutor(8) as pool:
        messages = list(pool.map(ask, range(8)))
    # A waiting caller may get the slot of one that has just timed out, and time out in it.
    assert any("no slot" in message for message in messages)


def test_killed_and_back_again(own_server: TritonServer, recognizer: Recognizer) -> None:
    frames = random_frames(16)
    there = remote(own_server, QUICK)
    expected = there.features(frames)
    assert own_server.process
    stubs = psutil.Process(own_server.process.pid).children(recursive=True)
    assert len(stubs) >= 3
    own_server.process.kill()
    own_server.process.wait()
    start = time.monotonic()
    for call in (lambda: there.features(frames), there.model.engine.check):  # type: ignore[attr-defined]
        with pytest.raises(EngineUnavailableError, match="is unavailable: .*; is it running?"):
            call()
    assert time.monotonic() - start < 3
    own_server.stop()  # a stub that held a lock with Triton when it died does not end by itself
    _, alive = psutil.wait_procs(stubs, timeout=10)
    assert not alive
    own_server.start()

    def is_back() -> bool:
        try:
            there.model.engine.check()  # type: ignore[attr-defined]
        except EngineUnavailableError:
            return False
        return True

    assert eventually(is_back, 20)
    np.testing.assert_array_equal(there.features(frames), expected)


def test_a_request_waits_for_a_server_that_restarts(own_server: TritonServer, recognizer: Recognizer) -> None:
    there = remote(own_server, TritonOptions(retry_seconds=20))
    own_server.stop()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(there.features, random_frames(8))
        time.sleep(0.3)
        assert not answer.done()
        own_server.start()
        np.testing.assert_allclose(answer.result(20), recognizer.features(random_frames(8)), atol=1e-5)


def test_what_triton_refuses_is_an_engine_error_of_one_line(recognizer_of_triton: Recognizer) -> None:
    engine = recognizer_of_triton.model.engine
    for frames in (random_frames(3), random_frames(2)[:, :8]):
        with pytest.raises(EngineError, match="failed: .*INTERNAL|failed: .*INVALID_ARGUMENT") as caught:
            engine.spatial(frames[None])
        assert type(caught.value) is EngineError
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("advice", [TritonOptions.outdated_advice, "send the request again"])
def test_a_version_that_is_gone(triton_server: TritonServer, advice: str) -> None:
    engine = TritonEngine(triton_server.url, TritonOptions(outdated_advice=advice))
    manifest = engine.catalog.manifest
    spatial = manifest.spatial.model_copy(update={"version": 7})
    engine.catalog = dataclasses.replace(
        engine.catalog, manifest=manifest.model_copy(update={"spatial": spatial})
    )
    with pytest.raises(EngineOutdatedError, match=f"version 7 is not found.*; {advice}$"):
        engine.spatial(random_frames(2)[None])
    with pytest.raises(EngineOutdatedError, match=f"serves other models now; {advice}$"):
        engine.check()


def test_metadata_goes_with_each_request(triton_server: TritonServer) -> None:
    """A trace context, for instance; it is asked for in the thread that calls."""
    threads: list[int] = []

    def metadata() -> tuple[tuple[str, str], ...]:
        threads.append(threading.get_ident())
        return (("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),)

    engine = TritonEngine(triton_server.url, TritonOptions(metadata=metadata))
    before = len(threads)
    engine.spatial(random_frames(2)[None])
    assert threads[before:] == [threading.get_ident()]


def test_after_close(triton_server: TritonServer) -> None:
    engine = TritonEngine(triton_server.url)
    engine.close()
    with pytest.raises(EngineError, match="failed: .*closed"):
        engine.spatial(random_frames(2)[None])


def test_addresses() -> None:
    assert server_of("triton://localhost") == "localhost:8001"
    assert server_of("triton://localhost:9") == "localhost:9"
    assert server_of("triton://[::1]:7001/") == "[::1]:7001"
    for rest in ("//", "//:8001", "//h:x", "//h:70000", "//h/model", "//u@h"):
        with pytest.raises(UsageError, match="must be triton://HOST"):
            server_of(f"triton:{rest}")
    with pytest.raises(UsageError, match="must be triton://HOST"):
        server_of("grpc://h")


def test_engine_and_location_must_fit(repository: Path) -> None:
    with pytest.raises(UsageError, match="the engine cannot be 'torch'"):
        open_models("triton://localhost:1", "torch")
    with pytest.raises(UsageError, match="leave out the device 'cuda'"):
        open_models("triton://localhost:1", device="cuda")
    with pytest.raises(UsageError, match="is triton://HOST:PORT, not"):
        open_models(repository, "triton")


def test_nothing_there() -> None:
    with pytest.raises(EngineUnavailableError, match="Triton at 127.0.0.1:1 is unavailable"):
        TritonEngine("triton://127.0.0.1:1", TritonOptions(retry_seconds=0.1))


def test_a_proxy_is_for_other_machines_and_named(triton_server: TritonServer) -> None:
    with fake_proxy("http_proxy") as proxy:
        for host in ("127.0.0.1", "localhost"):
            TritonEngine(f"triton://{host}:{triton_server.ports.grpc}", QUICK).close()
        assert proxy.requests == []
        with pytest.raises(EngineUnavailableError, match=f"the proxy {proxy.address} of http_proxy"):
            TritonEngine("triton://triton.invalid", TritonOptions(retry_seconds=0.1))
        assert set(proxy.requests) == {"CONNECT triton.invalid:8001 HTTP/1.1"}


def test_a_catalog_that_cannot_be(repository: Path) -> None:
    loaded = Repository.load(repository)
    manifest, labels = loaded.manifest, loaded.labels["long"]
    spatial, head = spatial_parameter(manifest), head_parameter(manifest, "long", labels)
    assert parse_catalog(spatial, {"long": head}, "x").labels == {"long": labels}
    short = head_parameter(manifest, "long", labels | {"verb": labels["verb"][1:]})
    newer = spatial.replace('"format_version": 1', '"format_version": 2')
    outside = spatial.replace('"sfavivit_spatial/1/model.onnx"', '"/etc/passwd"')
    for text, heads, error, message in (
        ("", {"long": head}, RepositoryError, "without a readable 'sfavivit' parameter"),
        (spatial, {"long": "[]"}, RepositoryError, "without a readable 'sfavivit' parameter"),
        (spatial, {"long": short}, RepositoryError, r"has labels for {'verb': 4, 'noun': 3}"),
        ("{}", {"long": head}, RepositoryError, "not a valid manifest"),
        (outside, {"long": head}, RepositoryError, "must be a relative path inside the repository"),
        (newer, {"long": head}, RepositoryVersionError, "format version 2"),
    ):
        with pytest.raises(error, match=message):
            parse_catalog(text, heads, "Triton at x")


def test_configs_of_before_had_no_digests(repository: Path) -> None:
    loaded = Repository.load(repository)
    parts = [
        json.loads(spatial_parameter(loaded.manifest)),
        json.loads(head_parameter(loaded.manifest, "long", loaded.labels["long"])),
    ]
    assert all(part.pop("files") for part in parts)
    spatial, head = map(json.dumps, parts)
    manifest = parse_catalog(spatial, {"long": head}, "x").manifest
    assert not manifest.files
    with pytest.raises(RepositoryError, match="python -m export configs"):
        _ = manifest.spatial_sha256


def test_models_of_somebody_else(repository: Path, tmp_path: Path) -> None:
    """A Triton that serves our models without their manifest, as one exported by other means would."""
    shutil.copytree(repository, tmp_path / "r")
    (tmp_path / "r" / "manifest.json").unlink()
    for config in (tmp_path / "r").glob("*/config.pbtxt"):
        lines = config.read_text().splitlines()
        config.write_text("\n".join(line for line in lines if '{ key: "sfavivit"' not in line))

    class Unverified(TritonServer):
        def verify(self) -> None:
            pass

    with (
        Unverified(tmp_path / "r", exit_seconds=0) as server,
        pytest.raises(RepositoryError, match="without a readable 'sfavivit' parameter"),
    ):
        TritonEngine(server.url)


def test_nothing_is_written_into_the_repository(repository: Path, triton_server: TritonServer) -> None:
    on_disk = {f.relative_to(repository).as_posix() for f in repository.rglob("*") if f.is_file()}
    assert on_disk == {"manifest.json", *Repository.load(repository).manifest.files}
    assert triton_server.process and os.path.samefile(triton_server.repository, repository)  # noqa: PTH121
