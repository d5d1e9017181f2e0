"""Versions of a head: exported, served by a running Triton, rolled back, pruned; repositories as sources."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from typer.testing import CliRunner

from export import __main__ as export_command
from export.exporter import ExportOptions, export_model
from export.source import read_source
from export.triton_configs import configs
from export.versions import prune, rewrite_configs, roll_back
from export.writer import SHIM
from serving.triton import TritonServer
from sfavivit import Recognizer, Repository
from sfavivit.errors import EngineOutdatedError, ExportError, HeadNotFoundError, SfaVivitError
from sfavivit.repository.manifest import Catalog, Manifest, TimelineDecoding
from tests.conftest import build_model, random_frames
from tests.export.support import ROOT, contents

Client: Any = triton_grpc.InferenceServerClient
Input: Any = triton_grpc.InferInput
FRAMES = random_frames(16)


def add_version(target: Path, parity_video: Path, *, seed: int = 9, classes: int = 7) -> Manifest:
    model = build_model({"": classes}, seed=seed)
    labels = {"": tuple(f"seed {seed} class {index}" for index in range(classes))}
    return export_model(model, labels, target, ExportOptions(parity_video=parity_video)).manifest


def test_exporting_again_adds_a_version_and_keeps_the_other(own_copy: Path, parity_video: Path) -> None:
    before, old_files = Repository.load(own_copy), contents(own_copy)
    after = add_version(own_copy, parity_video, classes=5)
    loaded = Repository.load(own_copy)
    assert loaded.manifest == after
    assert after.heads["default"].version == 2
    assert after.heads["default"].outputs == {"": 5}
    assert after.history == {"default": (before.manifest.heads["default"],)}
    assert after.heads["long"] == before.manifest.heads["long"]
    assert loaded.labels["default"][""][0] == "seed 9 class 0"
    new_files = contents(own_copy)
    changed = {name for name in old_files if new_files[name] != old_files[name]}
    temporal = "sfavivit_temporal_default"
    assert changed == {"manifest.json", f"{temporal}/config.pbtxt", "sfavivit_default/config.pbtxt"}
    names = ("cpus.py", "labels.txt", "model.onnx", "model.py", "model.safetensors")
    assert new_files.keys() - old_files.keys() == {f"{temporal}/2/{name}" for name in names}
    assert Recognizer.load(own_copy).logits(np.zeros((1, 32), np.float32))[""].shape == (5,)


def test_back_and_forth(own_copy: Path, parity_video: Path) -> None:
    first, original = Repository.load(own_copy), contents(own_copy)
    second = add_version(own_copy, parity_video)
    at_second = contents(own_copy)
    back = roll_back(own_copy, "default")
    assert back.heads == first.manifest.heads
    assert back.history == {"default": (second.heads["default"],)}
    assert Repository.load(own_copy).labels == first.labels
    configs = [name for name in original if name.endswith(".pbtxt")]
    assert [contents(own_copy)[name] for name in configs] == [original[name] for name in configs]
    roll_back(own_copy, "default", 2)
    assert contents(own_copy) == at_second
    third = add_version(own_copy, parity_video, seed=11)
    roll_back(own_copy, "default", 1)
    assert add_version(own_copy, parity_video, seed=12).heads["default"].version == 4
    assert [entry.version for entry in third.versions("default")] == [3, 1, 2]
    pruned = prune(own_copy, "default")
    assert (pruned.heads["default"].version, pruned.history) == (4, {})
    folder = own_copy / "sfavivit_temporal_default"
    assert sorted(path.name for path in folder.iterdir()) == ["4", "config.pbtxt"]
    assert Repository.load(own_copy).manifest == pruned


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda r: roll_back(r, "default"), ExportError, "has no version before the served one; it has 1"),
        (lambda r: roll_back(r, "default", 3), ExportError, "has no version 3; it has 1 and serves 1"),
        (lambda r: roll_back(r, "short"), HeadNotFoundError, "no head 'short'"),
        (lambda r: prune(r, "short"), HeadNotFoundError, "no head 'short'"),
    ],
)
def test_versions_that_are_not_there(
    own_copy: Path, call: Callable[[Path], Any], error: type[SfaVivitError], message: str
) -> None:
    before = contents(own_copy)
    with pytest.raises(error, match=message):
        call(own_copy)
    assert contents(own_copy) == before


class Asking:
    """A Triton client of somebody else, who asks the ensemble all the time and notes every answer."""

    def __init__(self, server: TritonServer) -> None:
        self.answers: list[Any] = []
        self.errors: list[str] = []
        self._url = f"{server.address}:{server.ports.grpc}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        tensor = Input("FRAMES", [1, *FRAMES.shape], "UINT8")
        tensor.set_data_from_numpy(FRAMES[None])
        with Client(self._url) as client:
            while not self._stop.wait(0.01):
                try:
                    answer = client.infer("sfavivit_default", [tensor])
                    self.answers.append(answer.as_numpy("LOGITS")[0])
                except Exception as error:
                    self.errors.append(str(error))

    def wait_for(self, logits: Any, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not self.answers or not np.allclose(self.answers[-1], logits, atol=1e-5):
            assert time.monotonic() < deadline, "Triton does not serve the other version"
            time.sleep(0.02)


def test_a_running_triton_follows(own_copy: Path, parity_video: Path) -> None:
    """Version 2, back to 1, without a restart and without one failed request."""

    def logits() -> Any:
        recognizer = Recognizer.load(own_copy)
        return recognizer.logits(recognizer.features(FRAMES))[""]

    first = logits()
    with TritonServer(own_copy, poll_seconds=1, exit_seconds=0) as server, Asking(server) as asking:
        old = Recognizer.load(server.url)
        asking.wait_for(first)
        add_version(own_copy, parity_video)
        second = logits()
        assert not np.allclose(first, second, atol=0.01)
        asking.wait_for(second)
        new = Recognizer.load(server.url)
        assert new.manifest.heads["default"].version == 2
        assert new.model.labels["default"][""][0] == "seed 9 class 0"
        features = new.features(FRAMES)
        np.testing.assert_allclose(new.logits(features)[""], second, atol=1e-5)
        deadline = time.monotonic() + 10
        with pytest.raises(EngineOutdatedError, match="load the recognizer again"):
            while time.monotonic() < deadline:  # until Triton has unloaded version 1
                old.logits(features)
        roll_back(own_copy, "default")
        asking.wait_for(first)
        known = [
            np.allclose(a, first, atol=1e-5) or np.allclose(a, second, atol=1e-5) for a in asking.answers
        ]
    assert all(known)
    assert not asking.errors


def test_commands(own_copy: Path, parity_video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_version(own_copy, parity_video)

    def command(*arguments: object) -> int:
        monkeypatch.setattr("sys.argv", ["export", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            export_command.main()
        return int(str(caught.value.code or 0))

    assert command("rollback", own_copy) == 0
    assert Repository.load(own_copy).manifest.heads["default"].version == 1
    assert command("rollback", own_copy, "--head", "default", "--version", 2) == 0
    assert Repository.load(own_copy).manifest.heads["default"].version == 2
    assert command("rollback", own_copy, "--version", 5) == 1
    assert command("configs", own_copy) == 0
    assert command("prune", own_copy) == 0
    assert not Repository.load(own_copy).manifest.history


def test_a_repository_is_a_source(repository: Path, parity_video: Path, tmp_path: Path) -> None:
    """At another precision and backend, with the sampling, labels and clip policy it had."""
    target = tmp_path / "int8"
    arguments = [repository, target, "--from-head", "long", "--head", "again", "--precision", "int8"]
    arguments += ["--backend", "onnxruntime", "--parity-video", parity_video]
    done = CliRunner().invoke(export_command.app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    old, new = Repository.load(repository), Repository.load(target)
    assert new.manifest.sampling == old.manifest.sampling
    assert new.manifest.spatial.weights_sha256 == old.manifest.spatial.weights_sha256
    assert new.manifest.heads["again"].padding == "none"
    assert new.manifest.heads["again"].timeline == old.manifest.heads["long"].timeline is not None
    assert new.labels["again"] == old.labels["long"]
    features = np.random.default_rng(0).normal(size=(5, 32)).astype(np.float32)
    for output, logits in Recognizer.load(repository).logits(features, "long").items():
        found = Recognizer.load(target).logits(features, "again")[output]
        np.testing.assert_allclose(found, logits, atol=1e-5)
    with pytest.raises(ExportError, match="is int8; only an fp32 repository"):
        read_source(target, [], None)
    arguments += ["--timeline-window", "2", "--timeline-window", "5", "--switch-cost", "0.5"]
    done = CliRunner().invoke(export_command.app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    timeline = Repository.load(target).manifest.heads["again"].timeline
    assert timeline == TimelineDecoding(window_tubelets=(2, 5), switch_cost=0.5)


@pytest.mark.parametrize(
    ("name", "from_head", "error", "message"),
    [
        ("repository", "other", HeadNotFoundError, "no head 'other'.*default, long"),
        ("file", "default", ExportError, "--from-head default is for a model repository"),
    ],
)
def test_sources_that_cannot_be(
    repository: Path, tmp_path: Path, name: str, from_head: str, error: type[SfaVivitError], message: str
) -> None:
    (tmp_path / "file").write_bytes(b"")
    path = {"repository": repository, "file": tmp_path / "file"}[name]
    with pytest.raises(error, match=message):
        read_source(path, [], from_head)


def test_configs_follow_from_the_manifest(own_copy: Path) -> None:
    """Files that are equal keep their time too: a polling Triton would load their models again."""
    before, times = contents(own_copy), {file: file.stat().st_mtime_ns for file in own_copy.rglob("*/*.*")}
    rewrite_configs(own_copy)
    assert contents(own_copy) == before
    assert {file: file.stat().st_mtime_ns for file in own_copy.rglob("*/*.*")} == times
    shim = own_copy / "sfavivit_spatial" / "1" / "model.py"
    (shim.parent / "__pycache__").mkdir()
    (shim.parent / "__pycache__" / "model.pyc").write_bytes(b"x")
    assert not [name for name in rewrite_configs(own_copy).files if "pyc" in name]


def test_the_committed_repository_has_the_configs_of_this_program() -> None:
    """Stale ones: `python -m export configs model_repository`."""
    repository = Repository.load(ROOT / "model_repository")
    expected = configs(Catalog(repository.manifest, repository.labels))
    for model, text in expected.items():
        assert (repository.path / model / "config.pbtxt").read_text() == text, model
    on_disk = {path.parent.name for path in repository.path.glob("*/config.pbtxt")}
    assert on_disk == set(expected)
    for engine in repository.path.rglob("model.onnx"):
        for name, source in SHIM.items():
            assert (engine.parent / name).read_bytes() == source.read_bytes(), (
                f"{engine.parent.parent}: {name}"
            )
