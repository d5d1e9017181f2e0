"""``python -m sfavivit.protocol.generate [FOLDER]``: generate the code of ``video_recognition.proto``.

The result is committed, so that using it does not need ``grpcio-tools``.
"""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

from sfavivit.errors import UsageError
from sfavivit.extras import needs_extra

ROOT = Path(__file__).parents[2]
PROTO = "sfavivit/protocol/v1/video_recognition.proto"
STUBS = tuple(PROTO.replace(".proto", end) for end in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py"))


def generate(folder: Path) -> None:
    """Write ``STUBS`` below ``folder``.

    Raises:
        UsageError: the compiler is not installed, or refuses the file (and prints the reason).
    """
    with needs_extra("generating the gRPC code", "dev"):
        from grpc_tools import protoc  # noqa: PLC0415 - a development tool
    outputs = [f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")]
    well_known = files("grpc_tools") / "_proto"
    if protoc.main(["protoc", f"-I{ROOT}", f"-I{well_known}", *outputs, PROTO]):
        raise UsageError(f"{PROTO} cannot be compiled; the compiler says why above")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
