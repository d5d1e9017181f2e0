"""Decoding overlaps whatever is done with the frames."""

from __future__ import annotations

from collections.abc import Generator
from queue import Full, Queue
from threading import Event, Thread

from sfavivit.video import Frames, VideoReader

DECODED_AHEAD = 2


def decoded_ahead(reader: VideoReader) -> Generator[Frames, None, None]:
    """The reader's chunks, decoded in a thread of their own while the consumer works."""
    queue: Queue[Frames | BaseException | None] = Queue(DECODED_AHEAD)
    stopped = Event()

    def put(item: Frames | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                queue.put(item, timeout=0.1)
                return
            except Full:
                continue

    def decode() -> None:
        try:
            for chunk in reader:
                put(chunk)
            put(None)
        except BaseException as error:  # re-raised below, in the consumer's thread
            put(error)

    thread = Thread(target=decode, name="sfavivit-decode", daemon=True)
    thread.start()
    try:
        while (item := queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        if thread.is_alive():
            reader.close()
        thread.join()
