"""The sandbox's third parties: what the credit bureau and the PTAX service promise over HTTP."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from operator import itemgetter
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox import control
from sandbox.files import Folder
from sandbox.settings import Settings as SandboxSettings
from sandbox.third_party import bureau, ptax
from sandbox.third_party.faults import Faults, Mischief
from sandbox.third_party.server import Call, ThirdPartyServer, create_server
from sandbox.worlds.risk import latent_risk

KEY = "a-key-that-nobody-may-see"
LAST_DAY = date(2025, 12, 31)
CPF = "52998224725"
ZONE = ZoneInfo("America/Sao_Paulo")


@contextmanager
def serving(
    world: str = "synthetic", seed: int = 7, day: date = LAST_DAY, **limits: Any
) -> Iterator[tuple[ThirdPartyServer, list[str]]]:
    """A running server and the lines of its log."""
    lines: list[str] = []
    server = create_server(world, seed, day, 0, KEY, log=lines.append, **limits)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server, lines
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def shared() -> Iterator[ThirdPartyServer]:
    """A server that no test changes."""
    with serving(requests_per_second=10_000, burst=10_000) as (server, _):
        yield server


@pytest.fixture
def ask(client: httpx.Client) -> Callable[..., httpx.Response]:
    """Ask the bureau."""

    def ask(
        server: ThirdPartyServer, subjects: Any, token: str | None = None, key: str | bytes = KEY
    ) -> httpx.Response:
        body = {"subjects": subjects, "page_token": token}
        return client.post(server.url + bureau.PATH, json=body, headers={"X-Api-Key": key})

    return ask


@pytest.fixture
def quote(client: httpx.Client) -> Callable[..., list[dict[str, Any]]]:
    """The bulletins of a currency, as text that still shows every digit."""

    def quote(
        server: ThirdPartyServer, currency: str, first: str, last: str, more: str = ""
    ) -> list[dict[str, Any]]:
        query = f"?@moeda='{currency}'&@dataInicial='{first}'&@dataFinalCotacao='{last}'&$format=json{more}"
        response = client.get(server.url + ptax.PATH + query)
        assert response.status_code == 200, response.text
        return json.loads(response.text, parse_float=Decimal)["value"]

    return quote


def subject(
    cpf: str = CPF, consented_at: str = "2025-10-01T12:00:00Z", after: str | None = None
) -> dict[str, Any]:
    return {"cpf": cpf, "consented_at": consented_at, "after": after}


def people(count: int, **given: Any) -> list[dict[str, Any]]:
    return [subject(f"{10_000_000_000 + i * 7919}", **given) for i in range(count)]


def times(response: httpx.Response) -> list[str]:
    return [r["queried_at"][:19] for r in response.json()["data"]]


# ---------- bureau ----------


def test_bureau_wants_its_key_and_keeps_the_connection(client, ask):
    with serving() as (server, _):
        assert client.post(server.url + bureau.PATH, json={"subjects": []}).status_code == 401
        assert ask(server, [subject()], key="wrong").status_code == 401
        assert ask(server, [subject()], key="inválida".encode()).status_code == 401
        assert ask(server, [subject()]).status_code == 200


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{", "JSON"),
        (b"[]", "subjects"),
        ({"subjects": {}}, "subjects"),
        ({"subjects": [CPF]}, "subjects[0]"),
        ({"subjects": [subject(cpf="529.982.247-25")]}, "subjects[0].cpf"),
        ({"subjects": [subject(cpf="٥٢٩٩٨٢٢٤٧٢٥")]}, "subjects[0].cpf"),
        ({"subjects": [subject(), subject()]}, "twice"),
        ({"subjects": [subject(consented_at="2025-10-01T12:00:00")]}, "consented_at"),
        ({"subjects": [subject(consented_at=None)]}, "consented_at"),
        ({"subjects": [subject(after="yesterday")]}, "after"),
        ({"subjects": people(501)}, "500"),
        ({"subjects": [subject()], "page_token": "1.1.00000000"}, "page_token"),
        ({"subjects": [subject()], "page_token": 7}, "page_token"),
    ],
)
def test_bureau_refuses_what_is_malformed(client, shared, body, field):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = client.post(shared.url + bureau.PATH, content=content, headers={"X-Api-Key": KEY})
    assert response.status_code == 422
    assert field in response.json()["error"]["message"]
    assert CPF not in response.text


def test_bureau_limits_its_rate_and_says_how_long_to_wait(ask, quote):
    with serving(requests_per_second=0.5, burst=3) as (server, _):
        answers = [ask(server, [subject()]) for _ in range(4)]
        assert [a.status_code for a in answers] == [200, 200, 200, 429]
        assert answers[3].headers["Retry-After"] == "2"
        assert quote(server, "USD", "12-30-2025", "12-30-2025"), "the central bank has no such limit"


def test_bureau_records_a_person_every_30_days_from_the_consent_on(shared, ask):
    due = ["2025-10-01T12:00:00", "2025-10-31T12:00:00", "2025-11-30T12:00:00", "2025-12-30T12:00:00"]
    assert times(ask(shared, [subject()])) == due
    assert times(ask(shared, [subject(after="2025-09-01T00:00:00Z")])) == due
    assert times(ask(shared, [subject(after="2025-10-31T11:59:59.999999Z")])) == due[1:]
    assert times(ask(shared, [subject(after="2025-10-31T09:00:00-03:00")])) == due[2:]
    assert times(ask(shared, [subject(after="2025-12-30T12:00:00Z")])) == []
    assert times(ask(shared, [subject(consented_at="2026-01-02T12:00:00Z")])) == []
    assert times(ask(shared, [])) == []


def test_bureau_knows_nothing_after_the_worlds_day_in_local_time(ask):
    last, too_late = (
        subject(consented_at="2026-01-01T02:59:59.999999Z"),
        subject("11144477735", "2026-01-01T03:00:00Z"),
    )
    with serving() as (server, _):
        assert [r["cpf"] for r in ask(server, [last, too_late]).json()["data"]] == [CPF]
        server.world_date = date(2026, 1, 1)
        assert len(ask(server, [last, too_late]).json()["data"]) == 2


def test_bureau_pages_hold_every_record_once(shared, ask):
    subjects = people(30, consented_at="2024-07-01T12:00:00Z")
    pages, token = [], None
    while not pages or token:
        answer = ask(shared, subjects, token).json()
        pages.append(answer["data"])
        token = answer["next_page_token"]
    assert [len(p) for p in pages] == [200, 200, 170]
    keys = [(r["cpf"], r["queried_at"]) for page in pages for r in page]
    assert len(set(keys)) == 30 * 19
    alone = [r for s in subjects for r in ask(shared, [s]).json()["data"]]
    assert [r for page in pages for r in page] == alone, "company does not change a record"


def test_bureau_pages_shift_not_when_a_day_passes(ask):
    subjects = people(60, consented_at="2025-09-03T12:00:00Z")  # a record is due on 2026-01-01
    with serving() as (server, _):
        first = ask(server, subjects).json()
        server.world_date = date(2026, 1, 1)
        second = ask(server, subjects, first["next_page_token"]).json()
        got = {(r["cpf"], r["queried_at"]) for r in first["data"] + second["data"]}
        assert len(got) == len(first["data"] + second["data"])
        assert second["next_page_token"] is None
    with serving() as (server, _):
        before = {(r["cpf"], r["queried_at"]) for s in subjects for r in ask(server, [s]).json()["data"]}
    assert before <= got


def test_bureau_answers_follow_from_seed_and_request(ask):
    subjects = people(20)
    with serving() as (one, _), serving() as (two, _), serving(seed=8) as (other, _):
        assert ask(one, subjects).content == ask(two, subjects).content
        assert ask(one, subjects).content != ask(other, subjects).content
        past = ask(one, subjects).json()["data"]
        one.world_date = date(2026, 6, 30)
        later = ask(one, subjects).json()["data"]
        assert {json.dumps(r) for r in past} < {json.dumps(r) for r in later}


def test_bureau_records_are_plausible_and_scores_fall_with_risk(shared, ask):
    subjects = people(200, consented_at="2025-12-01T12:00:00Z")
    records = [r for r in ask(shared, subjects).json()["data"] if r["queried_at"].startswith("2025-12-01")]
    for record in records:
        assert record.keys() == {
            "cpf",
            "score",
            "score_version",
            "negative_records",
            "total_debt",
            "queried_at",
        }
        assert 0 <= record["score"] <= 1000
        assert record["negative_records"] >= 0
        assert round(record["total_debt"], 2) == record["total_debt"] >= 0
        assert record["queried_at"].endswith("Z")
    risk = latent_risk(7, [r["cpf"] for r in records])
    assert np.corrcoef(risk, [r["score"] for r in records])[0, 1] < -0.9
    assert np.corrcoef(risk, [r["negative_records"] for r in records])[0, 1] > 0.5


def test_bureau_of_a_real_bank_is_empty_but_not_careless(ask):
    with serving(world="berka", day=date(1998, 12, 7)) as (server, _):
        assert ask(server, [subject()]).json() == {"data": [], "next_page_token": None}
        assert ask(server, [subject("1")]).status_code == 422


MOMENTS = st.datetimes(datetime(2025, 6, 1), datetime(2026, 2, 1), timezones=st.just(UTC))


@settings(max_examples=60, deadline=None)
@given(
    subjects=st.lists(st.tuples(MOMENTS, st.none() | MOMENTS), max_size=60),
    day=st.dates(date(2025, 6, 1), date(2026, 2, 1)),
)
def test_bureau_agrees_with_the_rule_said_naively(subjects, day):
    end = datetime.combine(day + timedelta(days=1), datetime.min.time(), ZONE).astimezone(UTC)
    request = [
        {"cpf": f"{i:011d}", "consented_at": c.isoformat(), "after": a and a.isoformat()}
        for i, (c, a) in enumerate(subjects)
    ]
    expected = []
    for i, (consented_at, after) in enumerate(subjects):
        moment = consented_at
        while moment < end:
            if after is None or moment > after:
                expected.append((f"{i:011d}", moment))
            moment += timedelta(days=30)
    got, token = [], None
    while True:
        body = json.dumps({"subjects": request, "page_token": token}).encode()
        answer = json.loads(bureau.answer(7, end, body).body)
        got += [(r["cpf"], datetime.fromisoformat(r["queried_at"])) for r in answer["data"]]
        token = answer["next_page_token"]
        if token is None:
            break
    assert got == expected


# ---------- central bank ----------


def test_ptax_answers_in_the_services_own_shape(client, shared):
    query = "?@moeda='EUR'&@dataInicial='12-30-2025'&@dataFinalCotacao='12-30-2025'&$format=json"
    response = client.get(shared.url + ptax.PATH + query)
    assert response.headers["Content-Type"] == "application/json;charset=UTF-8"
    assert response.json()["@odata.context"].endswith("$metadata#_CotacaoMoedaPeriodo")
    value = response.json()["value"]
    assert [v["tipoBoletim"] for v in value] == list(ptax.BULLETINS)
    assert [list(v) for v in value] == [
        ["paridadeCompra", "paridadeVenda", "cotacaoCompra", "cotacaoVenda", "dataHoraCotacao", "tipoBoletim"]
    ] * 5
    for v in value:
        assert all(isinstance(v[k], float) for k in list(v)[:4])
        assert re.fullmatch(r"2025-12-30 1[0-3]:\d\d:\d\d\.\d{1,3}", v["dataHoraCotacao"])
        assert 0 < v["cotacaoCompra"] < v["cotacaoVenda"]
    stamps = [v["dataHoraCotacao"] for v in value]
    assert stamps == sorted(stamps)
    assert re.search(r'"cotacaoCompra":\d+\.\d{5},', response.text), "trailing zeros stay"


def test_ptax_has_no_bulletin_on_weekends_and_bank_holidays(shared, quote):
    rows = quote(shared, "USD", "01-01-2025", "12-31-2025")
    days = {date.fromisoformat(r["dataHoraCotacao"][:10]) for r in rows}
    assert not [d for d in days if d.weekday() > 4]
    carnival, corpus_christi = {date(2025, 3, 3), date(2025, 3, 4)}, {date(2025, 6, 19)}
    fixed = {date(2025, m, d) for m, d in ((1, 1), (4, 18), (4, 21), (5, 1), (11, 20), (12, 25))}
    assert not days & (carnival | corpus_christi | fixed)
    assert days >= {date(2025, 3, 5), date(2025, 12, 24), date(2025, 12, 31)}, (
        "the bank works, the exchange not"
    )
    assert len(days) == 261 - 9, "weekdays of the year less these holidays"
    assert len(rows) == 5 * len(days)


def test_ptax_knows_no_future_and_nothing_before_its_first_day(quote):
    with serving(day=date(2025, 12, 30)) as (server, _):
        assert {r["dataHoraCotacao"][:10] for r in quote(server, "USD", "12-30-2025", "12-31-2030")} == {
            "2025-12-30"
        }
        assert quote(server, "USD", "12-31-2025", "12-31-2025") == []
        server.world_date = LAST_DAY
        assert len(quote(server, "USD", "12-31-2025", "12-31-2025")) == 5
        assert quote(server, "USD", "01-01-2020", "12-01-2023")[0]["dataHoraCotacao"][:10] == "2023-12-01"
        assert quote(server, "USD", "12-31-2025", "12-30-2025") == []


def test_ptax_rates_depend_on_the_seed_alone(quote):
    period = ("01-02-2024", "12-30-2025")
    with serving() as (one, _), serving(day=date(2027, 3, 1)) as (later, _), serving(seed=8) as (other, _):
        assert quote(one, "GBP", *period) == quote(later, "GBP", *period)
        assert quote(one, "GBP", *period) != quote(other, "GBP", *period)


def test_ptax_rates_move_like_rates(shared, quote):
    closing = {}
    for currency, low, high in (
        ("USD", 2.5, 9),
        ("EUR", 2.5, 10),
        ("GBP", 3, 12),
        ("JPY", 0.01, 0.08),
        ("CZK", 0.1, 0.5),
    ):
        rows = quote(shared, currency, "12-01-2023", "12-31-2025")
        closing[currency] = np.array(
            [float(r["cotacaoVenda"]) for r in rows if r["tipoBoletim"] == "Fechamento"]
        )
        assert low < closing[currency].min() <= closing[currency].max() < high
        assert 0.001 < np.abs(np.diff(closing[currency]) / closing[currency][:-1]).mean() < 0.03
    usd = quote(shared, "USD", "12-30-2025", "12-30-2025")
    windows = [r["cotacaoCompra"] for r in usd[:4]]
    assert abs(usd[4]["cotacaoCompra"] - sum(windows) / 4) <= Decimal("0.0001"), "the mean of the windows"
    assert {r["cotacaoVenda"] - r["cotacaoCompra"] for r in usd} == {Decimal("0.0006")}
    assert {r["paridadeCompra"] for r in usd} == {1}


def test_ptax_pages_add_up(shared, quote):
    period = ("EUR", "12-01-2025", "12-31-2025")
    whole = quote(shared, *period)
    pages = [quote(shared, *period, f"&$top=7&$skip={skip}") for skip in range(0, len(whole) + 7, 7)]
    assert [r for page in pages for r in page] == whole
    assert quote(shared, *period, "&$orderby=dataHoraCotacao%20desc&$top=3") == whole[::-1][:3]
    assert quote(shared, *period, "&$orderby=dataHoraCotacao%20asc") == whole


def test_ptax_is_empty_for_unknown_currencies_and_real_banks(shared, quote):
    assert quote(shared, "XXX", "12-01-2025", "12-31-2025") == []
    with serving(world="berka", day=date(1998, 12, 7)) as (server, _):
        assert quote(server, "USD", "12-01-2025", "12-31-2025") == []
    with serving(day=date(1998, 12, 7)) as (server, _):
        assert quote(server, "USD", "12-01-1998", "12-31-2025") == []


@pytest.mark.parametrize("world", ["synthetic", "berka"])
@pytest.mark.parametrize(
    "wrong",
    [
        {"@moeda": None},
        {"@moeda": "USD"},
        {"@dataInicial": "'2025-12-01'"},
        {"@dataInicial": "'13-01-2025'"},
        {"@dataFinalCotacao": "12-31-2025"},
        {"$format": "xml"},
        {"$top": "-1"},
        {"$skip": "x"},
        {"$orderby": "cotacaoCompra"},
    ],
)
def test_ptax_refuses_bad_parameters(client, world, wrong):
    given = {"@moeda": "'USD'", "@dataInicial": "'12-01-2025'", "@dataFinalCotacao": "'12-31-2025'"} | wrong
    query = "&".join(f"{k}={v}" for k, v in given.items() if v is not None)
    with serving(world=world) as (server, _):
        response = client.get(f"{server.url}{ptax.PATH}?{query}")
    assert response.status_code == 400
    assert next(iter(wrong)) in response.json()["mensagem"]


def test_ptax_refuses_options_it_would_otherwise_ignore(client, shared):
    response = client.get(f"{shared.url}{ptax.PATH}?$filter=true")
    assert response.status_code == 400
    assert "only these parameters are supported" in response.json()["mensagem"]


def test_ptax_understands_percent_encoding(client, shared):
    parameters = {"@moeda": "'USD'", "@dataInicial": "'12-30-2025'", "@dataFinalCotacao": "'12-30-2025'"}
    assert len(client.get(shared.url + ptax.PATH, params=parameters).json()["value"]) == 5
    encoded = ptax.PATH.replace("(", "%28").replace("@", "%40")
    assert len(client.get(shared.url + encoded, params=parameters).json()["value"]) == 5


# ---------- server ----------


def test_unknown_resources_and_methods_are_refused_in_json(client, shared):
    for method, path, status in (
        ("GET", "/", 404),
        ("GET", bureau.PATH, 405),
        ("POST", ptax.PATH, 405),
        ("DELETE", bureau.PATH, 501),
    ):
        response = client.request(method, shared.url + path)
        assert response.status_code == status
        assert response.json()
    response = client.post(shared.url + bureau.PATH, content=iter([b"{}"]), headers={"X-Api-Key": KEY})
    assert response.status_code == 411


def test_log_tells_what_was_asked_without_key_or_cpf(client, ask, quote):
    with serving(requests_per_second=0.001, burst=2) as (server, lines):
        ask(server, [subject()])
        ask(server, [subject(), subject()])
        ask(server, [subject()])
        ask(server, [subject()], key=f"{KEY}-old")
        quote(server, "USD", "12-30-2025", "12-30-2025")
        client.get(f"{server.url}/v1/people/{CPF}?key={KEY}")
        client.get(f"{server.url}{ptax.PATH}?@moeda='{CPF}'&@dataInicial={CPF}")
        with socket.create_connection(server.server_address) as raw:
            raw.sendall(f"{CPF} {KEY} nonsense here\r\n\r\n".encode())
            assert CPF not in raw.recv(4096).decode()
    assert [re.sub(r" [\d.]+ms$", "", line) for line in lines] == [
        "POST bureau 200 subjects=1 records=4",
        "POST bureau 422",
        "POST bureau 429",
        "POST bureau 401",
        "GET ptax 200 period=2025-12-30..2025-12-30 skip=0 rows=5",
        "GET unknown 404",
        "GET ptax 400",
        "- unknown 400",
    ]


def test_server_is_reachable_from_this_machine_only_and_its_port_is_its_own():
    with serving() as (server, _):
        assert server.server_address[0] == "127.0.0.1"
        with pytest.raises(OSError, match="in use"):
            create_server("synthetic", 7, LAST_DAY, server.server_address[1], KEY)


def test_server_starts_without_what_only_rates_need():
    program = (
        "import sys; from datetime import date; from sandbox.third_party.server import create_server;"
        "create_server('synthetic', 7, date(2025, 12, 31), 0, 'key'); print('holidays' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ---------- misbehaviour on request


def misbehaving(rates: dict[str, float], seed: int = 3, **seconds: float) -> Any:
    """A server with these faults; its calls come beside it."""

    @contextmanager
    def run() -> Iterator[tuple[ThirdPartyServer, list[Call], list[str]]]:
        calls: list[Call] = []
        with serving(watch=calls.append) as (server, lines):
            server.mischief.set(Faults(seed, rates, seconds))
            yield server, calls, lines

    return run()


SUBJECTS = people(15, consented_at="2024-12-01T12:00:00Z")


@pytest.mark.parametrize(
    ("fault", "status"), [("storm", {429}), ("error", {500, 502, 503, 504}), ("expire", {401})]
)
def test_faults_that_come_instead_of_an_answer(ask, quote, fault, status):
    with misbehaving({fault: 1}) as (server, _, lines):
        answers = [ask(server, [subject()]) for _ in range(20)]
        assert {a.status_code for a in answers} <= status
        assert len({a.status_code for a in answers}) >= min(2, len(status))
        waits = {a.headers.get("Retry-After") for a in answers}
        assert waits == ({None, "1"} if fault == "storm" else {None})
        assert all(f" fault={fault} " in line for line in lines)
        if fault == "expire":
            assert quote(server, "USD", "12-30-2025", "12-30-2025"), "the central bank has no key"


def test_a_storm_lasts(ask):
    with misbehaving({"storm": 1e-9}, storm=30) as (server, _, _):
        assert ask(server, [subject()]).status_code == 200
        server.mischief.set(Faults(3, {"storm": 1}, {"storm": 30}))
        assert ask(server, [subject()]).status_code == 429
        server.mischief._faults = Faults(3, {"storm": 1e-9}, {"storm": 30})
        assert ask(server, [subject()]).status_code == 429
        server.mischief.set(Faults())
        assert ask(server, [subject()]).status_code == 200


@pytest.mark.parametrize(
    ("fault", "error"), [("hang", httpx.ReadTimeout), ("reset", httpx.ReadError), ("drip", TimeoutError)]
)
def test_faults_of_the_connection(client, fault, error):
    with misbehaving({fault: 1}, drip=600) as (server, calls, _):

        def read() -> None:
            """Read the answer for a second; a dripping one is never silent for long."""
            request = client.build_request(
                "POST",
                server.url + bureau.PATH,
                json={"subjects": SUBJECTS, "page_token": None},
                headers={"X-Api-Key": KEY},
                timeout=0.5,
            )
            began = time.monotonic()
            for _ in client.send(request, stream=True).iter_bytes():
                if time.monotonic() - began > 1:
                    raise TimeoutError

        with pytest.raises(error):
            read()
        while not calls:
            time.sleep(0.01)
        assert calls[0].faults == (fault,)
        assert calls[0].status == (200 if fault == "drip" else 0)


def test_truncated_answers_end_in_the_middle(ask):
    with misbehaving({"truncate": 1}) as (server, _, _):
        answer = ask(server, SUBJECTS)
        assert answer.status_code == 200
        with pytest.raises(json.JSONDecodeError):
            answer.json()


@pytest.mark.parametrize("fault", ["duplicate", "reorder", "retype", "omit", "extend"])
def test_faults_of_records(ask, quote, fault):
    with serving() as (server, _):
        clean = ask(server, SUBJECTS).json()["data"]
        rates = quote(server, "USD", "12-01-2025", "12-30-2025")
    with misbehaving({fault: 0.2 if fault in ("retype", "omit", "extend") else 1}) as (server, _, _):
        for before, after in (
            (clean, ask(server, SUBJECTS).json()["data"]),
            (rates, quote(server, "USD", "12-01-2025", "12-30-2025")),
        ):
            same = sum(b == a for b, a in zip(before, after, strict=False))
            assert before != after
            if fault == "duplicate":
                assert after[: len(before)] == before
                assert all(a in before for a in after)
            elif fault == "reorder":
                order = itemgetter(*(f for f in ("cpf", "queried_at", "dataHoraCotacao") if f in before[0]))
                assert sorted(after, key=order) == sorted(before, key=order)
            else:
                assert len(after) == len(before)
                assert 0.6 < same / len(before) < 0.95
                changed = next((b, a) for b, a in zip(before, after, strict=True) if b != a)
                assert len(changed[1]) - len(changed[0]) == {"retype": 0, "omit": -1, "extend": 1}[fault]


def test_shifted_pages_repeat_the_end_of_the_page_before(ask, quote):
    subjects = people(30, consented_at="2024-07-01T12:00:00Z")
    with misbehaving({"shift": 1}) as (server, _, _):
        first = ask(server, subjects).json()
        second = ask(server, subjects, first["next_page_token"]).json()
        assert second["data"][:3] == first["data"][-3:]
        assert len(second["data"]) == 203
        period = ("USD", "12-01-2025", "12-30-2025")
        whole = quote(server, *period)
        assert quote(server, *period, "&$top=5&$skip=10") == whole[7:12]
        assert quote(server, *period, "&$top=5&$skip=0") == whole[:5]


def test_faults_follow_from_their_seed_and_end_when_told(ask):
    rates = {"error": 0.3, "retype": 0.05, "duplicate": 0.3}

    def play(seed: int) -> list[tuple[int, bytes]]:
        with misbehaving(rates, seed) as (server, _, _):
            return [(a.status_code, a.content) for a in (ask(server, SUBJECTS) for _ in range(12))]

    assert play(1) == play(1)
    assert play(1) != play(2)
    with serving() as (clean, _), misbehaving(rates) as (server, _, _):
        server.mischief.set(Faults())
        assert [ask(server, SUBJECTS).content for _ in range(5)] == [ask(clean, SUBJECTS).content] * 5


def test_faults_come_from_a_file_while_the_server_runs(ask, tmp_path):
    file = tmp_path / "faults.json"
    with serving(faults_file=file) as (server, _):
        assert ask(server, [subject()]).status_code == 200
        file.write_text(json.dumps({"seed": 1, "rates": {"expire": 1}}))
        assert ask(server, [subject()]).status_code == 401
        file.unlink()
        assert ask(server, [subject()]).status_code == 200


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no_such=0.1"], "no such fault: no_such; there are storm,"),
        (["error=2"], "between 0 and 1"),
        (["error"], "write a fault as NAME=RATE"),
        (["error=much"], "write a fault as NAME=RATE"),
        (["error=0.1"], "does not exist"),
    ],
)
def test_faults_misspelt_are_one_line(tmp_path, words, message):
    done = subprocess.run(
        [sys.executable, "-m", "sandbox", "faults", *words],
        env={**os.environ, "SANDBOX_DIR": str(tmp_path), "COLUMNS": "300"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_faults_are_written_for_the_running_world_and_taken_away(tmp_path):
    folder = Folder(tmp_path / "synthetic")
    folder.path.mkdir()
    settings = SandboxSettings(world="synthetic", sandbox_dir=tmp_path, _env_file=None)
    control.misbehave(settings, Faults(4, {"error": 0.1}))
    mischief = Mischief(folder.faults)
    assert mischief.draw("bureau") is not None
    control.misbehave(settings, Faults())
    assert mischief.draw("bureau") is None
    assert not folder.faults.exists()
