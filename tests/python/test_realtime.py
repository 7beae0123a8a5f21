"""From an order over HTTP to its decision, on a real PostgreSQL, a real bureau and real processes."""

import asyncio
import gzip
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import duckdb
import httpx
import psycopg
import pytest
from conftest import ROOT, SETTINGS

from realtime.database import BY_INDEX, open_pool
from realtime.decisions import evaluation_id, replay
from realtime.errors import RealtimeError
from realtime.features import FEATURES
from realtime.policy import load_policies
from realtime.queue import _RECEIVE, PostgresQueue, replay_dead_letters
from realtime.settings import Settings
from tests.soak.realtime import PATIENCE, Campaign, Stack, order_body

RNG = random.Random(11)


@pytest.fixture(scope="module")
def stack(new_folder: Callable[[str], Path]) -> Iterator[Stack]:
    with Stack(new_folder("rt")) as running:
        yield running


@pytest.fixture(scope="module")
def people(stack: Stack) -> Iterator[tuple[str, str]]:
    """Customers (partner, CPF) whom the bureau knows, each used once."""
    with stack.connect() as connection:
        return iter(
            connection.execute(
                "select c.partner_id, c.cpf from app.customers as c"
                " where exists (select from app.consents as k where k.customer_id = c.customer_id"
                " and k.scope = 'bureau' and k.revoked_at is null"
                " and coalesce(k.expires_at, 'infinity') > '2026-02-01'"
                " and k.granted_at < '2025-12-01')"
                " order by customer_id"
            ).fetchall()
        )


def call(
    stack: Stack, method: str, path: str, body: Any = None, key: str | None = None, **headers: str
) -> tuple[int, dict[str, Any], dict[str, str]]:
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} | ({"X-Api-Key": key} if key else {}) | headers
    request = urllib.request.Request(stack.url + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.loads(response.read()), dict(response.headers)
    except urllib.error.HTTPError as error:
        problem = json.loads(error.read()) | {"content_type": error.headers["Content-Type"]}
        return error.code, problem, dict(error.headers)


def post(stack: Stack, partner: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    return call(stack, "POST", "/v1/credit-orders", body, stack.keys[partner])[:2]


def get(stack: Stack, partner: str, order_id: str) -> tuple[int, dict[str, Any]]:
    return call(stack, "GET", f"/v1/credit-orders/{order_id}", key=stack.keys[partner])[:2]


def events(stack: Stack, order_id: str) -> list[tuple]:
    with stack.connect() as connection:
        return connection.execute(
            "select seq, event_type, from_status, to_status, actor from app.credit_order_events"
            " where order_id = %s order by seq",
            (order_id,),
        ).fetchall()


def run(stack: Stack, act: Callable[..., Any], *arguments: Any) -> Any:
    async def with_pool() -> Any:
        async with open_pool(stack.dsn, 2) as pool:
            return await act(pool, *arguments)

    return asyncio.run(with_pool())


def decided(stack: Stack, people: Iterator, status: str) -> tuple[str, dict[str, Any]]:
    """Partner and answer of an order that was decided so; tries customers until one is."""
    for partner, cpf in people:
        body = order_body(RNG, cpf)
        assert post(stack, partner, body)[0] == 202
        stack.wait_until_decided()
        order = get(stack, partner, body["order_id"])[1]
        if order["status"] == status:
            return partner, order
    raise AssertionError(f"nobody was {status}")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("REALTIME_PORT", "http"),
        ("REALTIME_WORKER_PORT", "65536"),
        ("REALTIME_DASHBOARD_SESSION_MINUTES", "0"),
        ("REALTIME_DASHBOARD_SECRET", "too short"),
        ("REALTIME_QUEUE", "rabbit"),
        ("REALTIME_OFFSET_SECONDS", "2026-01-01"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(
    setting: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REALTIME_DSN", "postgresql://localhost/none")
    monkeypatch.setenv(setting, value)
    with pytest.raises(RealtimeError, match=setting) as refused:
        Settings.from_environment()
    assert "too short" not in str(refused.value)


def test_an_order_is_taken_in_decided_and_explained(stack: Stack, people: Iterator) -> None:
    for status, event in (("approved", "approved"), ("rejected", "rejected"), ("in_review", "referred")):
        partner, order = decided(stack, people, status)
        order_id = order["order_id"]

        assert events(stack, order_id) == [
            (1, "created", None, "in_review", "customer"),
            (2, event, "in_review", status, "system"),
        ]
        assert (order["approved_amount"] is not None) == (status == "approved")
        assert bool(order["reasons"]) == (status != "approved")
        assert all(reason["text"].endswith(".") for reason in order["reasons"])
        assert order["partner_id"] == partner
        assert run(stack, replay, uuid.UUID(order_id), load_policies()) == []


def test_the_same_order_again_is_the_same_answer(stack: Stack, people: Iterator) -> None:
    partner, cpf = next(people)
    body = order_body(RNG, cpf)
    backwards = dict(reversed(body.items())) | {"requested_amount": float(body["requested_amount"])}

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda n: post(stack, partner, (body, backwards)[n % 2]), range(24)))
    stack.wait_until_decided()

    assert answers == [answers[0]] * 24
    assert answers[0][0] == 202
    assert post(stack, partner, body) == answers[0]  # after the decision, too
    assert len(events(stack, body["order_id"])) == 2
    for change in ({"term_months": body["term_months"] % 24 + 6}, {"purpose": None}, {"metadata": {}}):
        status, problem = post(stack, partner, body | change)
        assert (status, problem.get("type")) == (409, "urn:credit-lakehouse:problem:conflict")


def test_a_partner_never_sees_the_order_of_another(stack: Stack, people: Iterator) -> None:
    partner, cpf = next(people)
    body = order_body(RNG, cpf)
    assert post(stack, partner, body)[0] == 202
    other, other_cpf = next(person for person in people if person[0] != partner)
    order_id = body["order_id"]
    absent = get(stack, other, str(uuid.uuid4()))

    assert get(stack, other, order_id) == absent
    assert (absent[0], absent[1]["content_type"]) == (404, "application/problem+json")
    for form in (order_id.upper(), order_id.replace("-", ""), f"%7B{order_id}%7D", f"{order_id}/"):
        assert get(stack, other, form) == get(stack, partner, form)  # an order has one name
        assert get(stack, other, form)[0] == 404
    assert call(stack, "POST", f"/v1/credit-orders/{order_id}/review", {}, stack.keys[other])[0] == 403
    # Under the id of the other's order: refused, and nothing of it changes or is told.
    status, problem = post(stack, other, order_body(RNG, other_cpf) | {"order_id": order_id})
    assert status == 409
    assert cpf not in json.dumps(problem)
    assert get(stack, partner, order_id)[1]["partner_id"] == partner
    # The customer of another is as unknown as nobody's.
    nobody = post(stack, other, order_body(RNG, "52998224725"))
    assert post(stack, other, order_body(RNG, cpf)) == nobody
    assert nobody[0] == 422


def test_who_may_call_how_often_and_with_what(stack: Stack, people: Iterator) -> None:
    partner, cpf = next(people)
    body, key = order_body(RNG, cpf), stack.keys[partner]
    path = "/v1/credit-orders"

    assert call(stack, "POST", path, body)[0] == 401
    assert call(stack, "POST", path, body, "wrong")[0] == 401
    assert call(stack, "POST", path, body, stack.keys[""])[0] == 403
    assert call(stack, "GET", path, None, key)[0] == 405
    assert call(stack, "POST", path, body, key, **{"Content-Type": "text/plain"})[0] == 415
    assert call(stack, "POST", path, b" " * 16_385, key)[0] == 413
    assert call(stack, "POST", path, b"{", key)[0] == 400
    assert call(stack, "POST", path, body | {"cpf": "52998224724"}, key)[1]["errors"][0]["pointer"] == "/cpf"
    assert call(stack, "GET", "/v1", None, key)[0] == 404
    for amount in ("1e3", "1_000", " 800", True, "NaN"):
        status, problem, _ = call(stack, "POST", path, body | {"requested_amount": amount}, key)
        assert (status, problem["errors"][0]["pointer"]) == (422, "/requested_amount")

    with stack.connect() as connection:
        connection.execute(
            "update realtime.api_keys set requests_per_second = 0.5, burst = 3 where partner_id = %s",
            (partner,),
        )
        time.sleep(3)  # keys are read again every two seconds
        answers = [call(stack, "GET", f"{path}/{uuid.uuid4()}", None, key) for _ in range(5)]
        connection.execute(
            "update realtime.api_keys set requests_per_second = 1000, burst = 1000 where partner_id = %s",
            (partner,),
        )
        time.sleep(3)
    assert [status for status, *_ in answers] == [404, 404, 404, 429, 429]
    assert answers[-1][2]["retry-after"] == "2"


def test_every_route_is_described(stack: Stack) -> None:
    status, document, _ = call(stack, "GET", "/openapi.json")

    assert status == 200
    assert set(document["paths"]) == {
        "/v1/credit-orders",
        "/v1/credit-orders/{order_id}",
        "/v1/credit-orders/{order_id}/review",
    }
    text = json.dumps(document)
    for name in set(re.findall(r"#/components/schemas/(\w+)", text)):
        assert name in document["components"]["schemas"]


@pytest.mark.parametrize("who", ["partner", "reviewer"])
def test_schemathesis_finds_nothing(stack: Stack, who: str, tmp_path: Path) -> None:
    key = stack.keys[""] if who == "reviewer" else next(key for name, key in stack.keys.items() if name)

    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("schemathesis"), "run", f"{stack.url}/openapi.json"),
            *("--header", f"X-Api-Key: {key}", "--phases", "examples,coverage,fuzzing"),
            # A customer's CPF cannot be guessed, so what fits the schema need not be accepted.
            *("--checks", "all", "--exclude-checks", "positive_data_acceptance"),
            *("--max-examples", os.environ.get("SCHEMATHESIS_EXAMPLES", "10"), "--seed", "1", "--no-color"),
            # A busy machine is slow, which says nothing of the service.
            *("--request-timeout", "60", "--suppress-health-check", "all", "--warnings", "off"),
        ],
        cwd=tmp_path,
        env=stack.env,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"\b[1-9][0-9]* passed", done.stdout)
    assert "failed" not in done.stdout


def test_without_consent_the_bureau_is_not_asked(stack: Stack, people: Iterator) -> None:
    partner, cpf = next(people)
    with stack.connect() as connection:
        connection.execute(
            "update app.consents set revoked_at = '2025-12-31' where scope = 'bureau' and customer_id ="
            " (select customer_id from app.customers where cpf = %s)",
            (cpf,),
        )
        body = order_body(RNG, cpf)
        assert post(stack, partner, body)[0] == 202
        stack.wait_until_decided()
        decision, score, evidence = connection.execute(
            "select decision, score, raw_response from app.risk_evaluations where order_id = %s",
            (body["order_id"],),
        ).fetchone()

    assert (decision, score, evidence["request_id"]) == ("review", None, None)
    assert evidence["inputs"]["has_bureau_consent"] is False


def test_many_orders_at_once_are_for_a_person_to_judge(stack: Stack, people: Iterator) -> None:
    partner, order = decided(stack, people, "approved")
    with stack.connect() as connection:
        cpf = connection.execute(
            "select cpf from app.customers join app.credit_orders using (customer_id) where order_id = %s",
            (order["order_id"],),
        ).fetchone()[0]
    bodies = [order_body(RNG, cpf, requested_amount="800.00", term_months=24) for _ in range(3)]
    for body in bodies:
        assert post(stack, partner, body)[0] == 202
    stack.wait_until_decided()

    codes = [[r["code"] for r in get(stack, partner, b["order_id"])[1]["reasons"]] for b in bodies]
    assert codes == [[], [], ["FRAUD_SUSPECTED"]]


def test_an_order_that_the_database_refuses_harms_no_other(stack: Stack, people: Iterator) -> None:
    orders = [(partner, order_body(RNG, cpf)) for partner, cpf in (next(people) for _ in range(16))]
    orders[7][1]["purpose"] = "refused"
    with stack.connect() as connection:
        connection.execute(
            "alter table app.credit_orders add constraint a_test check (purpose <> 'refused') not valid"
        )
        with ThreadPoolExecutor(16) as threads:
            answers = list(threads.map(lambda order: post(stack, *order), orders))
        connection.execute("alter table app.credit_orders drop constraint a_test")

    # Not 503: to repeat it would be no use.
    assert [status for status, _ in answers] == [202] * 7 + [500] + [202] * 8
    stack.wait_until_decided()


def test_whoever_decides_an_order_sees_all_that_are_older(stack: Stack, people: Iterator) -> None:
    partner, cpf = next(people)
    bodies = [order_body(RNG, cpf) for _ in range(40)]
    with ThreadPoolExecutor(16) as threads:
        assert {status for status, _ in threads.map(lambda b: post(stack, partner, b), bodies)} == {202}
    stack.wait_until_decided()

    with stack.connect() as connection:
        rows = connection.execute(
            "select o.created_at, (raw_response #>> '{inputs,features,prior_orders}')::int"
            " from app.credit_orders as o join app.risk_evaluations using (order_id)"
            " where customer_id = (select customer_id from app.customers where cpf = %s)"
            " and metadata ? 'device_id'",
            (cpf,),
        ).fetchall()
        before = connection.execute(
            "select count(*) from app.credit_orders where created_at < '2026-01-01' and customer_id ="
            " (select customer_id from app.customers where cpf = %s)",
            (cpf,),
        ).fetchone()[0]
    assert len(rows) == 40
    assert [n for _, n in rows] == [before + sum(other < at for other, _ in rows) for at, _ in rows]


def test_a_person_reviews(stack: Stack, people: Iterator) -> None:
    partner, order = decided(stack, people, "rejected")
    order_id = order["order_id"]
    path = f"/v1/credit-orders/{order_id}/review"
    refusal = {
        "review_id": str(uuid.uuid4()),
        "outcome": "reject",
        "reason": "nothing new was handed in",
        "reason_codes": ["LOW_SCORE"],
    }
    approval = {
        "review_id": str(uuid.uuid4()),
        "outcome": "approve",
        "reason": "a higher income was proven by payslips",
        "approved_amount": "500.00",
        "interest_rate": "0.05",
    }
    key = stack.keys[""]
    # PostgreSQL's JSON holds no such character.
    assert call(stack, "POST", path, refusal | {"reason": "nothing new\0 was handed in"}, key)[0] == 422

    upheld = call(stack, "POST", path, refusal, key)
    overturned = call(stack, "POST", path, approval, key)

    assert upheld[0] == overturned[0] == 200
    assert upheld[1]["criteria"]["reason_codes"] == [r["code"] for r in order["reasons"]]
    assert upheld[1]["criteria"]["inputs"]["policy_version"] == "2026.1"
    assert call(stack, "POST", path, approval, key)[1] == overturned[1]
    assert call(stack, "POST", path, approval | {"interest_rate": "0.06"}, key)[0] == 409
    assert call(stack, "POST", path, refusal | {"review_id": str(uuid.uuid4())}, key)[0] == 409  # it is final
    assert events(stack, order_id)[1:] == [
        (2, "rejected", "in_review", "rejected", "system"),
        (3, "reviewed", "rejected", "rejected", "staff"),
        (4, "approved", "rejected", "approved", "staff"),
    ]
    whole = get(stack, "", order_id)[1]
    assert [(e["provider"], e["decision"]) for e in whole["evaluations"]] == [
        ("policy", "reject"),
        ("credit_desk", "reject"),
        ("credit_desk", "approve"),
    ]
    mine = get(stack, partner, order_id)[1]
    assert (mine["status"], mine["approved_amount"], mine["reasons"]) == ("approved", "500.00", [])
    assert "evaluations" not in mine
    assert run(stack, replay, uuid.UUID(order_id), load_policies()) == []


def test_replay_says_what_differs_and_what_is_missing(stack: Stack, people: Iterator) -> None:
    _, order = decided(stack, people, "approved")
    order_id = uuid.UUID(order["order_id"])
    update = "update app.risk_evaluations set raw_response = {} where evaluation_id = %s"
    with stack.connect() as connection:
        connection.execute(
            update.format("jsonb_set(raw_response, '{inputs,bureau_negative_records}', '9')"),
            (evaluation_id(order_id),),
        )
        assert "outcome: was approve, is reject" in run(stack, replay, order_id, load_policies())
        connection.execute(update.format("raw_response #- '{inputs,features}'"), (evaluation_id(order_id),))
        with pytest.raises(RealtimeError, match="stored inputs lack features"):
            run(stack, replay, order_id, load_policies())
        connection.execute(
            update.format("raw_response #- '{inputs,monthly_income}'"), (evaluation_id(order_id),)
        )
        with pytest.raises(RealtimeError, match="stored inputs lack monthly_income"):
            run(stack, replay, order_id, load_policies())


def test_features_are_what_was_known_at_the_request(stack: Stack) -> None:
    """Each feature's own moment; that all are the warehouse's is shown by `test_realtime_features.py`."""
    query = FEATURES.replace("%", "%%").replace("$1", "%s")
    with stack.connect() as connection, connection.transaction(force_rollback=True):
        connection.row_factory = psycopg.rows.dict_row
        order = connection.execute(
            "insert into app.credit_orders (order_id, customer_id, partner_id, product, currency,"
            " requested_amount, term_months, status, created_at, updated_at)"
            " select gen_random_uuid(), customer_id, partner_id, 'personal_loan', 'BRL', 1000, 12, 'in_review',"
            " '2026-01-01 12:00Z', '2026-01-01 12:00Z' from app.customers as c"
            " where not exists (select from app.credit_orders as o where o.customer_id = c.customer_id)"
            " and not exists (select from realtime.bank_sources as s where s.customer_id = c.customer_id)"
            " limit 1 returning order_id, customer_id, created_at"
        ).fetchone()
        before, after = (order["created_at"] + timedelta(seconds=s) for s in (-1, 1))
        connection.execute(
            "delete from realtime.customer_versions where customer_id = %(customer_id)s", order
        )
        for at, income in ((before, 1111), (after, 9999)):
            connection.execute(
                "insert into realtime.customer_versions values (%s, %s, 'SP', %s, '1990-05-01', '2020-01-01Z')",
                (order["customer_id"], at, income),
            )
        connection.execute(
            "insert into realtime.bank_sources values (-1, %s, %s)", (order["customer_id"], before)
        )
        for number, known_at in enumerate((before, after)):
            connection.execute(
                "insert into realtime.bank_movements values (-1, %s, %s, %s, 'BRL', %s)",
                (before, number, known_at, 10**number),
            )
        for model, score, at in (
            ("behaviour-1", 600, before),
            ("scorecard-1", 100, before),
            ("behaviour-1", 900, after),
        ):
            connection.execute(
                "insert into app.risk_evaluations (evaluation_id, order_id, provider, model_version, score,"
                " decision, evaluated_at, created_at) values (gen_random_uuid(), %s, 'x', %s, %s, 'review', %s, %s)",
                (order["order_id"], model, score, at, at),
            )

        found = connection.execute(query, ([order["order_id"]],)).fetchone()

    assert found["monthly_income"] == 1111
    assert (found["bank_transactions_90d_at_request"], found["bank_inflow_90d_at_request"]) == (1, 1)
    assert found["prior_risk_score_mean"] == 600


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("approved", "rejected"),
        ("approved", "in_review"),
        ("rejected", "in_review"),
        ("rejected", "approved"),
    ],
)
def test_the_database_forbids_it(stack: Stack, before: str, after: str) -> None:
    change = (
        "update app.credit_orders set status = %s where order_id ="
        " (select order_id from app.credit_orders where status = %s limit 1)"
    )
    with stack.connect() as connection, pytest.raises(psycopg.errors.CheckViolation, match="cannot go from"):
        connection.execute(change, (after, before))


@pytest.mark.parametrize(
    "change", ["update app.credit_order_events set seq = 9", "delete from app.credit_order_events"]
)
def test_events_are_never_changed(stack: Stack, change: str) -> None:
    with stack.connect() as connection, pytest.raises(psycopg.errors.CheckViolation, match="append-only"):
        connection.execute(change)


def test_partitions_are_made_ahead_and_dropped_when_nothing_waits(stack: Stack) -> None:
    with stack.connect() as connection:
        assert connection.execute("select realtime.ensure_partitions(4)").fetchone() == (4,)
        assert connection.execute("select realtime.ensure_partitions(4)").fetchone() == (0,)
        connection.execute(
            "create table realtime.outbox_2020_01 partition of realtime.outbox"
            " for values from ('2020-01-01 00:00+00') to ('2020-02-01 00:00+00')"
        )
        connection.execute(
            "insert into realtime.outbox (order_id, customer_id, created_at, available_at)"
            " select order_id, customer_id, '2020-01-05', '2100-01-01' from app.credit_orders limit 1"
        )
        assert connection.execute("select realtime.drop_old_outbox(3)").fetchone() == (0,)
        connection.execute("update realtime.outbox set done_at = now() where created_at < '2021-01-01'")
        assert connection.execute("select realtime.drop_old_outbox(3)").fetchone() == (1,)


def test_orders_are_taken_in_though_nobody_has_made_the_months_partition(
    stack: Stack, people: Iterator
) -> None:
    stack.wait_until_decided()
    assert stack.ask_to_stop("service") == 0
    with stack.connect() as connection:
        names = [
            row[0]
            for row in connection.execute(
                "select c.relname from pg_inherits as i join pg_class as c on c.oid = i.inhrelid"
                " where i.inhparent = 'realtime.outbox'::regclass"
            ).fetchall()
        ]
        connection.execute("".join(f"drop table realtime.{name};" for name in names))
    stack.start("service")
    stack.wait_until_healthy(["service"])

    partner, cpf = next(people)
    body = order_body(RNG, cpf)

    assert post(stack, partner, body)[0] == 202
    stack.wait_until_decided()


def test_the_service_is_not_well_where_it_can_make_no_partitions(stack: Stack) -> None:
    with stack.connect() as connection:
        connection.execute("alter function realtime.ensure_partitions(int) rename to ensured")
        assert stack.ask_to_stop("service") == 0
        stack.start("service")
        deadline = time.monotonic() + PATIENCE
        while (said := _health(stack)) is None and time.monotonic() < deadline:
            time.sleep(0.1)
        connection.execute("alter function realtime.ensured(int) rename to ensure_partitions")

    assert said[0] == 503
    assert "python -m realtime migrate" in said[1]
    assert stack.ask_to_stop("service") == 0
    stack.start("service")
    stack.wait_until_healthy(["service"])


def _health(stack: Stack) -> tuple[int, str] | None:
    try:
        answer = httpx.get(f"{stack.url}/healthz", timeout=5)
    except httpx.HTTPError:
        return None
    is_starting = "the database is away" in answer.text
    return None if is_starting else (answer.status_code, answer.text)


def test_the_queue_keeps_the_order_of_a_customer_and_delivers_again(stack: Stack) -> None:
    with stack.connect() as connection:
        assert stack.ask_to_stop("worker") == 0
        ids = [
            row[0]
            for row in connection.execute(
                "select order_id from app.credit_orders where status <> 'in_review' limit 3"
            ).fetchall()
        ]
        for order_id, customer_id in zip(ids, (1, 1, 2), strict=True):
            connection.execute(
                "insert into realtime.outbox (order_id, customer_id) values (%s, %s)", (order_id, customer_id)
            )

    async def play(pool: Any) -> None:
        queue = PostgresQueue(stack.dsn, pool, lease=0.5)
        first, third = await queue.receive(10)
        assert [first.order_id, third.order_id] == [ids[0], ids[2]]
        assert await queue.receive(10) == []  # the second waits for the first, which is leased
        await asyncio.sleep(0.6)
        again = await queue.receive(1)  # nobody acknowledged it
        assert [(m.order_id, m.attempts) for m in again] == [(ids[0], 2)]
        await queue.acknowledge(again)
        second, third = await queue.receive(10)
        assert (second.order_id, third.order_id) == (ids[1], ids[2])
        await queue.release([second], 0, forget=True)
        assert [m.attempts for m in await queue.receive(10)] == [1]
        await queue.bury(second, "a test")
        await queue.acknowledge([third])
        assert await replay_dead_letters(pool, ids[0]) == 0
        assert await replay_dead_letters(pool) == 1
        assert await replay_dead_letters(pool) == 0
        assert [m.order_id for m in await queue.receive(10)] == [ids[1]]

    run(stack, play)
    stack.start("worker")
    stack.wait_until_decided()  # orders that are decided already: nothing happens to them
    with stack.connect() as connection:
        connection.execute("delete from realtime.dead_letters")


def test_a_long_queue_is_read_by_its_indexes_before_it_has_statistics(stack: Stack) -> None:
    claim = _RECEIVE.replace("$1", "100").replace("$2", "interval '0 s'")

    def steps(settings: dict[str, str]) -> str:
        with stack.connect() as connection, connection.transaction(force_rollback=True):
            for name, value in settings.items():
                connection.execute("select set_config(%s, %s, true)", (name, value))
            # PostgreSQL looks while nothing waits.
            connection.execute(
                "insert into realtime.outbox (order_id, customer_id, done_at)"
                " select gen_random_uuid(), -n, now() from generate_series(1, 5000) as n"
            )
            connection.execute("analyze realtime.outbox")
            connection.execute(
                "insert into realtime.outbox (order_id, customer_id, available_at)"
                " select gen_random_uuid(), -n, now() - interval '1 s' from generate_series(1, 20000) as n"
            )
            plan = connection.execute("explain (costs off) " + claim).fetchall()
        return "\n".join(row[0] for row in plan)

    plan = steps(BY_INDEX)
    assert "Hash" not in plan
    assert "Sort Method" not in plan
    assert "Materialize" not in plan  # all that waits, once for each that is taken
    assert "Index Cond: ((customer_id = " in plan
    assert plan.count("Index Scan using") >= 3


def test_what_is_delivered_again_is_not_decided_again(stack: Stack, people: Iterator) -> None:
    for status in ("approved", "in_review"):
        decided(stack, people, status)
    count = (
        "select (select count(*) from app.risk_evaluations), (select count(*) from app.credit_order_events),"
        " (select max(updated_at) from app.credit_orders)"
    )
    with stack.connect() as connection:
        before = connection.execute(count).fetchone()
        again = connection.execute(
            "insert into realtime.outbox (order_id, customer_id)"
            " select order_id, customer_id from app.credit_orders where metadata ? 'device_id'"
        ).rowcount
        stack.wait_until_decided()
        assert again >= 2
        assert connection.execute(count).fetchone() == before


def test_an_order_that_nobody_can_decide_becomes_a_dead_letter(stack: Stack, people: Iterator) -> None:
    partner, cpf = next(people)
    with stack.connect() as connection:
        order_id = connection.execute(
            "insert into app.credit_orders (order_id, customer_id, partner_id, product, currency,"
            " requested_amount, term_months, status, created_at, updated_at)"
            " select gen_random_uuid(), customer_id, partner_id, 'yacht_loan', 'BRL', 1000, 12, 'in_review',"
            " '2026-01-01', '2026-01-01' from app.customers where cpf = %s returning order_id",
            (cpf,),
        ).fetchone()[0]
        connection.execute(
            "insert into realtime.outbox (order_id, customer_id, attempts)"
            " select order_id, customer_id, 9 from app.credit_orders where order_id = %s",
            (order_id,),
        )
        body = order_body(RNG, cpf)
        assert post(stack, partner, body)[0] == 202  # the customer's next order is not held up
        stack.wait_until_decided()
        error = connection.execute(
            "delete from realtime.dead_letters where order_id = %s returning error", (order_id,)
        ).fetchone()[0]

    assert error.startswith("product_terms.csv has no terms of this product")
    assert get(stack, partner, str(order_id))[1]["status"] == "in_review"
    assert len(events(stack, body["order_id"])) == 2


def test_while_the_bureau_is_down_orders_stay_in_review(stack: Stack, people: Iterator) -> None:
    stack.kill("bureau")
    partner, cpf = next(people)
    body = order_body(RNG, cpf)
    assert post(stack, partner, body)[0] == 202
    time.sleep(3)
    assert events(stack, body["order_id"]) == [(1, "created", None, "in_review", "customer")]

    stack.start("bureau")
    stack.wait_until_decided()

    assert len(events(stack, body["order_id"])) == 2
    with stack.connect() as connection:
        assert connection.execute("select count(*) from realtime.dead_letters").fetchone() == (0,)


def test_what_is_under_way_is_finished_on_sigterm(stack: Stack, people: Iterator) -> None:
    bodies = [(partner, order_body(RNG, cpf)) for partner, cpf in (next(people) for _ in range(40))]
    answers: list[Any] = []

    def send(order: tuple[str, dict[str, Any]]) -> None:
        try:
            answers.append((order[1]["order_id"], post(stack, *order)[0]))
        except OSError:
            answers.append((order[1]["order_id"], None))

    threads = [threading.Thread(target=send, args=(order,)) for order in bodies]
    for number, thread in enumerate(threads):
        thread.start()
        if number == 20:
            stack.process("service").send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()

    assert stack.ask_to_stop("service") == 0
    assert stack.ask_to_stop("worker") == 0
    accepted = {order_id for order_id, status in answers if status == 202}
    assert accepted
    assert {status for _, status in answers} <= {202, None}
    with stack.connect() as connection:
        stored = {
            str(row[0])
            for row in connection.execute(
                "select order_id from app.credit_orders where order_id = any(%s)",
                ([body["order_id"] for _, body in bodies],),
            ).fetchall()
        }
        leased = connection.execute(
            "select count(*) from realtime.outbox where done_at is null and attempts > 0"
        ).fetchone()[0]
    assert stored == accepted  # nobody was cut off after the order was stored
    assert leased == 0
    for name in ("service", "worker"):
        stack.start(name)
    stack.wait_until_healthy()
    stack.wait_until_decided()


def test_health_metrics_and_logs_without_personal_data(stack: Stack) -> None:
    for port in (stack.port, stack.worker_port):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
            text = response.read().decode()
        assert "realtime_" in text
    log = (stack.folder / "log").read_text()
    assert '"event": "serving"' in log
    assert [cpf for _, cpf in stack.customers() if cpf in log] == []
    assert [key for key in stack.keys.values() if key in log] == []


def test_traces_and_figures_go_out_over_otlp(stack: Stack, people: Iterator) -> None:
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    received: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            received.append((self.path, body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    collector = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=collector.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{collector.server_port}"
    partner, cpf = next(people)
    body = order_body(RNG, cpf)
    caller = "4bf92f3577b34da6a3ce929d0e0e4736"
    try:
        stack.environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": url}
        for name in ("service", "worker"):
            assert stack.ask_to_stop(name) == 0
            stack.start(name)
        stack.wait_until_healthy()
        headers = {"traceparent": f"00-{caller}-00f067aa0ba902b7-01"}
        assert call(stack, "POST", "/v1/credit-orders", body, stack.keys[partner], **headers)[0] == 202
        stack.wait_until_decided()
    finally:
        stack.environment = {}
        for name in ("service", "worker"):
            assert stack.ask_to_stop(name) == 0  # what is left is sent at the end
            stack.start(name)
        stack.wait_until_healthy()
        collector.shutdown()
        thread.join()
        collector.server_close()

    spans: dict[str, Any] = {}
    figures: dict[str, list[Any]] = {}
    for path, content in received:
        if path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(content).resource_spans:
                spans |= {s.name: s for scope in resource.scope_spans for s in scope.spans}
        elif path == "/v1/metrics":
            for resource in ExportMetricsServiceRequest.FromString(content).resource_metrics:
                for scope in resource.scope_metrics:
                    for figure in scope.metrics:
                        figures.setdefault(figure.name, []).append(figure)
    posted = spans["POST post_order"]
    assert posted.trace_id.hex() == caller
    assert {"decide orders", "ask the bureau", "record decisions", "store orders"} <= spans.keys()
    assert spans["ask the bureau"].parent_span_id == spans["decide orders"].span_id
    assert max(f.sum.data_points[0].as_double for f in figures["realtime_orders_accepted"]) == 1
    durations = [p for f in figures["realtime_http_seconds"] for p in f.histogram.data_points]
    assert all(sum(p.bucket_counts) == p.count for p in durations)
    assert max(p.count for p in durations) >= 1
    everything = b"".join(content for _, content in received)
    assert [c for _, c in stack.customers() if c.encode() in everything] == []
    assert stack.keys[partner].encode() not in everything


def test_the_next_ingestion_run_lands_these_orders(stack: Stack, new_folder: Callable[[str], Path]) -> None:
    lake = new_folder("lake")
    env = {k: v for k, v in stack.env.items() if k not in SETTINGS} | {
        "SOURCE_DSN": stack.dsn,
        "LAKE": str(lake),
        "LOG_FORMAT": "text",
    }

    def ingestion(*arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "ingestion", *arguments, "--table", "app"],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    ingestion("run", "--date", "2026-01-01")
    ingestion("verify")

    with stack.connect() as connection:
        for table, key in (
            ("credit_orders", "order_id"),
            ("credit_order_events", "order_id, seq"),
            ("risk_evaluations", "evaluation_id"),
        ):
            landed = duckdb.sql(
                f"select count(*), count(distinct ({key})) from '{lake}/raw/app/{table}/*/*.parquet'"
            ).fetchall()[0]
            rows = connection.execute(f"select count(*) from app.{table}").fetchone()[0]
            assert landed == (rows, rows), table


def test_nothing_is_lost_or_decided_twice_whatever_is_killed(stack: Stack) -> None:
    with stack.connect() as connection:  # orders of the tests above are no business of this one
        connection.execute("update app.credit_orders set metadata = '{}' where metadata ? 'device_id'")
        connection.execute("update app.risk_evaluations set provider = 'before' where provider = 'policy'")
    campaign = Campaign(stack, seed=5, seconds=4, rate=30, every=0.7)

    problems = campaign.run()

    print(campaign.summary())
    assert problems == []
    assert len(campaign.log) > 100
    campaign.kills.clear()
    assert campaign.problems() == ["never killed: bureau, postgres, service, worker"]
