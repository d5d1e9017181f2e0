"""Making the next items overlaps whatever is done with the present one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Generic, TypeVar

Item = TypeVar("Item")
ITEMS_AHEAD = 2


class ReadAhead(Generic[Item]):
    """Items of an iterable, made in a thread of their own, from now on.

    ``stop`` is called, from another thread, when they are no longer wanted and the iterable must end early.
    What the iterable raises is raised to the consumer, after the items before it.

    ``close`` may be called from any thread, and again; items that were not taken are dropped. ``abandon`` is
    for a finalizer, which may run in any thread at any moment: ``stop`` must not wait then.
    """

    def __init__(self, items: Iterable[Item], stop: Callable[[], None]) -> None:
        self._items = items
        self._stop = stop
        self._queue: Queue[Item | BaseException | None] = Queue(ITEMS_AHEAD)
        self._stopped = Event()
        self._ended = False
        self._thread = Thread(target=self._make, name="sfavivit-read-ahead", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        item = None if self._ended else self._queue.get()
        if item is None or isinstance(item, BaseException):
            self._ended = True
            raise item or StopIteration
        return item

    def close(self) -> None:
        """End the thread, and wait until it has."""
        self._ended = True
        self._stopped.set()
        if self._thread.is_alive():
            self._stop()
        self._thread.join()
        with suppress(Empty):
            while True:
                self._queue.get_nowait()
        with suppress(Full):
            self._queue.put_nowait(None)  # for a consumer that is waiting

    def abandon(self) -> None:
        """Have the thread end by itself. There must be no consumer any more."""
        self._stopped.set()
        self._stop()

    def _make(self) -> None:
        try:
            for item in self._items:
                self._put(item)
            self._put(None)
        except BaseException as error:
            self._put(error)
        finally:
            if close := getattr(self._items, "close", None):
                close()

    def _put(self, item: Item | BaseException | None) -> None:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return
            except Full:
                continue
