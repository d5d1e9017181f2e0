"""Files that try to make the decoder open another file or an address, and the sandbox on its own."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sfavivit.errors import ForbiddenFormatError, VideoError, VideoNotFoundError
from sfavivit.video.ffmpeg import find_ffmpeg
from sfavivit.video.reader import VideoReader
from sfavivit.video.sandbox import EXIT_CODE, confined_command, landlock_abi
from tests.video_files import H264, encode, ffmpeg, numbered, sampling

CANARY = b"\x00\x00\x00\x18ftypisom" * 100


class Listener:
    """Counts the connections to a port of the loopback address."""

    def __init__(self) -> None:
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/a.mp4"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            connection.close()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class Secret:
    """A file that shows whether it was read: a pipe that holds a few bytes, as long as nobody takes them."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        os.write(self._descriptor, CANARY)

    def was_read(self) -> bool:
        try:
            left = os.read(self._descriptor, 2 * len(CANARY))
        except BlockingIOError:
            return True
        os.write(self._descriptor, left)
        return left != CANARY

    def close(self) -> None:
        os.close(self._descriptor)


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[Secret]:
    secret = Secret(tmp_path / "secret.mp4")
    yield secret
    secret.close()


def hls(target: str) -> bytes:
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n".encode()


def concat(target: str) -> bytes:
    return f"ffconcat version 1.0\nfile '{target}'\n".encode()


def dash(target: str) -> bytes:
    return (
        '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>'
        '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1" codecs="avc1.42c00a">'
        f"<BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>"
    ).encode()


PLAYLISTS: dict[str, Callable[[str], bytes]] = {
    "hls": hls,
    "concat": concat,
    "dash": dash,
    "headless concat": lambda target: f"# list\nfile '{target}'\n".encode(),
    "m3u": lambda target: f"#EXTM3U\n{target}\n".encode(),
    "pls": lambda target: f"[playlist]\nFile1={target}\n".encode(),
    "asx": lambda target: f'<asx version="3.0"><entry><ref href="{target}"/></entry></asx>'.encode(),
    "smil": lambda target: f'<?xml version="1.0"?><smil><body><video src="{target}"/></body></smil>'.encode(),
    "rtsp": lambda target: f"RTSPtext{target.replace('http', 'rtsp')}".encode(),
    "sdp": lambda _: (
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    ),
}


@pytest.mark.parametrize("name", ["", ".mp4", ".m3u8", ".ffconcat", ".mpd"])
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_reads_nothing_and_connects_nowhere(
    tmp_path: Path, listener: Listener, secret: Secret, kind: str, name: str
) -> None:
    for target in (str(secret.path), f"file:{secret.path}", listener.url):
        path = tmp_path / f"attack{name}"
        path.write_bytes(PLAYLISTS[kind](target))
        with pytest.raises(ForbiddenFormatError, match="refers to other files"):
            VideoReader(path, sampling(), chunk_frames=1)
    assert listener.connections == 0
    assert not secret.was_read()


@pytest.mark.parametrize("kind", ["hls", "concat", "dash"])
def test_the_decoder_itself_refuses_them_too(
    tmp_path: Path, listener: Listener, secret: Secret, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only the look at the head of the file, which is switched off here."""
    monkeypatch.setattr("sfavivit.video.source._PLAYLISTS", ())
    for target in (str(secret.path), listener.url):
        with (
            VideoReader(PLAYLISTS[kind](target), sampling(), chunk_frames=1) as reader,
            pytest.raises(VideoError),
        ):
            list(reader)
    assert listener.connections == 0
    assert not secret.was_read()


def unconfined(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    command = [find_ffmpeg().path, "-nostdin", "-v", "error", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=30, check=False)


@pytest.mark.parametrize(("kind", "suffix"), [("hls", ".m3u8"), ("concat", ".ffconcat"), ("dash", ".mpd")])
def test_the_attacks_would_work_without_any_of_this(
    tmp_path: Path, listener: Listener, secret: Secret, kind: str, suffix: str
) -> None:
    """Otherwise the tests above would prove nothing."""
    path = tmp_path / f"attack{suffix}"
    allowed = ["-protocol_whitelist", "file,http,tcp,crypto,data", *(["-safe", "0"] * (kind == "concat"))]
    path.write_bytes(PLAYLISTS[kind](listener.url))
    unconfined(*allowed, "-i", path, "-f", "null", "-")
    assert listener.connections > 0
    if kind != "dash":  # whose local files are not opened by absolute path
        path.write_bytes(PLAYLISTS[kind](str(secret.path)))
        with subprocess.Popen(
            [find_ffmpeg().path, "-nostdin", *allowed, "-i", path, "-f", "null", "-"],
            stderr=subprocess.DEVNULL,
        ) as process:
            for _ in range(100):
                if read := secret.was_read():
                    break
                try:
                    process.wait(0.1)
                except subprocess.TimeoutExpired:
                    continue
            process.kill()
        assert read


def with_external_data(content: bytes, target: str) -> bytes:
    """An mp4 whose samples lie, by its data reference (an alias record of QuickTime), in another file."""
    name = target.encode()
    alias = bytes(10) + b"\x00" * 28 + bytes(12) + bytes([min(63, len(name))]) + name[:63].ljust(63, b"\0")
    alias += bytes(16) + struct.pack(">HH", 1, 1) + bytes(16)
    alias += struct.pack(">HH", 2, len(name)) + name + b"\0" * (len(name) % 2) + struct.pack(">HH", 0xFFFF, 0)
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    old = struct.pack(">I4sI", 12, b"url ", 1)
    assert content.count(old) == 1
    patched = bytearray(content.replace(old, entry))
    grown = len(entry) - len(old)
    for box in (b"dref", b"dinf", b"minf", b"mdia", b"trak", b"moov"):
        at = patched.rindex(box, 0, patched.index(b"alis")) - 4
        patched[at : at + 4] = struct.pack(">I", struct.unpack(">I", patched[at : at + 4])[0] + grown)
    return bytes(patched)


def test_a_movie_that_keeps_its_pictures_elsewhere(
    tmp_path: Path, listener: Listener, secret: Secret
) -> None:
    movie = encode(tmp_path / "a.mov", numbered(10), options=H264).read_bytes()
    for target in (str(secret.path), listener.url):
        movie_elsewhere = with_external_data(movie, target)
        with suppress(VideoError), VideoReader(movie_elsewhere, sampling(), chunk_frames=1) as reader:
            list(reader)  # whether there are pictures depends on the version of ffmpeg
    assert listener.connections == 0
    assert not secret.was_read()
    control = tmp_path / "control.mov"
    control.write_bytes(with_external_data(movie, str(secret.path)))
    references = ("-enable_drefs", "1", "-use_absolute_path", "1")
    command = [find_ffmpeg().path, "-v", "quiet", *references, "-i", str(control), "-f", "null", "-"]
    with subprocess.Popen(command) as process:
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            process.kill()
    assert secret.was_read()


def test_a_pattern_of_image_names_is_a_file_name(tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=64x64:d=1:r=5", tmp_path / "%03d.png")
    assert (tmp_path / "001.png").exists()
    with pytest.raises(VideoNotFoundError):
        VideoReader(tmp_path / "%03d.png", sampling(), chunk_frames=1)


@pytest.mark.parametrize(
    "name", ["concat:{0}|{0}", "subfile,,start,0,end,9,,:{0}", "file:{0}", "async:{0}", "fd:", "-"]
)
def test_names_of_protocols_are_file_names(tmp_path: Path, name: str) -> None:
    path = encode(tmp_path / "a.mp4", numbered(5))
    with pytest.raises(VideoNotFoundError):
        VideoReader(name.format(path), sampling(), chunk_frames=1)


# The sandbox on its own: ffmpeg with none of the options that keep it in

needs_landlock = pytest.mark.skipif(not landlock_abi(), reason="this kernel has no Landlock, or it is off")


def confined(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    program = find_ffmpeg()
    command = [program.path, "-hide_banner", "-nostdin", "-y", *map(str, arguments)]
    return subprocess.run(
        confined_command(command, memory_bytes=1 << 30, readable=program.files),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=program.environment,
        timeout=30,
        check=False,
    )


@needs_landlock
def test_the_sandbox_alone_keeps_files_closed() -> None:
    copy = ("-f", "data", "-i", "/etc/passwd", "-map", "0", "-c", "copy", "-f", "data", "pipe:1")
    assert unconfined(*copy).stdout == Path("/etc/passwd").read_bytes()
    refused = confined(*copy)
    assert refused.stdout == b""
    assert b"Permission denied" in refused.stderr


@needs_landlock
def test_the_sandbox_alone_writes_nothing(tmp_path: Path) -> None:
    picture = ("-f", "lavfi", "-i", "color=s=16x16:d=1:r=1", "-f", "rawvideo")
    assert unconfined(*picture, tmp_path / "a.raw").returncode == 0
    assert (tmp_path / "a.raw").stat().st_size
    assert b"Permission denied" in confined(*picture, tmp_path / "b.raw").stderr
    assert not (tmp_path / "b.raw").exists()


@pytest.mark.parametrize("scheme", ["tcp", "http"])
def test_the_sandbox_alone_connects_nowhere(listener: Listener, scheme: str) -> None:
    address = listener.url.replace("http", scheme)
    unconfined("-i", address, "-f", "null", "-")
    assert listener.connections > 0
    before = listener.connections
    assert confined("-i", address, "-f", "null", "-").returncode != 0
    assert listener.connections == before


def test_the_sandbox_alone_sends_no_datagram() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(0.2)
        address = f"udp://127.0.0.1:{receiver.getsockname()[1]}"
        sound = ("-f", "lavfi", "-i", "sine=d=0.1", "-f", "mulaw", address)
        unconfined(*sound)
        assert receiver.recv(4096)
        while True:
            try:
                receiver.recv(4096)
            except TimeoutError:
                break
        assert confined(*sound).returncode != 0
        with pytest.raises(TimeoutError):
            receiver.recv(4096)


@needs_landlock
def test_the_sandbox_alone_runs_no_other_program() -> None:
    program = find_ffmpeg()
    command = confined_command(["/bin/sh", "-c", "echo ran"], memory_bytes=1 << 30, readable=program.files)
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (EXIT_CODE, b"")
    assert b"Permission denied" in done.stderr


def test_the_sandbox_does_not_start_what_its_parent_would_not_see() -> None:
    command = confined_command(["/bin/true"], memory_bytes=1 << 30, readable=["/"])
    assert subprocess.run(command, check=False).returncode == 0
    script = f"import subprocess; exit(subprocess.run({command!r}).returncode)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == EXIT_CODE
    assert b"parent process is gone" in done.stderr


def test_the_sandbox_limits_memory_files_and_core() -> None:
    script = (
        "for x in v f c n; do ulimit -$x; done; while read -r line; do echo $line; done </proc/self/status"
    )
    command = confined_command(["/bin/sh", "-c", script], memory_bytes=1 << 30, readable=["/"])
    memory, file_size, core, files, *status = subprocess.check_output(command, text=True).splitlines()
    assert (memory, file_size, core) == (str(1 << 20), "0", "0")
    assert int(files) <= 16
    assert "NoNewPrivs: 1" in status
    assert "Seccomp: 2" in status
