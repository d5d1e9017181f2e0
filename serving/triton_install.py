"""Environment of the Triton server from the package ``nvidia-pytriton``, made on first use.

Triton's Python backend (the "stub") embeds a Python and needs numpy 1 in it: with numpy 2 it hands on empty
tensors. So it has a virtual environment of its own in the user's cache, with just the packages of
``triton_requirements.txt``. ``python -m serving.triton_install`` makes it ahead of time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import IO

import typer

from sfavivit.cli.run import run_app
from sfavivit.errors import EngineError

REQUIREMENTS = Path(__file__).with_name("triton_requirements.txt")
PYTHON_VERSIONS = ("3.12", "3.11")  # those for which there are both numpy 1 and a stub
LIBRARY_FOLDER = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"


def triton_root(log: IO[str] | None = None) -> Path:
    """Return the folder ``tritonserver`` of the package, after making its environment if there is none.

    The first call takes about 10 seconds, downloads 150 MB and says so in ``log``.

    Raises:
        EngineError: no suitable Python, or the packages cannot be installed.
    """
    python = _find_python()
    identity = hashlib.sha256(REQUIREMENTS.read_bytes() + os.fsencode(python)).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sfavivit"
    environment = cache / f"triton-{identity}"
    complete = environment / "complete"
    if not complete.exists():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with environment.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # others that start now wait for one installation
                if not complete.exists():
                    if log:
                        print(f"installing the Triton server in {environment}", file=log, flush=True)
                    _make_environment(environment, python)
                    complete.touch()
        except OSError as error:
            raise EngineError(f"the Triton server cannot be installed in {environment}: {error}") from error
    return _packages(environment) / "pytriton" / "tritonserver"


def server_variables(root: Path) -> dict[str, str]:
    """Return this process's environment variables, changed so that Triton and its stubs find their libraries.

    ``root`` is that of ``triton_root``.
    """
    packages = root.parents[1]
    programs = packages.parents[2] / "bin"
    python_libraries = _run(programs / "python", "-I", "-S", "-c", LIBRARY_FOLDER).strip()
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    libraries = [str(packages / "nvidia_pytriton.libs"), python_libraries, variables.get("LD_LIBRARY_PATH")]
    return variables | {
        "PATH": os.pathsep.join([str(programs), variables.get("PATH", os.defpath)]),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
    }


def _find_python() -> str:
    """Return this Python when Triton can embed it, or else one from the PATH."""
    if "{}.{}".format(*sys.version_info) in PYTHON_VERSIONS:
        return os.path.realpath(sys.executable)
    for version in PYTHON_VERSIONS:
        if python := shutil.which(f"python{version}"):
            return python
    raise EngineError(
        f"the Triton of nvidia-pytriton needs Python {' or '.join(PYTHON_VERSIONS)} on the PATH"
    )


def _make_environment(environment: Path, python: str) -> None:
    shutil.rmtree(environment, ignore_errors=True)  # of an installation that was interrupted
    _run(python, "-I", "-m", "venv", environment)
    pip = (environment / "bin" / "python", "-I", "-m", "pip", "--disable-pip-version-check")
    _run(*pip, "install", "--no-deps", "--only-binary", ":all:", "--requirement", REQUIREMENTS)
    packages = _packages(environment)
    # A __pycache__ in the model repository would make Triton load the model again, and the stub reads no
    # PYTHON* variables.
    (packages / "no_bytecode.pth").write_text("import sys; sys.dont_write_bytecode = True\n")
    root = packages / "pytriton" / "tritonserver"
    version = packages.parent.name.removeprefix("python")
    stub = root / "python_backend_stubs" / version / "triton_python_backend_stub"
    (root / "backends" / "python" / stub.name).symlink_to(stub)


def _packages(environment: Path) -> Path:
    (packages,) = environment.glob("lib/python3.*/site-packages")
    return packages


def _run(*command: str | Path) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        reasons = (done.stderr + done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise EngineError(f"the Triton server cannot be installed: {reasons[-1]}")
    return done.stdout


def main() -> None:
    """Install the Triton server of `python -m serving triton` ahead of time, and print where it is."""
    typer.echo(triton_root(sys.stderr))


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    run_app(app)
