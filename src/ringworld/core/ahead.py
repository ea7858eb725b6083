"""Work that a thread does ahead of the caller: while one waits, the other works."""

import atexit
import queue
import threading
from collections.abc import Generator, Iterable
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")
_LOOK_SECONDS = 0.1


def ahead(items: Iterable[T], *, most: int) -> Generator[T, None, None]:
    """Yield items in their order, which a thread makes up to `most` ahead of the caller.

    What making an item raises is raised where it would be yielded. The thread ends with the iterator, also
    where the caller asks for no more, or with the process.
    """
    made: queue.Queue[tuple[str, Any]] = queue.Queue(most)
    stopped = threading.Event()

    def put(kind: str, value: Any) -> None:
        while not stopped.is_set():
            with suppress(queue.Full):
                return made.put((kind, value), timeout=_LOOK_SECONDS)

    def make() -> None:
        try:
            for item in items:
                put("item", item)
                if stopped.is_set():
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    def end() -> None:
        stopped.set()
        thread.join()

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    # A thread that is within a library when Python ends would abort the process.
    atexit.register(end)
    unregister = atexit.unregister  # the module may be gone by then
    try:
        while (taken := made.get())[0] == "item":
            yield taken[1]
        if taken[0] == "error":
            raise taken[1]
    finally:
        unregister(end)
        end()
