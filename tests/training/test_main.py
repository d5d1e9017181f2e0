"""Help of the commands, which needs no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "commands"),
    [("training", ("stage1", "stage2", "chain", "head")), ("examples.motions", ("train", "sample"))],
)
def test_help_needs_no_torch(module: str, commands: tuple[str, ...]) -> None:
    code = (
        "import sys; sys.modules |= dict.fromkeys(('torch', 'onnx', 'lightning_fabric', 'matplotlib'))\n"
        f"from {module}.__main__ import app\n"
        f"for words in ([], *([command] for command in {commands})):\n"
        "    app([*words, '--help'], standalone_mode=False)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(command in done.stdout for command in commands)
    assert done.stdout.count("Usage:") == 1 + len(commands)
