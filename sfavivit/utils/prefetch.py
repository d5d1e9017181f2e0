"""Prefetching: an iterable runs ahead in a thread while the consumer works on the present item."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Generic, TypeVar

Item = TypeVar("Item")
QUEUE_ITEMS = 2
_PUT_SECONDS = 0.1


class Prefetcher(Generic[Item]):
    """Iterator over the items of an iterable, which a thread of its own produces from now on.

    An exception of the iterable is raised to the consumer after the items before it. ``stop`` must make the
    iterable end early; it is called from another thread, when no more items are wanted.

    ``close`` may be called from any thread, and again; items in the queue are dropped. ``abandon`` is for
    finalizers, which may run in any thread at any moment: ``stop`` must not block then.
    """

    def __init__(self, items: Iterable[Item], stop: Callable[[], None]) -> None:
        self._items = items
        self._stop = stop
        self._queue: Queue[Item | BaseException | None] = Queue(QUEUE_ITEMS)
        self._stopped = Event()
        self._ended = False
        self._thread = Thread(target=self._produce, name="sfavivit-prefetch", daemon=True)
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
        """Stop the thread and wait until it has ended."""
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
        """Stop the thread without waiting for it. There must be no consumer in another thread any more."""
        self._ended = True
        self._stopped.set()
        self._stop()

    def _produce(self) -> None:
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
            with suppress(Full):
                self._queue.put(item, timeout=_PUT_SECONDS)
                return
