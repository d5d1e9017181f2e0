"""Atomic writes: whole files or none, whatever happens in between."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfavivit.utils.atomic import TEMPORARY_NAME, atomic_path, atomic_write


def test_the_file_appears_when_the_block_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic_path(path) as temporary:
        assert temporary.parent == tmp_path and TEMPORARY_NAME.fullmatch(temporary.name)
        temporary.write_bytes(b"content")
        assert not path.exists()
    assert path.read_bytes() == b"content"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_raises_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with pytest.raises(KeyError), atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        raise KeyError
    with pytest.raises(FileNotFoundError), atomic_path(path):
        pass  # nothing written
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("replace", "kept"), [(True, b"second"), (False, b"first")])
def test_the_first_or_the_last_writer_wins(tmp_path: Path, replace: bool, kept: bytes) -> None:
    for content in (b"first", b"second"):
        atomic_write(tmp_path / "file", content, replace=replace)
    assert (tmp_path / "file").read_bytes() == kept
    assert len(list(tmp_path.iterdir())) == 1
