"""Videos and lists that are not on this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from sfavivit import Recognizer
from sfavivit.datasets import VideoItem, read_items
from sfavivit.datasets.fetch import check_schemes, open_video
from sfavivit.errors import AnnotationError, UsageError, VideoError
from sfavivit.video.source import OpenSource
from tests.scoring.support import DEFAULT, scored
from tests.web_files import served


@pytest.fixture
def memory() -> Iterator[Any]:
    files = fsspec.filesystem("memory")  # type: ignore[no-untyped-call]
    files.store.clear()
    yield files
    files.store.clear()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """Address of a web server that has the files of ``tmp_path``."""
    with served(tmp_path) as address:
        yield address


def test_videos_from_elsewhere(
    recognizer: Recognizer, parity_video: Path, memory: Any, web: str, tmp_path: Path
) -> None:
    content = parity_video.read_bytes()
    memory.pipe("/corpus/a.mp4", content)
    (tmp_path / "a.mp4").write_bytes(content)
    memory.pipe("/corpus/text.mp4", b"this is no video")
    memory.pipe("/corpus/empty.mp4", b"")
    addresses = ["memory://corpus/a.mp4", f"file://{parity_video}", "memory://corpus/none.mp4"]
    addresses += ["memory://corpus/text.mp4", "memory://corpus/empty.mp4", f"simplecache::{parity_video}"]
    addresses += ["memory://corpus/a.mp4::file://x", "http://127.0.0.1:9/video.mp4"]
    addresses += [f"{web}/a.mp4", f"{web}/none.mp4"]
    items = [VideoItem(str(k), address, {}) for k, address in enumerate(addresses)]
    rows = scored(recognizer, items, DEFAULT)
    failed = [None, None, "not_found", "not_a_video", "empty", "not_found", "video", "unavailable"]
    kinds = [*failed, None, "not_found"]
    assert [row.get("error_kind") for row in rows] == kinds
    (local,) = scored(recognizer, [VideoItem("v0", str(parity_video), {})], DEFAULT)
    assert rows[0]["logits"] == rows[1]["logits"] == rows[8]["logits"] == local["logits"]
    assert rows[0]["video"] == "memory://corpus/a.mp4"
    assert "cannot be fetched: ClientConnectorError" in rows[7]["error_message"]
    assert all("\n" not in row.get("error_message", "") for row in rows)
    (large,) = scored(recognizer, items[:1], replace(DEFAULT, fetch_bytes=len(content) - 1))
    assert large["error_kind"] == "limit"
    assert scored(recognizer, items[:1], replace(DEFAULT, fetch_bytes=len(content))) == rows[:1]


def test_why_a_video_could_not_be_had_is_in_its_row(recognizer: Recognizer, tmp_path: Path) -> None:
    """A clip that is at none of its places, and a server that says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        missing = VideoItem("a", str(tmp_path / "a.mp4"), {}, looked_for="looked for 'a.*'")
        items = [missing, VideoItem("b", f"http://127.0.0.1:{silent.getsockname()[1]}/b.mp4", {})]
        options = replace(DEFAULT, limits=replace(DEFAULT.limits, stall_seconds=0.3))
        rows = scored(recognizer, items, options)
    assert [row["error_kind"] for row in rows] == ["not_found", "limit"]
    assert rows[0]["error_message"] == f"'{tmp_path}/a.mp4': no such file; looked for 'a.*'"
    assert rows[1]["error_message"].endswith("no byte from its server in 0.3 s (limit)")


def test_a_list_from_elsewhere(web: str, memory: Any, tmp_path: Path) -> None:
    """Relative videos of a list lie beside it; what cannot be fetched is an error of the list."""
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "a.csv").write_text("video,label\nb/c.mp4,x\n/d.mp4,y\nmemory://e.mp4,z\n")
    videos = [f"{web}/lists/b/c.mp4", "/d.mp4", "memory://e.mp4"]
    assert [item.video for item in read_items(f"{web}/lists/a.csv?signature=1/2")] == videos
    memory.pipe("/corpus/a.jsonl", b'{"video": "f.mp4"}\n')
    memory.pipe("/a.jsonl", b'{"video": "f.mp4"}\n')
    assert read_items("memory://a.jsonl")[0].video == "memory://f.mp4"
    (tmp_path / "a.csv").write_text("video\ntake #1?.mp4\n")
    assert read_items(f"file://{tmp_path}/a.csv")[0].video == f"{tmp_path}/take #1?.mp4"
    assert read_items(f"{web}/a.csv")[0].video == f"{web}/take%20%231%3F.mp4"
    (item,) = read_items("memory://corpus/a.jsonl", root=tmp_path)
    assert (item.id, item.video) == ("f.mp4", str(tmp_path / "f.mp4"))
    for list_, reason in {
        f"{web}/none.csv": "no such file",
        f"{web}/a.mp4": "is no list of videos: it is a video",
        "gopher://a.csv": "cannot be fetched: ValueError: Protocol not known",
        "http://127.0.0.1:9/a.csv": "cannot be fetched: ClientConnectorError",
    }.items():
        with pytest.raises(AnnotationError, match=reason) as caught:
            read_items(list_)
        assert list_ in str(caught.value) and "\n" not in str(caught.value)


def test_a_fetched_video_has_no_name(memory: Any) -> None:
    memory.pipe("/a.mp4", b"content")
    source = open_video("memory://a.mp4", 100)
    assert isinstance(source, OpenSource)
    with os.fdopen(source.descriptor, "rb") as file:
        assert file.read() == b"content"
        assert not Path(f"/proc/self/fd/{source.descriptor}").resolve().exists()


def test_addresses_that_nothing_can_fetch_are_wrong_use(monkeypatch: pytest.MonkeyPatch) -> None:
    check_schemes(["memory://a.mp4", "/a:/b.mp4"])
    for video, reason in [
        ("gopher://a.mp4", "Protocol not known: gopher"),
        ("s3://b/a.mp4", "[Ii]nstall s3fs"),
    ]:
        with pytest.raises(UsageError, match=reason):
            check_schemes([video])
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(UsageError, match=r"pip install 'sfavivit\[score\]'"):
        open_video("memory://a.mp4", 1)
    assert open_video("/a.mp4", 1) == "/a.mp4"


def test_a_server_that_fails_in_any_way_is_an_error_of_the_video(
    memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("502\nBad gateway")

    monkeypatch.setattr(memory, "_open", fail)
    with pytest.raises(
        VideoError, match=r"^'memory://a.mp4': cannot be fetched: RuntimeError: 502 Bad gateway"
    ):
        open_video("memory://a.mp4", 1)


def test_errors_name_no_secrets(memory: Any, web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also not where a library's error names the URL."""

    def fail(path: str, *_: object, **__: object) -> None:
        raise RuntimeError(f"GET {'x' * 260} a://me:secret{'x' * 30}@h memory://{path}")

    monkeypatch.setattr(memory, "_open", fail)
    user = web.replace("//", "//me:secret@")
    query = "?X-Signature=secret&secret"
    for url in (
        f"{user}/none.mp4{query}",
        f"http://me:secret@127.0.0.1:9/a.mp4{query}",
        f"http://me:secret@127.0.0.1:port/a.mp4{query}",
        f"memory://a.mp4{query}",
        f"http://h/a.mp4{query}::s3://me:secret@b/a.mp4",
    ):
        with pytest.raises(VideoError) as caught:
            open_video(url, 1)
        assert "X-Signature=***" in str(caught.value) and "secret" not in str(caught.value)
    for address in (f"{user}/none.csv{query}", f"{user}/none.mp4{query}"):
        with pytest.raises(AnnotationError) as refused:
            read_items(address)
        assert "X-Signature=***" in str(refused.value) and "secret" not in str(refused.value)
    with pytest.raises(
        UsageError, match=r"^'s3://\*\*\*@b/a.mp4\?X-Signature=\*\*\*&\*\*\*' cannot"
    ) as wrong:
        check_schemes([f"s3://me:secret@b/a.mp4{query}"])
    assert "secret" not in str(wrong.value)
