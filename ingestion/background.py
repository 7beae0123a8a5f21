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
        self.start()

    def run(self) -> None:
        """What the thread does."""
        try:
            self._outcome = (self._work(), None)
        except BaseException as error:
            self._outcome = (None, error)

    def result(self) -> T:
        """What `work` returned, when it has; raises what it raised."""
        self.join()
        value, error = self._outcome
        if error is not None:
            raise error
        return value
