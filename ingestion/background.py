"""Work that goes on in a thread while its result is not needed yet."""

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


# concurrent.futures would do, but importing it takes longer than most increments' blocks.
class Background(threading.Thread, Generic[T]):
    """Calls `work` at once in a thread of its own; `result` waits for what it returns or raises."""

    def __init__(self, work: Callable[[], T]) -> None:
        super().__init__(daemon=True)  # a run that ends before it needs the result does not wait for it
        self._work = work
        self._outcome: tuple[Any, BaseException | None] = (None, None)
        # `join`, once a signal has interrupted it, takes the thread for ended (CPython before 3.13).
        self._ended = threading.Event()
        self.start()

    def run(self) -> None:
        """What the thread does."""
        try:
            self._outcome = (self._work(), None)
        except BaseException as error:
            self._outcome = (None, error)
        finally:
            self._ended.set()

    @property
    def has_ended(self) -> bool:
        """Whether the work is done, or has failed."""
        return self._ended.is_set()

    def wait(self) -> None:
        """Wait for its end."""
        self._ended.wait()

    def result(self) -> T:
        """What `work` returned, when it has; raises what it raised."""
        self.wait()
        value, error = self._outcome
        if error is not None:
            raise error
        return value
