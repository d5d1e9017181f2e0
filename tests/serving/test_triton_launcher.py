"""Tests of ``python -m serving triton``: its environment, signals, leftovers and errors."""

from __future__ import annotations

import dataclasses
import io
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from export.writer import seal
from serving import triton_install
from serving.__main__ import app
from serving.triton import TritonPorts, TritonServer, _take_ports
from sfavivit import Recognizer, Repository
from sfavivit.errors import DigestMismatchError, EngineError, UsageError
from sfavivit.repository.manifest import Manifest, PlanEntry, plan_file
from tests.commands import run_here

ROOT = Path(__file__).parents[2]
FREE = ("--grpc-port", "0", "--http-port", "0", "--metrics-port", "0")


@contextmanager
def launched(repository: Path, log: Path, before: Sequence[str] = ()) -> Iterator[subprocess.Popen[str]]:
    """Run a launcher that logs to ``log``, by the command ``before`` if one is given."""
    command = [*before, sys.executable, "-m", "serving", "triton", str(repository), *FREE, "--log", str(log)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def launcher(repository: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A launcher that is ready, its log in ``tmp_path / "log"``."""
    with launched(repository, tmp_path / "log") as process:
        yield process


def stubs(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The Python processes of a launcher's, or a Triton's, models."""
    family = psutil.Process(process.pid).children(recursive=True)
    return [child for child in family if child.name().startswith("triton_python_b")]


def ready_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_the_launcher(
    launcher: subprocess.Popen[str], tmp_path: Path, number: signal.Signals
) -> None:
    line = ready_line(launcher)
    assert line.startswith("ready: grpc 127.0.0.1:")
    port = line.split(",")[0].rpartition(":")[2]
    assert Recognizer.load(f"triton://127.0.0.1:{port}").heads == ("default", "long")
    family = psutil.Process(launcher.pid).children(recursive=True)
    assert len(stubs(launcher)) == 3
    (server,) = (child for child in family if child.name() == "tritonserver")
    (name,) = (word.removeprefix("--id=") for word in server.cmdline() if word.startswith("--id="))
    if number == signal.SIGKILL:  # as a stub that cannot end by itself
        stubs(launcher)[0].suspend()
    launcher.send_signal(number)
    assert launcher.wait(20) == (0 if number != signal.SIGKILL else -signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    if number != signal.SIGKILL:
        assert not list(Path("/dev/shm").glob(f"{name}*"))
    log = (tmp_path / "log").read_text()
    assert "info: successfully loaded 'sfavivit_temporal_long'" in log


def test_a_model_uses_as_many_threads_as_its_cpu_quota_is_worth(
    repository: Path, triton_server: TritonServer, one_cpu: Sequence[str], tmp_path: Path
) -> None:
    with launched(repository, tmp_path / "log", one_cpu) as process:
        assert ready_line(process).startswith("ready: ")
        threads = [stub.num_threads() for stub in stubs(process)]
        process.terminate()
        process.wait(20)
    assert triton_server.process
    assert max(threads) < min(stub.num_threads() for stub in stubs(triton_server.process))


def launch(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run_here(app, "triton", *map(str, arguments))


def test_a_port_in_use(repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = launch(repository, *FREE[2:], "--grpc-port", port)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"error: port {port} on 127.0.0.1 cannot be used: Address already in use; "
        "choose another with --grpc-port"
    ]


def test_no_repository(tmp_path: Path) -> None:
    done = launch(tmp_path, *FREE)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path} is not a model repository")


@pytest.mark.parametrize("backend", ["tensorrt", "onnxruntime"])
def test_models_for_a_backend_that_it_lacks(own_copy: Path, backend: str) -> None:
    loaded = Repository.load(own_copy)
    fields = dict(loaded.manifest)
    if backend == "tensorrt":
        plan = plan_file("sfavivit_temporal_long", 1)
        (own_copy / plan).write_bytes(b"plan")
        parity = loaded.manifest.spatial.parity
        entry = PlanEntry(
            gpu="GPU", compute_capability="9.0", tensorrt="10.9", precision="fp16", parity=parity
        )
        fields["plans"] = {plan: entry}
    else:
        fields["backend"] = backend
    seal(own_copy, dataclasses.replace(loaded, manifest=Manifest(**fields)))
    done = launch(own_copy, *FREE)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"is for Triton's {backend} backend" in line and "NVIDIA's container" in line


@pytest.mark.parametrize("ports", [TritonPorts(grpc=70000), TritonPorts(http=-1)])
def test_ports_that_are_none(repository: Path, ports: TritonPorts) -> None:
    with pytest.raises(UsageError, match="cannot be used: .*port"), TritonServer(repository, ports=ports):
        pass


def test_an_address_of_another_machine(repository: Path) -> None:
    with pytest.raises(UsageError, match=r"on 192\.0\.2\.1 cannot be used"):
        TritonServer(repository, address="192.0.2.1").start()


def test_triton_refuses_to_start(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not foreseen is said in Triton's words: here a port that was taken after we looked."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = dataclasses.replace(_take_ports("127.0.0.1", TritonPorts()), grpc=port)
        monkeypatch.setattr("serving.triton._take_ports", lambda *_: ports)
        with (
            pytest.raises(EngineError, match=f"ended with exit code 1: failed to start .*{port}.* in use$"),
            TritonServer(repository),
        ):
            pass


def test_files_that_were_changed_are_not_served(own_copy: Path) -> None:
    with (own_copy / "sfavivit_spatial" / "1" / "model.py").open("a") as shim:
        shim.write("import this\n")
    with pytest.raises(DigestMismatchError, match=r"model\.py"), TritonServer(own_copy):
        pass


def test_a_model_that_does_not_load(own_copy: Path) -> None:
    """Triton's own reason, in one line; nothing is left running."""
    loaded = Repository.load(own_copy)
    loaded.temporal_file("long", "model.onnx").write_bytes(b"not a graph")
    seal(own_copy, loaded)  # the manifest of a repository that was exported like this
    log = io.StringIO()
    server = TritonServer(own_copy, log=log)
    expected = r"cannot load model 'sfavivit_temporal_long' version 1: .*model\.onnx.*Protobuf"
    with pytest.raises(EngineError, match=expected) as caught, server:
        pass
    assert "\n" not in str(caught.value)
    assert server.process is None
    assert "error: failed to load 'sfavivit_temporal_long'" in log.getvalue()


def test_a_server_that_ends_by_itself(repository: Path) -> None:
    with TritonServer(repository) as server:
        server.wait(0.1)
        assert server.process
        server.process.kill()
        with pytest.raises(EngineError, match="Triton was killed by signal 9; start it again"):
            server.wait(10)


def test_triton_is_installed_once_with_the_onnxruntime_of_this_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pins = dict(line.split("==") for line in triton_install.REQUIREMENTS.read_text().splitlines()[1:])
    assert f"onnxruntime=={pins['onnxruntime']}" in (ROOT / "constraints.txt").read_text().splitlines()
    log = io.StringIO()
    root = triton_install.triton_root(log)
    monkeypatch.setattr(triton_install, "_make_environment", None)
    assert triton_install.triton_root(log) == root
    assert log.getvalue() == ""


def test_triton_cannot_be_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"{tmp_path}/nvidia_pytriton-0.7.0-py3-none-any.whl\n")
    monkeypatch.setattr(triton_install, "REQUIREMENTS", requirements)
    log = io.StringIO()
    for _ in range(2):  # a failed installation is begun again
        with pytest.raises(EngineError, match=r"cannot be installed: .*nvidia_pytriton.*") as caught:
            triton_install.triton_root(log)
        assert "\n" not in str(caught.value)
    assert log.getvalue().count("installing the Triton server in ") == 2
    monkeypatch.setenv("XDG_CACHE_HOME", str(requirements))
    with pytest.raises(EngineError, match=r"cannot be installed in .*Not a directory|File exists"):
        triton_install.triton_root()


def test_triton_needs_a_python_that_it_can_embed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 99))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match=r"needs Python 3\.12 or 3\.11 on the PATH"):
        triton_install.triton_root()
    python = tmp_path / "python3.11"
    python.symlink_to(sys.executable)
    assert triton_install._find_python() == str(python)
