"""Rules of the house that no linter checks: light imports, public names, error codes, committed files."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import sfavivit
from sfavivit import errors
from sfavivit.errors import ERROR_CODES, SfaVivitError, codes_of

ROOT = Path(__file__).parent.parent
GRPC_CODES = {"INTERNAL", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "UNAVAILABLE"}
GRPC_CODES |= {"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "UNAUTHENTICATED", "CANCELLED"}

LIBRARY = sorted((ROOT / "sfavivit").rglob("*.py"))


def test_importing_the_library_is_light() -> None:
    heavy = "torch grpc tensorrt onnxruntime onnx pyarrow matplotlib ray tritonclient typer"
    code = f"import sys, sfavivit; print([name for name in '{heavy}'.split() if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_torch_modules_are_defined_in_two_files() -> None:
    definers = {
        file.name
        for file in LIBRARY
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef) and any("Module" in ast.unparse(base) for base in node.bases)
    }
    assert definers == {"vivit.py", "resnet.py"}


def test_public_names() -> None:
    """Names that users import; taking one away breaks them."""
    expected = """AsyncVideoRecognitionClient ClassifyOptions EngineError FeatureStore FeatureStoreError
    HeadNotFoundError InvalidInputError LabelScore Limits Manifest OutputResult Recognition Recognizer
    Repository RepositoryError Sampling Segment ServiceError SfaVivitError Timings UsageError VideoError
    VideoReader VideoRecognitionClient VideoSegment Views WindowScores __version__"""
    assert sorted(sfavivit.__all__) == sfavivit.__all__ == expected.split()
    assert all(hasattr(sfavivit, name) for name in sfavivit.__all__)
    assert not hasattr(sfavivit, "no_such_name")


def error_classes() -> list[type[SfaVivitError]]:
    found = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, SfaVivitError)]
    assert len(found) > 20
    return found


def test_every_error_is_in_the_drawn_tree_with_a_kind_of_its_own() -> None:
    classes = error_classes()
    assert all(f" {cls.__name__} " in f" {errors.__doc__} ".replace("\n", " ") for cls in classes)
    assert len({cls.kind for cls in classes}) == len(classes)


def test_every_error_has_codes() -> None:
    assert set(ERROR_CODES) <= set(error_classes())
    for cls in error_classes():
        codes = codes_of(cls("x"))
        assert codes.exit_code in {1, 2}
        assert codes.grpc_code in GRPC_CODES
    assert codes_of(errors.EmptyVideoError("x")) == ERROR_CODES[errors.VideoError]


def test_committed_files_name_no_machine() -> None:
    """No absolute path of a developer's machine, no package registry."""
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if files.returncode:
        pytest.skip("not a git checkout")
    words = ["/" + "work/", "/" + "root/", "pypi" + ".org", "files." + "pythonhosted"]
    for name in filter(None, files.stdout.split("\0")):
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""
        assert not [word for word in words if word.encode() in content], name
