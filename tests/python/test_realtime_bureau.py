"""The bureau's client against servers that misbehave: a right answer or none, and never many calls."""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from realtime.bureau import Answer, Breaker, Bureau, Refused, Subject, Unavailable
from sandbox.third_party.faults import Faults
from sandbox.third_party.server import ThirdPartyServer, create_server

REQUESTED_AT = datetime(2025, 12, 31, 12, tzinfo=UTC)
PEOPLE = [
    Subject(f"{number:011d}", REQUESTED_AT - timedelta(days=number), REQUESTED_AT) for number in range(1, 100)
]


@contextmanager
def bureau_server(faults: Faults | None = None, **limits: float) -> Iterator[tuple[ThirdPartyServer, list]]:
    calls: list = []
    limits = {"requests_per_second": 10_000, "burst": 10_000} | limits
    server = create_server(
        "synthetic", 3, date(2025, 12, 31), 0, "key", log=lambda line: None, watch=calls.append, **limits
    )
    server.mischief.set(faults or Faults())
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server, calls
    server.shutdown()
    server.server_close()
    thread.join()


def ask(url: str, times: int = 1, **settings: object) -> list[Answer | Exception]:
    async def all_of_them() -> list[Answer | Exception]:
        found: list[Answer | Exception] = []
        async with Bureau(url, "key", **{"calls_per_second": 10_000, "timeout": 5} | settings) as bureau:
            for _ in range(times):
                try:
                    found.append(await bureau.ask(PEOPLE))
                except (Unavailable, Refused) as error:
                    found.append(error)
        return found

    return asyncio.run(all_of_them())


@pytest.fixture(scope="module")
def truth() -> dict:
    with bureau_server() as (server, _):
        return ask(server.url)[0].records


def test_the_newest_record_at_the_request_is_found(truth: dict) -> None:
    assert truth.keys() == {s.cpf for s in PEOPLE}
    for subject in PEOPLE:
        age = REQUESTED_AT - truth[subject.cpf].queried_at
        assert timedelta() <= age < timedelta(days=30)  # the next record comes after the request


@pytest.mark.parametrize("fault", ["error", "truncate", "retype", "omit", "reset", "expire"])
def test_an_answer_is_right_or_there_is_none(fault: str, truth: dict) -> None:
    rate = 0.002 if fault in ("retype", "omit") else 0.3
    rates = {fault: rate, "reorder": 0.5, "duplicate": 0.5, "extend": 0.5}
    with bureau_server(Faults(seed=1, rates=rates)) as (server, calls):
        answers = ask(server.url, 12, breaker=Breaker(failures=1000))

    applied = Counter(name for call in calls for name in call.faults)
    assert applied[fault] > 0
    good = [a for a in answers if isinstance(a, Answer)]
    assert len(good) > 6
    # a field that may be absent may be: what is there is true
    for answer in good:
        for cpf, record in answer.records.items():
            assert (record.score, record.queried_at) == (truth[cpf].score, truth[cpf].queried_at)
    assert all(isinstance(a, Answer | Unavailable) for a in answers)


def test_a_bureau_that_fails_again_and_again_is_left_alone() -> None:
    with bureau_server(Faults(rates={"error": 1.0})) as (server, calls):

        async def story() -> None:
            breaker = Breaker(failures=2, rest=0.6)
            async with Bureau(server.url, "key", attempts=1, breaker=breaker) as bureau:
                for _ in range(6):
                    with pytest.raises(Unavailable):
                        await bureau.ask(PEOPLE)
                assert len(calls) == 2
                assert 0 < breaker.remaining() <= 0.6
                await asyncio.sleep(breaker.remaining() + 0.01)
                server.mischief.set(Faults())
                together = await asyncio.gather(
                    *(bureau.ask(PEOPLE) for _ in range(5)), return_exceptions=True
                )
                assert len(calls) == 3  # one tries it for all
                assert sum(isinstance(a, Answer) for a in together) == 1
                assert isinstance(await bureau.ask(PEOPLE), Answer)

        asyncio.run(story())


def test_a_refusal_is_not_repeated_and_busy_is_waited_for() -> None:
    with bureau_server() as (server, calls):
        twice = [PEOPLE[0], PEOPLE[0]]

        async def story() -> None:
            async with Bureau(server.url, "key") as bureau:
                with pytest.raises(Refused, match="422"):
                    await bureau.ask(twice)

        asyncio.run(story())
        assert len(calls) == 1
    with bureau_server(requests_per_second=0.1, burst=1) as (server, calls):
        answers = ask(server.url, 2)
        assert isinstance(answers[0], Answer)
        assert isinstance(answers[1], Unavailable)
        assert answers[1].wait == pytest.approx(10, abs=1)  # as Retry-After says
        assert len(calls) == 2


def test_one_call_in_a_hundred_is_hedged_under_its_own_id() -> None:
    ids: list[str] = []

    class Slow(BaseHTTPRequestHandler):
        """Keeps every 50th call waiting: longer than a busy machine keeps most others."""

        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            ids.append(self.headers["X-Request-Id"])
            if len(ids) % 50 == 0:
                time.sleep(1.5)
            body = json.dumps({"data": [], "next_page_token": None}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    answers = ask(f"http://127.0.0.1:{server.server_port}", 300)  # three may be
    server.shutdown()
    server.server_close()

    assert all(isinstance(a, Answer) for a in answers)
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    assert 1 <= len(repeated) <= 3
    assert len(ids) == 300 + len(repeated)
