"""The stand-ins are named like the real thing: every class, method, parameter and constant of them is in the
bindings of TensorRT and CUDA. The code runs on the stand-ins, so it names nothing else.

TensorRT's bindings come without the libraries they wrap (those need gigabytes, and a GPU). For looking at
names, libraries of the same file names that hold nothing will do.
"""

from __future__ import annotations

import enum
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.fake_cuda import FakeCuda
from tests.fake_tensorrt import VERSION, FakeTensorRt

LIBRARIES = ("libnvinfer.so.11", "libnvinfer_plugin.so.11", "libnvonnxparser.so.11")
FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getNvOnnxParserVersion",
    "getBuilderPluginRegistry",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)

DESCRIBE = """
import importlib, inspect, json, sys
module = importlib.import_module(sys.argv[1])
def describe(value):
    names = {name: inspect.getdoc(member) or "" for name, member in vars(value).items()}
    return names | {name: "" for name in getattr(value, "__members__", ())}
print(json.dumps({
    name: describe(value) if inspect.isclass(value) else (inspect.getdoc(value) or "")
    for name, value in vars(module).items()
} | {"version": getattr(module, "__version__", "")}))
"""


def describe(module: str, library_path: Path) -> dict[str, Any]:
    if find_spec(module.partition(".")[0]) is None:
        pytest.skip(f"no {module}")
    environment = os.environ | {"LD_LIBRARY_PATH": str(library_path)}
    command = [sys.executable, "-c", DESCRIBE, module]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    described: dict[str, Any] = json.loads(done.stdout)
    return described


@pytest.fixture(scope="module")
def tensorrt_names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if not (compiler := shutil.which("cc")):
        pytest.skip("no C compiler to make the empty libraries with")
    folder = tmp_path_factory.mktemp("libraries")
    source = folder / "nothing.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
    for library in LIBRARIES:
        subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / library, source], check=True)
    return describe("tensorrt_bindings", folder)


def overloads(documentation: str, name: str) -> list[list[str]]:
    """Parameter names, ``self`` left out, of every signature that a docstring of the bindings shows."""
    found = []
    for text in re.findall(rf"\b{name}\(([^\n]*)\)(?: ->|$)", documentation, re.MULTILINE):
        plain = re.sub(r"\[[^\]]*\]|<[^>]*>", "", text)
        parts = [part.partition("=")[0].strip() for part in plain.split(",") if part.strip()]
        names = [part.partition(":")[0].split()[-1] for part in parts]
        found.append([part for part in names if part != "self"])
    return found


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def test_tensorrt(tensorrt_names: dict[str, Any]) -> None:
    assert tensorrt_names["version"] == VERSION
    checked = 0
    for name, value in vars(FakeTensorRt().module()).items():
        if name.startswith("__"):
            continue
        assert name in tensorrt_names, name
        if not inspect.isclass(value):
            assert parameters(value) == ["trt_type"]
        elif issubclass(value, enum.Enum):
            assert value.__members__.keys() <= tensorrt_names[name].keys(), name
        else:
            for method, member in vars(value).items():
                if method.startswith("_") and not (method == "__init__" and is_made_by_callers(value)):
                    continue
                assert method in tensorrt_names[name], f"{name}.{method}"
                if inspect.isfunction(member):
                    shown = overloads(tensorrt_names[name][method], method)
                    assert parameters(member) in shown, f"{name}.{method}: {shown}"
                    checked += 1
    assert checked > 25
    assert tensorrt_names["ILogger"]["Severity"] is not None


def is_made_by_callers(cls: type) -> bool:
    """The others come from methods of these."""
    return cls.__name__ in {"Builder", "OnnxParser", "Runtime"}


def test_cuda(tmp_path: Path) -> None:
    real = describe("cuda.bindings.runtime", tmp_path)
    checked = 0
    members: dict[str, Any] = dict(vars(FakeCuda))
    for name, member in members.items():
        if name.startswith("_"):
            continue
        assert name in real, name
        if inspect.isfunction(member):
            assert parameters(member) in overloads(real[name], name), f"{name}: {real[name][:200]}"
            checked += 1
        elif inspect.isclass(member):
            assert vars(member)["_member_map_"].keys() <= real[name].keys(), name
    assert checked > 15
