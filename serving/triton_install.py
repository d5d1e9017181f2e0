"""The ``tritonserver`` inside the package ``nvidia-pytriton``, and what its Python backend needs here."""

from __future__ import annotations

import os
import shutil
import site
import sys
import sysconfig
import tempfile
import venv
from importlib.util import find_spec
from pathlib import Path

from sfavivit.errors import EngineError

PREFIX = "sfavivit-triton-"


def triton_root() -> Path:
    """Folder ``tritonserver`` of the package, found without importing it (which starts its own machinery).

    Raises:
        EngineError: the package is not installed, or has nothing for this Python.
    """
    spec = find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise EngineError("Triton needs the package nvidia-pytriton: pip install 'sfavivit[serve]'")
    root = Path(spec.submodule_search_locations[0]) / "tritonserver"
    if not _stub(root).is_file():
        version = "{}.{}".format(*sys.version_info)
        raise EngineError(f"the Triton of nvidia-pytriton has no Python backend for Python {version}")
    return root


def _stub(root: Path) -> Path:
    version = "{}.{}".format(*sys.version_info)
    return root / "python_backend_stubs" / version / "triton_python_backend_stub"


def make_runtime() -> Path:
    """A private folder with ``backends/`` (the Python backend and this Python's stub) and ``python/``.

    The latter is a virtual environment that sees the packages of this one and writes no bytecode: the stub
    takes no such option, and a ``__pycache__`` in the model repository would make Triton load it again.
    Folders of launchers that were killed are removed. Raises as ``triton_root``.
    """
    root = triton_root()
    _sweep()
    runtime = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    backend = runtime / "backends" / "python"
    backend.mkdir(parents=True)
    for file in (*(root / "backends" / "python").iterdir(), _stub(root)):
        if file.is_file():
            (backend / file.name).symlink_to(file)
    python = runtime / "python"
    venv.create(python, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(python), "platbase": str(python)}))
    folders = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    (packages / "parent.pth").write_text("\n".join(["import sys; sys.dont_write_bytecode = True", *folders]))
    return runtime


def _sweep() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        pid = folder.name.removeprefix(PREFIX).partition("-")[0]
        if folder.stat().st_uid == os.getuid() and pid.isdecimal() and not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)


def environment(runtime: Path) -> dict[str, str]:
    """This process's environment, with which the server and its Python stubs find their libraries."""
    libraries = [triton_root().parent.parent / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR")]
    paths = {
        "PATH": [runtime / "python" / "bin", os.environ.get("PATH", os.defpath)],
        "LD_LIBRARY_PATH": [*libraries, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])],
    }
    return os.environ | {name: os.pathsep.join(map(str, parts)) for name, parts in paths.items()}
