"""What the dashboard asks of the tables: figures to begin with, older orders, the story of one."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg
import msgspec

from realtime.dashboard.feed import Feed, Row, Snapshot, cents, milliseconds
from realtime.dashboard.figures import KEPT, Figures, Filter, bucket
from realtime.policy import REASONS as TEXTS
from realtime.review import criteria

RECENT = 2000
"""Orders that are kept in memory for viewers to begin with."""
_PERSONAL = re.compile(r"[^\s@]+@[^\s@]+|[0-9]{3}\.?[0-9]{3}\.?[0-9]{3}-?[0-9]{2}", re.ASCII)

# What is new to a standby is told by the transactions themselves: its snapshots do not name those that run.
_PLACE = """
select
    pg_is_in_recovery() as is_standby,
    pg_current_snapshot()::text as snapshot,
    array(
        select distinct f.xid::text::bigint
        from realtime.feed as f
        where f.xid >= pg_snapshot_xmin(pg_current_snapshot())
    ) as seen
"""
_BUCKET = "date_trunc($2, o.created_at, case $2 when 'day' then 'America/Sao_Paulo' else 'UTC' end)"
FIGURES = f"""
select
    {_BUCKET} as bucket, o.partner_id, o.product, o.currency, o.status,
    case
        when o.decided_at is not null
            then ceil(
                ln(greatest(extract(epoch from o.decided_at - o.created_at) * 1000, 1)::float8)
                / ln(1.05::float8)
            )::int
    end as step,
    count(*)::int as orders,
    sum(o.requested_amount * 100)::bigint as requested,
    coalesce(sum(o.approved_amount * 100), 0)::bigint as approved
from app.credit_orders as o
where o.updated_at >= $1 and o.created_at >= $1
group by 1, 2, 3, 4, 5, 6
"""  # noqa: S608
REASONS = f"""
select {_BUCKET} as bucket, o.partner_id, o.product, o.currency, code, count(*)::int as orders
from app.credit_orders as o
cross join lateral (
    select e.reason_codes
    from app.risk_evaluations as e
    where e.order_id = o.order_id and e.decision = 'reject'
    order by e.evaluated_at
    limit 1
) as first
cross join lateral unnest(first.reason_codes) as code
where o.updated_at >= $1 and o.created_at >= $1 and o.status = 'rejected'
group by 1, 2, 3, 4, 5
"""  # noqa: S608
_ORDER = """
    0::bigint as xid, o.order_id::text, 0 as seq, o.status as event_type, null as from_status,
    o.status as to_status, o.updated_at as occurred_at, o.partner_id, o.product, o.currency,
    o.requested_amount, o.approved_amount, o.created_at, o.decided_at, r.reason_codes
from {orders} as o
left join lateral (
    select e.reason_codes
    from app.risk_evaluations as e
    where e.order_id = o.order_id and e.decision = 'reject'
    order by e.evaluated_at
    limit 1
) as r on o.status = 'rejected'
"""
_NEWEST = "(select * from app.credit_orders order by updated_at desc limit $1)"
_RECENT = "select" + _ORDER.replace("{orders}", _NEWEST)
_LIST = (
    "select"
    + _ORDER.replace("{orders}", "app.credit_orders")
    + """
where
    o.updated_at >= $1 and o.created_at >= $1 and o.created_at < $2
    and ($3::text is null or o.partner_id = $3)
    and ($4::text is null or o.partner_id = $4)
    and ($5::text is null or o.product = $5)
    and ($6::text is null or o.status = $6)
    and ($7::timestamptz is null or (o.created_at, o.order_id) < ($7, $8::uuid))
order by o.created_at desc, o.order_id desc
limit $9
"""
)
_STORY = """
select
    order_id::text, partner_id, status, product, purpose, currency, requested_amount, approved_amount,
    term_months, interest_rate, policy_version, created_at, decided_at, disbursed_at
from app.credit_orders
where order_id = $1 and ($2::text is null or partner_id = $2)
"""
_EVENTS = """
select seq, event_type, from_status, to_status, actor, payload, occurred_at
from app.credit_order_events
where order_id = $1
order by seq
"""
_EVALUATIONS = """
select provider, decision, score, model_version, reason_codes, raw_response, latency_ms, evaluated_at
from app.risk_evaluations
where order_id = $1
order by evaluated_at, created_at
"""
_HEALTH = """
select
    (select count(*) from realtime.outbox where done_at is null) as waiting,
    (
        select coalesce(extract(epoch from clock_timestamp() - min(created_at)), 0)::float8
        from realtime.outbox
        where done_at is null
    ) as oldest_seconds,
    (select count(*) from realtime.dead_letters where replayed_at is null) as dead_letters,
    count(*) as workers,
    bool_and(w.bureau_is_up) as bureau_is_up
from realtime.workers as w
where w.seen_at > clock_timestamp() - interval '20 seconds'
"""


@dataclass(frozen=True)
class Base:
    """What the tables said at one moment."""

    figures: Figures
    recent: list[Row]
    place: Snapshot
    seen: frozenset[int] | None
    """Of a standby: the transactions from `place.xmax` on that it had."""

    def has(self, row: Row) -> bool:
        """Whether this event is in it already."""
        return self.place.sees(row.xid) or (self.seen is not None and row.xid in self.seen)


async def read_base(pool: asyncpg.Pool, now: datetime) -> Base:
    """Reads figures and the last orders, all of one moment, and which moment it was."""
    async with (
        pool.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        place = await connection.fetchrow(_PLACE)
        figures = Figures()
        for grain, kept in KEPT.items():
            since = bucket(grain, now - kept)
            figures.load(grain, await connection.fetch(FIGURES, since, grain, timeout=300))
            figures.load_reasons(grain, await connection.fetch(REASONS, since, grain, timeout=300))
        recent = [Row(row) for row in await connection.fetch(_RECENT, RECENT)]
    if place["is_standby"]:
        horizon = int(place["snapshot"].split(":")[0])
        return Base(figures, recent, Snapshot(horizon, frozenset()), frozenset(place["seen"]))
    return Base(figures, recent, Snapshot.parse(place["snapshot"]), None)


def join(base: Base, feed: Feed, now: datetime) -> list[Row] | None:
    """Brings a base up to what the feed has read; None where the feed does not reach back so far."""
    if not feed.covers(base.place):
        return None
    since = [row for row in feed.rows() if not base.has(row)]
    for row in since:
        base.figures.apply(row, now)
    return since


async def list_orders(
    pool: asyncpg.Pool,
    wanted: Filter,
    since: datetime,
    until: datetime,
    after: tuple[datetime, str] | None,
    limit: int,
) -> list[Row]:
    """Orders requested from `since` until before `until`, the newest first, after a place in that order."""
    rows = await pool.fetch(
        _LIST,
        since,
        until,
        wanted.scope,
        wanted.partner,
        wanted.product,
        wanted.status,
        *(after or (None, None)),
        limit,
    )
    return [Row(row) for row in rows]


async def tell_story(pool: asyncpg.Pool, order_id: str, scope: str | None) -> dict[str, Any] | None:
    """All that happened to an order; None where there is none that this viewer may see.

    A partner sees what it sees over the API: status and reasons, but neither who reviewed nor what the
    decision was made of.
    """
    async with pool.acquire() as connection:
        order = await connection.fetchrow(_STORY, order_id, scope)
        if order is None:
            return None
        events = await connection.fetch(_EVENTS, order_id)
        evaluations = await connection.fetch(_EVALUATIONS, order_id)
    return {
        **order,
        "created_at": milliseconds(order["created_at"]),
        "decided_at": milliseconds(order["decided_at"]) if order["decided_at"] else None,
        "disbursed_at": milliseconds(order["disbursed_at"]) if order["disbursed_at"] else None,
        "requested_amount": cents(order["requested_amount"]),
        "approved_amount": None if order["approved_amount"] is None else cents(order["approved_amount"]),
        "interest_rate": None if order["interest_rate"] is None else float(order["interest_rate"]),
        "events": [_event(event, scope is None) for event in events],
        "evaluations": [_evaluation(e, scope is None) for e in evaluations],
    }


def _event(event: asyncpg.Record, for_staff: bool) -> dict[str, Any]:
    payload = msgspec.json.decode(event["payload"] or "{}")
    told = {
        "seq": event["seq"],
        "type": event["event_type"],
        "from": event["from_status"],
        "to": event["to_status"],
        "actor": event["actor"],
        "at": milliseconds(event["occurred_at"]),
    }
    if for_staff:
        told |= {"reviewer": payload.get("reviewer"), "reason": without_personal(payload.get("reason"))}
    return told


def _evaluation(evaluation: asyncpg.Record, for_staff: bool) -> dict[str, Any]:
    told = {
        "provider": evaluation["provider"],
        "decision": evaluation["decision"],
        "at": milliseconds(evaluation["evaluated_at"]),
        "reasons": [{"code": code, "text": TEXTS.get(code, code)} for code in evaluation["reason_codes"]],
    }
    if for_staff:
        # Evaluations of before this service may hold anything: only what we have written ourselves is shown.
        ours = evaluation["provider"] == "policy"
        told |= {
            "score": evaluation["score"],
            "model_version": evaluation["model_version"],
            "latency_ms": evaluation["latency_ms"],
            "inputs": criteria(evaluation)["inputs"] if ours else None,
        }
    return told


def without_personal(text: str | None) -> str | None:
    """A text of a person without what looks like a CPF or an e-mail address."""
    return _PERSONAL.sub("•••", text) if text else text


async def read_health(pool: asyncpg.Pool) -> dict[str, Any]:
    """How queue, workers and bureau are; `bureau_is_up` is None where no worker lives to say it."""
    return dict(await pool.fetchrow(_HEALTH))


COLUMNS: Sequence[str] = (
    "order_id",
    "requested_at",
    "partner",
    "product",
    "status",
    "currency",
    "requested_amount",
    "approved_amount",
    "decided_at",
    "reasons",
)


def write_csv(rows: Sequence[Row]) -> bytes:
    """Orders as CSV (RFC 4180, UTF-8 with its mark, so that spreadsheets read it); no cell is a formula."""
    lines = [",".join(COLUMNS)]
    for row in rows:
        cells = (
            row.order_id,
            row.created_at.isoformat(timespec="milliseconds"),
            row.partner_id,
            row.product,
            row.status,
            row.currency,
            f"{row.requested / 100:.2f}",
            f"{row.approved / 100:.2f}" if row.status == "approved" else "",
            row.decided_at.isoformat(timespec="milliseconds") if row.decided_at else "",
            " ".join(row.reasons),
        )
        lines.append(",".join(_cell(cell) for cell in cells))
    return ("\ufeff" + "\r\n".join(lines) + "\r\n").encode()


def _cell(text: str) -> str:
    if text[:1] in "=+-@\t\r" and text:
        text = "'" + text
    return '"' + text.replace('"', '""') + '"' if re.search(r'[",\r\n]', text) else text
