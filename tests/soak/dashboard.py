"""The dashboard as a process of its own, over a stack; and somebody who looks at it."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from realtime.dashboard.access import add_user
from tests.soak.realtime import PATIENCE, ROOT, Stack, free_ports


@dataclass
class Dashboard:
    """An instance over the stack's database, with users `ana` (staff) and one for each partner."""

    stack: Stack
    port: int = 0
    environment: dict[str, str] = field(default_factory=dict)
    passwords: dict[str, str] = field(default_factory=dict, repr=False)

    def __enter__(self) -> "Dashboard":
        self.port = self.port or free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self.port}"
        self.users = self.stack.folder / "users.json"
        if not self.passwords:
            self.passwords["ana"] = add_user(self.users, "ana", None, None)
            for partner in sorted({partner for partner, _ in self.stack.customers()}):
                self.passwords[partner] = add_user(self.users, partner, partner, None)
        self._log = (self.stack.folder / "log").open("ab")
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        self._log.close()

    def start(self) -> None:
        """Starts the process and waits until it can show something."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "realtime", "dashboard"],
            cwd=ROOT,
            env=self.stack.env
            | {
                "REALTIME_DASHBOARD_PORT": str(self.port),
                "REALTIME_DASHBOARD_USERS": str(self.users),
                "REALTIME_DASHBOARD_SECRET": "only-for-tests-" * 3,
            }
            | self.environment,
            stdout=self._log,
            stderr=self._log,
        )
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if httpx.get(f"{self.url}/healthz", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        raise AssertionError((self.stack.folder / "log").read_text()[-3000:])

    def stop(self) -> int:
        """Asks it to stop; returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def client(self, name: str | None = "ana") -> httpx.Client:
        """Somebody's browser, logged in unless there is no name."""
        client = httpx.Client(base_url=self.url, timeout=30)
        if name:
            form = {"name": name, "password": self.passwords[name]}
            answer = client.post("/dashboard/login", data=form, headers={"Origin": self.url})
            assert answer.status_code == 303, answer.text
            assert "failed" not in answer.headers["Location"]
        return client


@dataclass
class Event:
    """One server-sent event."""

    id: str
    kind: str
    data: Any


def events(lines: Iterator[str], seconds: float = PATIENCE) -> Iterator[Event]:
    """Reads a stream of server-sent events; the id is the last one that was given.

    Raises:
        TimeoutError: so much time is over and the stream goes on.
    """
    place = kind = data = ""
    deadline = time.monotonic() + seconds
    for line in lines:
        if time.monotonic() > deadline:
            raise TimeoutError("what was waited for did not come")
        name, _, value = line.partition(": ")
        if name == "id":
            place = value
        elif name == "event":
            kind = value
        elif name == "data":
            data = value
        elif not line:
            if data:
                yield Event(place, kind, json.loads(data))
            kind = data = ""
