"""Video files in folders: their extensions, all of a folder, and those that a list names."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

from sfavivit.datasets.fetch import scheme_of
from sfavivit.datasets.lines import Rows, is_unicode
from sfavivit.errors import AnnotationError

EXTENSIONS = {
    "mov,mp4,m4a,3gp,3g2,mj2": ".3g2 .3gp .3gpp .f4v .ismv .m4v .mj2 .mov .mp4 .qt",
    "matroska,webm": ".mk3d .mkv .webm",
    "avi": ".avi .divx",
    "mpegts": ".m2t .m2ts .mts .tod .trp .ts",
    "mpeg": ".evo .m2p .mpe .mpeg .mpg .vob",
    "flv": ".flv",
    "asf": ".asf .wmv",
    "ogg": ".ogm .ogv",
    "mxf": ".mxf",
    "nut": ".nut",
    "ivf": ".ivf",
    "dv": ".dv",
    "gif": ".gif",
    "yuv4mpegpipe": ".y4m",
    "h263": ".h263",
    "h264": ".264 .avc .h264",
    "hevc": ".265 .h265 .hevc",
    "vvc": ".266 .h266 .vvc",
    "av1,obu": ".obu",
    "m4v": ".m4v",
    "mpegvideo": ".m1v .m2v .mpv",
    "vc1": ".vc1",
}
"""{demuxers of the decoder (``CONTAINERS``): usual extensions of videos}; audio containers have none."""
VIDEO_EXTENSIONS = frozenset(" ".join(EXTENSIONS.values()).split())

# Folders of copies, thumbnails and waste, which systems keep beside people's files (Synology, QNAP, macOS,
# Windows); some have names of videos in them.
_SYSTEM_FOLDERS = frozenset(
    {"@eaDir", "#recycle", "@Recycle", "@Recently-Snapshot", "__MACOSX", ".AppleDouble", ".Trashes", ".Trash"}
    | {".Spotlight-V100", ".fseventsd", ".TemporaryItems", "$RECYCLE.BIN", "System Volume Information"}
)
_FORK_PREFIX = "._"  # macOS keeps attributes of x.mp4 as ._x.mp4 on other systems' disks

_MAX_KINDS = 6
_CACHED_FOLDERS = 4096

Note = Callable[[str], None]
"""Takes a line about something that is no error, and of which the user should know."""


def folder_rows(folder: str, note: Note) -> Rows:
    """Yield the video files below a folder, as {"video": relative path}, sorted; notes what is left out.

    Links to folders are followed, and each folder is listed once: where it lies, if that is below ``folder``,
    or else by the first link to it.

    Raises:
        AnnotationError: a folder cannot be read, or the name of a file is not UTF-8.
    """
    found: list[str] = []
    left_out: Counter[str] = Counter()
    for directory, names in _walk(folder, left_out):
        for name in names:
            kind = _kind_of(name)
            if kind is None:
                found.append(Path(directory, name).relative_to(folder).as_posix())
            else:
                left_out[kind] += 1
    if left_out:
        kinds = left_out.most_common()
        counts = [f"{count} {kind}" for kind, count in kinds[:_MAX_KINDS]]
        more = sum(count for _, count in kinds[_MAX_KINDS:])
        counts += [f"{more} of other kinds"] if more else []
        total = left_out.total()
        note(f"{folder!r}: {total} left out as no video{'s' * (total > 1)}: {', '.join(counts)}")
    for number, file in enumerate(sorted(found), 1):
        if not is_unicode(file):
            raise AnnotationError(f"{folder!r}: the name of file {file!r} is not UTF-8; rename the file")
        yield number, {"video": file}


def _walk(root: str, left_out: Counter[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder and its files, links last, so that no cycle of links is followed round."""

    def fail(error: OSError) -> None:
        raise _unreadable(error)

    seen: set[str] = set()
    tops, links = [root], list[str]()
    while tops:
        for directory, folders, files in os.walk(tops.pop(0), onerror=fail):
            real = os.path.realpath(directory)  # network file systems may have no inode numbers to compare
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            left_out.update(f"{name}/" for name in folders if name in _SYSTEM_FOLDERS)
            folders[:] = [name for name in folders if name not in _SYSTEM_FOLDERS]
            paths = [os.path.join(directory, name) for name in folders]  # noqa: PTH118
            links += filter(os.path.islink, paths)
            yield directory, files
        if not tops:
            tops, links = sorted(links), []


def _kind_of(name: str) -> str | None:
    """Return the kind of a file that is left out, for people to read; None for a video."""
    extension = os.path.splitext(name)[1].lower()  # noqa: PTH122 - faster than a Path
    if name.startswith(_FORK_PREFIX):
        return f"{_FORK_PREFIX}* of macOS"
    if extension in VIDEO_EXTENSIONS:
        return None
    return extension or (name if name.startswith(".") else "without an extension")


def _unreadable(error: OSError) -> AnnotationError:
    return AnnotationError(f"{error.filename!r} cannot be read: {error.strerror}; change its permissions")


class VideoFolder:
    """Folder, or URL of one, that relative paths of videos start from."""

    def __init__(self, root: str | Path) -> None:
        scheme, root = scheme_of(str(root)), str(root).removeprefix("file://")
        self._local = scheme in (None, "file")
        # A Path per row would double the time of long lists.
        self._root = os.path.abspath(root) if self._local else root  # noqa: PTH100
        self._quoted = scheme in ("http", "https")
        self._extensions = lru_cache(_CACHED_FOLDERS)(_extensions)

    def path(self, video: str) -> str:
        """Return the absolute path of a video; a URL as it is."""
        if scheme_of(video):
            return video
        relative = quote(video) if self._quoted and not video.startswith("/") else video
        return os.path.join(self._root, relative)  # noqa: PTH118 - as above

    def find(self, name: str, places: Iterable[str], extension: str) -> str | None:
        """Return the path of the first video called ``name``; None at a URL, where nothing is looked up.

        Args:
            name: name of the file without its extension.
            places: folders below this one to look at, each with a slash at its end.
            extension: extension that goes before all others.

        Raises:
            AnnotationError: a folder cannot be read.
        """
        for place in places if self._local else ():
            above, stem = os.path.split(self.path(f"{place}{name}"))
            found = self._extensions(above).get(stem, ())
            if found:
                best = min(found, key=lambda end: (end != extension, end.lower() != extension.lower(), end))
                return os.path.join(above, stem + best)  # noqa: PTH118
        return None

    def looked_for(self, names: Sequence[str], places: Iterable[str]) -> str:
        """Return what ``find`` looked for, for people to read; empty at a URL."""
        if not self._local:
            return ""
        files = " and ".join(repr(f"{name}.*") for name in names)
        return f"looked for {files} in {', '.join(repr(self.path(place)) for place in places)}"


def _extensions(folder: str) -> dict[str, tuple[str, ...]]:
    """Return {name without extension: extensions} of the videos in a folder; nothing if there is none."""
    found: dict[str, tuple[str, ...]] = {}
    try:
        names = os.listdir(folder)  # noqa: PTH208 - as above
    except PermissionError as error:
        raise AnnotationError(
            f"{folder!r} cannot be read: {error.strerror}; change its permissions"
        ) from None
    except OSError:
        return found
    for stem, extension in map(os.path.splitext, names):
        if extension.lower() in VIDEO_EXTENSIONS:
            found[stem] = (*found.get(stem, ()), extension)
    return found
