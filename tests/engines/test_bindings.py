"""Every name that the code takes from TensorRT and CUDA is in NVIDIA's own bindings.

TensorRT's bindings cannot be imported without the libraries they wrap, which are gigabytes, so names are
looked up in their files. CUDA's can be, so the number of arguments is compared, too.
"""

from __future__ import annotations

import ast
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TENSORRT_CODE = ("sfavivit/engines/tensorrt.py", "export/plan_builder.py")
TENSORRT_OBJECTS = {"builder", "config", "context", "engine", "network", "parser", "runtime", "shapes", "trt"}
"""Names of the variables and attributes (without underscore) that hold objects of TensorRT."""


def nodes(*files: str) -> list[ast.AST]:
    return [node for file in files for node in ast.walk(ast.parse((ROOT / file).read_text()))]


def root(node: ast.expr) -> str:
    """The variable, or attribute of ``self``, that an expression begins with."""
    while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self":
            return node.attr.lstrip("_")
        node = node.func if isinstance(node, ast.Call) else node.value
    return ast.unparse(node)


def test_tensorrt_has_the_names() -> None:
    if not (spec := find_spec("tensorrt_bindings")) or not spec.origin:
        pytest.skip("no tensorrt_bindings")
    names: set[str] = set()
    for node in nodes(*TENSORRT_CODE):
        if isinstance(node, ast.Attribute) and root(node.value) in TENSORRT_OBJECTS:
            names.add(node.attr)
        elif isinstance(node, ast.Call) and root(node.func) in TENSORRT_OBJECTS:
            names |= {keyword.arg for keyword in node.keywords if keyword.arg}
    names.remove("__version__")
    assert {
        "set_tensor_address",
        "build_serialized_network",
        "Severity",
        "nptype",
        "ignore_mismatch",
    } <= names
    assert len(names) > 40
    python = Path(spec.origin).read_text()
    compiled = b"".join(file.read_bytes() for file in Path(spec.origin).parent.glob("*.so"))
    # Any string of the library may be the end of a longer one.
    assert not {
        name for name in names if f"{name}\0".encode() not in compiled and f"def {name}(" not in python
    }


def test_cuda_has_the_names_and_arguments() -> None:
    cudart: Any = pytest.importorskip("cuda.bindings.runtime")
    calls = 0
    for node in nodes("sfavivit/engines/cuda.py"):
        if isinstance(node, ast.Attribute) and root(node) == "cudart":
            value = cudart
            for name in ast.unparse(node).split(".")[1:]:
                value = getattr(value, name)
        elif isinstance(node, ast.Call) and root(node.func) == "cudart":
            name = ast.unparse(node.func).removeprefix("cudart.")
            signature = re.match(rf"{name}\(([^)]*)\)", getattr(cudart, name).__doc__)
            assert signature, name
            parameters = [text for text in signature[1].split(",") if text.strip()]
            assert len(parameters) == len(node.args), signature[0]
            calls += 1
    assert calls > 12
