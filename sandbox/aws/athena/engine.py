"""What all executions share: the engine, the queue before it, the catalogue and the storage."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from ..errors import InvalidRequest, QueryFailed
from ..trino import Trino
from .catalogue import Catalogue
from .storage import Storage


class Engine:
    """One Trino, and the queue before it."""

    def __init__(self, region: str, concurrency: int) -> None:
        """Statements may be sent only after `connect`.

        Args:
            region: the only one in which there is an Athena.
            concurrency: how many statements run at once.
        """
        self.region = region
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="athena")
        self._trino: Trino | None = None
        self._connected = threading.Event()

    def connect(self, trino: Trino) -> None:
        """Tells it which Trino to use."""
        self._trino = trino
        self._connected.set()

    def submit(self, run: Callable[[], None]) -> None:
        """Puts an execution in the queue."""
        self._pool.submit(run)

    def trino(self, patience: float = 300) -> Trino:
        """Trino, when it is ready; it may be starting again.

        Raises:
            QueryFailed: it does not become ready.
        """
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if self._connected.wait(1) and self._trino.ready.wait(1) and self._trino.pid is not None:
                return self._trino
            time.sleep(0.05)
        raise QueryFailed("GENERIC_INTERNAL_ERROR: the query engine does not start", 1, 401, retryable=True)

    def check_region(self, region: str) -> None:
        """There is an Athena in one region only: Trino reads one region's Glue.

        Raises:
            InvalidRequest: it is another one.
        """
        if region != self.region:
            raise InvalidRequest(
                f"this local Athena is in {self.region}, not in {region}: start it with"
                f" AWS_DEFAULT_REGION={region}"
            )

    def catalogue(self, account: str) -> Catalogue:
        """The catalogue of an account."""
        return Catalogue(account, self.region)

    def storage(self, account: str) -> Storage:
        """The buckets of an account."""
        return Storage(account, self.region)
