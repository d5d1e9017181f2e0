"""The ``tritonserver`` inside the package ``nvidia-pytriton``, and what its Python backend needs here."""

from __future__ import annotations

import fcntl
import os
import shutil
import site
import sys
import sysconfig
import tempfile
import venv
from contextlib import suppress
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
        raise EngineError("Triton needs the package nvidia-pytriton: pip install 'sfavivit[tritonserver]'")
    root = Path(spec.submodule_search_locations[0]) / "tritonserver"
    if not _stub(root).is_file():
        version = "{}.{}".format(*sys.version_info)
        raise EngineError(f"the Triton of nvidia-pytriton has no Python backend for Python {version}")
    return root


def _stub(root: Path) -> Path:
    version = "{}.{}".format(*sys.version_info)
    return root / "python_backend_stubs" / version / "triton_python_backend_stub"


class TritonRuntime:
    """A private folder with ``backends/`` (the Python backend and this Python's stub) and ``python/``.

    The latter is a virtual environment that sees the packages of this one and writes no bytecode: the stub
    takes no such option, and a ``__pycache__`` in the model repository would make Triton load it again.
    A new one removes the folders that killed launchers left. Raises as ``triton_root``.
    """

    def __init__(self) -> None:
        self.root = triton_root()
        _sweep()
        new = Path(tempfile.mkdtemp(prefix=f"new-{PREFIX}"))
        self._lock = os.open(new, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock, fcntl.LOCK_SH)  # held as long as this process lives
        self.path = new.rename(new.with_name(new.name.removeprefix("new-")))
        self._link_backend(self.path / "backends" / "python")
        self._make_python(self.path / "python")

    def _link_backend(self, backend: Path) -> None:
        backend.mkdir(parents=True)
        for file in (*(self.root / "backends" / "python").iterdir(), _stub(self.root)):
            if file.is_file():
                (backend / file.name).symlink_to(file)

    def _make_python(self, python: Path) -> None:
        venv.create(python, symlinks=True)
        packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(python), "platbase": str(python)}))
        folders = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
        lines = ["import sys; sys.dont_write_bytecode = True", *folders]
        (packages / "parent.pth").write_text("\n".join(lines))

    def environment(self) -> dict[str, str]:
        """This process's environment, with which the server and its Python stubs find their libraries."""
        libraries = [self.root.parent.parent / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR")]
        paths = {
            "PATH": [self.path / "python" / "bin", os.environ.get("PATH", os.defpath)],
            "LD_LIBRARY_PATH": [*libraries, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])],
        }
        return os.environ | {name: os.pathsep.join(map(str, parts)) for name, parts in paths.items()}

    def remove(self) -> None:
        """Delete the folder, when nothing runs from it any more."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _sweep() -> None:
    """Remove folders that nobody holds."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # somebody else's, held, or gone by now
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)
