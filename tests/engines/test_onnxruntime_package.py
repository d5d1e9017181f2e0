"""The package behind the module ``onnxruntime``, in real folders of installed packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sfavivit.engines.onnxruntime_package import check_packages
from sfavivit.errors import EngineError

CPU, GPU, OTHER = "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"


def install(site: Path, *packages: str, module: str = "onnxruntime", top_level: bool = True) -> None:
    """What pip leaves: a module, over that of the package before, and metadata of each package."""
    (site / module).mkdir(parents=True, exist_ok=True)
    (site / module / "__init__.py").write_text("")
    for package in packages:
        folder = site / f"{package.replace('-', '_')}-1.2.3.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2.3\n")
        (folder / "RECORD").write_text(f"{module}/__init__.py,,\n{folder.name}/METADATA,,\n")
        if top_level:
            (folder / "top_level.txt").write_text(f"{module}\n")


@pytest.mark.parametrize("top_level", [True, False])
@pytest.mark.parametrize("package", [CPU, GPU])
def test_one_package(tmp_path: Path, package: str, top_level: bool) -> None:
    install(tmp_path, package, top_level=top_level)
    install(tmp_path, "onnxruntime-genai", "onnxruntime-extensions", module="onnxruntime_genai")
    check_packages([str(tmp_path)])


def test_a_module_without_metadata(tmp_path: Path) -> None:
    install(tmp_path)
    check_packages([str(tmp_path)])


@pytest.mark.parametrize(
    ("packages", "parts"),
    [
        ([], ["not installed: pip install 'sfavivit[cpu]' (or 'sfavivit[gpu]'"]),
        (
            [CPU, GPU],
            ["onnxruntime and onnxruntime-gpu are", "pip uninstall -y onnxruntime onnxruntime-gpu && "],
        ),
        ([GPU, OTHER], ["onnxruntime-gpu and onnxruntime-openvino are", "pip install 'sfavivit[cpu]'"]),
        ([OTHER], ["onnxruntime-openvino is not supported", "pip uninstall -y onnxruntime-openvino && "]),
        (["ort-nightly-gpu"], ["ort-nightly-gpu is not supported"]),
    ],
)
def test_none_several_and_others_are_one_line(tmp_path: Path, packages: list[str], parts: list[str]) -> None:
    if packages:
        install(tmp_path, *packages)
    with pytest.raises(EngineError) as caught:
        check_packages([str(tmp_path)])
    assert all(part in str(caught.value) for part in parts)
    assert "\n" not in str(caught.value)


def test_packages_of_different_folders_do_not_overwrite_each_other(tmp_path: Path) -> None:
    """An environment that sees the system's packages: the first of the path is imported, whole."""
    for name, packages in (("own", [GPU]), ("system", [CPU]), ("both", [CPU, GPU])):
        install(tmp_path / name, *packages)
    check_packages([str(tmp_path / name) for name in ("own", "system", "both")])
    with pytest.raises(EngineError, match="over one another"):
        check_packages([str(tmp_path / name) for name in ("both", "own")])


def test_the_rest_of_a_removed_package(tmp_path: Path) -> None:
    """Without ``__init__.py`` Python takes the folder for a namespace, which imports."""
    install(tmp_path, CPU, OTHER)
    (tmp_path / "onnxruntime" / "__init__.py").unlink()
    with pytest.raises(EngineError, match="over one another"):
        check_packages([str(tmp_path)])


@pytest.mark.parametrize(
    ("packages", "message"), [([CPU, GPU], "over one another"), ([GPU], "the module onnxruntime is damaged")]
)
def test_a_command_says_it_when_it_needs_the_engine(
    tmp_path: Path, repository: Path, parity_video: Path, packages: list[str], message: str
) -> None:
    install(tmp_path, *packages)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from sfavivit.cli.main import main; main()"

    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-c", code, *map(str, words)]
        return subprocess.run(line, capture_output=True, text=True, check=False, env=os.environ)

    refused = run("classify", parity_video, "--repository", repository)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert message in refused.stderr and len(refused.stderr.splitlines()) == 1
    inspected = run("inspect", repository)
    assert inspected.returncode == 0 and message in " ".join(inspected.stdout.split())


def test_onnxruntime_collects_nothing(tmp_path: Path) -> None:
    """Its newer versions write a device id and a queue of events to the user's cache, from the import on."""
    script = "from sfavivit.engines.onnxruntime_package import import_onnxruntime as i; i()"
    places = {name: str(tmp_path) for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "TMPDIR")}
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment | places)
    assert list(tmp_path.rglob("*")) == []
