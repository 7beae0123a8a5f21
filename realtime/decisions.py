"""Decides orders: gathers what is known, asks the policy, writes evaluation, status and event at once.

To decide an order again changes nothing: the id of its evaluation follows from the order's, and only an order
in review is decided. So a delivery may be repeated, and a process may die between any two steps.
"""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID, uuid5

import asyncpg
import msgspec
from prometheus_client import Counter, Histogram

from realtime import bureau, log
from realtime.bureau import Bureau, Record, Subject
from realtime.database import UNAVAILABLE
from realtime.errors import RealtimeError
from realtime.features import FEATURES, keep_records, make_features
from realtime.policy import Decision, Inputs, Policies, decide
from realtime.settings import Clock
from realtime.telemetry import span

_PROVIDER = "policy"

# What was known at the request, of orders in review that nobody has evaluated; consents as they are now.
_KNOWN = """
select
    o.order_id, o.customer_id, o.product, o.currency, o.requested_amount, o.term_months, o.created_at,
    o.status, c.cpf, consent.granted_at as consented_at,
    evaluated.order_id is not null as is_evaluated,
    customer.orders as customer_orders, customer.amount as customer_amount, device.orders as device_orders
from app.credit_orders as o
join app.customers as c using (customer_id)
left join app.risk_evaluations as evaluated
    on evaluated.evaluation_id = any($2) and evaluated.order_id = o.order_id
left join lateral (
    select min(k.granted_at) as granted_at
    from app.consents as k
    where
        k.customer_id = o.customer_id
        and k.scope = 'bureau'
        and k.granted_at <= o.created_at
        and (k.revoked_at is null or k.revoked_at > $3)
        and (k.expires_at is null or k.expires_at > $3)
) as consent on true
left join lateral (
    select
        count(*) as orders,
        coalesce(sum(p.requested_amount) filter (where p.currency = o.currency), 0) as amount
    from app.credit_orders as p
    where
        p.customer_id = o.customer_id
        and p.created_at > o.created_at - interval '24 hours'
        and (p.created_at, p.order_id) < (o.created_at, o.order_id)
) as customer on true
left join lateral (
    select count(*) as orders
    from app.credit_orders as p
    where
        p.metadata ->> 'device_id' = o.metadata ->> 'device_id'
        and p.created_at > o.created_at - interval '24 hours'
        and (p.created_at, p.order_id) < (o.created_at, o.order_id)
) as device on true
where o.order_id = any($1)
"""

# The event of a change of status is written by the table's trigger.
RECORD = """
with decided as (
    select *
    from jsonb_to_recordset($1) as d (
        evaluation_id uuid, order_id uuid, decision text, status text, score int, provider text,
        model_version text, reason_codes text[], latency_ms int, raw_response jsonb, evaluated_at timestamptz,
        approved_amount numeric, interest_rate numeric, policy_version text
    )
),
locked as (
    select o.order_id
    from app.credit_orders as o
    join decided as d using (order_id)
    where o.status = 'in_review'
    order by o.order_id
    for update of o
),
evaluations as (
    insert into app.risk_evaluations (
        evaluation_id, order_id, provider, model_version, score, decision, reason_codes, latency_ms,
        raw_response, evaluated_at, created_at
    )
    select
        d.evaluation_id, order_id, d.provider, d.model_version, d.score, d.decision, d.reason_codes,
        d.latency_ms, d.raw_response, d.evaluated_at, d.evaluated_at
    from decided as d
    join locked using (order_id)
    on conflict (evaluation_id) do nothing
    returning order_id
),
referred as (
    insert into app.credit_order_events
        (order_id, seq, event_type, from_status, to_status, actor, payload, occurred_at)
    select
        order_id,
        (select max(e.seq) + 1 from app.credit_order_events as e where e.order_id = d.order_id),
        'referred', 'in_review', 'in_review', 'system', jsonb_build_object('reason_codes', d.reason_codes),
        d.evaluated_at
    from decided as d
    join evaluations using (order_id)
    where d.decision = 'review'
),
updated as (
    update app.credit_orders as o
    set
        status = d.status,
        approved_amount = d.approved_amount,
        interest_rate = d.interest_rate,
        policy_version = d.policy_version,
        decided_at = d.evaluated_at,
        updated_at = d.evaluated_at
    from decided as d
    join evaluations using (order_id)
    where o.order_id = d.order_id and d.decision <> 'review'
)
select order_id from evaluations
"""

_STATUS = {"approve": "approved", "reject": "rejected", "review": "in_review"}
_DECIDED = Counter("realtime_decisions_total", "Orders decided", ["outcome"])
_SECONDS = Histogram(
    "realtime_decision_seconds",
    "From an order to its decision",
    buckets=(0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10, 60, 600),
)


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored with a decision, so that it can be made again."""

    request_id: str | None
    """Under which the bureau was asked."""
    inputs: Inputs
    approved_amount: Any = None
    interest_rate: Any = None


@dataclass(frozen=True)
class Outcome:
    """What became of a delivery: `done`, `later` (after `wait` seconds), or `failed` (because of `error`)."""

    kind: Literal["done", "later", "failed"]
    wait: float = 0
    error: str = ""


def evaluation_id(order_id: UUID) -> UUID:
    """The one automatic evaluation that an order can have."""
    return uuid5(order_id, "automatic")


class Decider:
    """Decides orders, each by the policy of its day; a queue's worker, or any other handler, calls it."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        asked: Bureau,
        policies: Policies,
        clock: Clock,
    ) -> None:
        self._pool = pool
        self._bureau = asked
        self._policies = policies
        self._clock = clock

    async def decide(self, order_ids: Collection[UUID]) -> dict[UUID, Outcome]:
        """Decides these orders, at most `bureau.MAX_SUBJECTS`, and says of each what became of it."""
        outcomes = {i: Outcome("failed", error="the order or its customer does not exist") for i in order_ids}
        try:
            now = self._clock.now()
            rows = await self._pool.fetch(
                _KNOWN, list(order_ids), [evaluation_id(order_id) for order_id in order_ids], now
            )
            open_rows = []
            for row in rows:
                if row["status"] != "in_review" or row["is_evaluated"]:
                    outcomes[row["order_id"]] = Outcome("done")
                else:
                    open_rows.append(row)
            stored = {}
            if open_rows:
                found = await self._pool.fetch(FEATURES, [row["order_id"] for row in open_rows])
                stored = {row["order_id"]: row for row in found}
            asked_rows = await self._ask(open_rows, stored)
            new = {
                (row["customer_id"], asked[0])
                for row, asked in asked_rows
                if not isinstance(asked, Outcome) and asked[0]
            }
            await keep_records(self._pool, new)
            decided = []
            for row, asked in asked_rows:
                if isinstance(asked, Outcome):
                    outcomes[row["order_id"]] = asked
                    continue
                try:
                    decided.append(self._decide(row, stored[row["order_id"]], *asked))
                except RealtimeError as error:
                    outcomes[row["order_id"]] = Outcome("failed", error=str(error))
            outcomes |= await self._record(decided)
        except UNAVAILABLE as error:
            log.event("database_unavailable", "error", at="decisions", error=type(error).__name__)
            return {i: o if o.kind == "done" else Outcome("later", wait=1) for i, o in outcomes.items()}
        return outcomes

    async def _ask(
        self, rows: list[asyncpg.Record], stored: dict[UUID, asyncpg.Record]
    ) -> list[tuple[asyncpg.Record, Outcome | tuple[Record | None, bureau.Answer | None]]]:
        """What the bureau knows of the people of these orders who consented to its being asked."""
        with_consent = [row for row in rows if row["consented_at"]]
        found: list = [(row, (None, None)) for row in rows if not row["consented_at"]]
        if not with_consent:
            return found
        try:
            answer = await self._bureau.ask(
                [
                    Subject(r["cpf"], r["consented_at"], r["created_at"], stored[r["order_id"]]["queried_at"])
                    for r in with_consent
                ]
            )
        except bureau.Unavailable as error:
            return found + [(row, Outcome("later", wait=error.wait)) for row in with_consent]
        except bureau.Refused as error:
            if len(with_consent) == 1:
                failed = Outcome("failed", error=f"the bureau refuses to answer ({error})")
                return [*found, (with_consent[0], failed)]
            singly = await asyncio.gather(*(self._ask([row], stored) for row in with_consent))
            return found + [pair for pairs in singly for pair in pairs]
        return found + [(row, (answer.records.get(row["cpf"]), answer)) for row in with_consent]

    def _decide(
        self,
        row: asyncpg.Record,
        stored: asyncpg.Record,
        record: Record | None,
        answer: bureau.Answer | None,
    ) -> dict[str, Any]:
        policy = self._policies.in_force(row["created_at"])
        has_consent = row["consented_at"] is not None
        features, record = make_features(stored, record, may_use_bureau=has_consent)
        inputs = Inputs(
            policy_version=policy.policy_version,
            product=row["product"],
            currency=row["currency"],
            requested_amount=row["requested_amount"],
            term_months=row["term_months"],
            requested_at=row["created_at"],
            monthly_income=features.monthly_income,
            has_bureau_consent=has_consent,
            bureau_score=record.score if record else None,
            bureau_score_version=record.score_version if record else None,
            bureau_queried_at=record.queried_at if record else None,
            bureau_negative_records=record.negative_records if record else None,
            customer_orders_24h=row["customer_orders"],
            customer_amount_24h=row["customer_amount"],
            device_orders_24h=row["device_orders"],
            features=features,
        )
        decision = decide(inputs, self._policies)
        evidence = Evidence(
            request_id=answer.request_id if answer else None,
            inputs=inputs,
            approved_amount=decision.approved_amount,
            interest_rate=decision.interest_rate,
        )
        return {
            "evaluation_id": evaluation_id(row["order_id"]),
            "order_id": row["order_id"],
            "decision": decision.outcome,
            "status": _STATUS[decision.outcome],
            "score": decision.score,
            "provider": _PROVIDER,
            "model_version": decision.model_version,
            "reason_codes": decision.reasons,
            "latency_ms": round(answer.seconds * 1000) if answer else None,
            "raw_response": evidence,
            "evaluated_at": max(self._clock.now(), row["created_at"]),
            "approved_amount": decision.approved_amount,
            "interest_rate": decision.interest_rate,
            "policy_version": decision.policy_version,
            "requested_at": row["created_at"],
        }

    async def _record(self, decided: list[dict[str, Any]]) -> dict[UUID, Outcome]:
        if not decided:
            return {}
        try:
            # uuid.UUID: the driver's own is unknown to msgspec
            with span("record decisions", db__system__name="postgresql", orders=len(decided)):
                written = await self._pool.fetch(RECORD, msgspec.json.encode(decided, enc_hook=str).decode())
        except UNAVAILABLE:
            raise
        except asyncpg.PostgresError as error:
            if len(decided) == 1:
                return {
                    decided[0]["order_id"]: Outcome("failed", error=f"PostgreSQL refuses ({error.sqlstate})")
                }
            outcomes = {}
            for one in decided:
                outcomes |= await self._record([one])
            return outcomes
        new = {row[0] for row in written}
        for one in decided:
            if one["order_id"] in new:
                _DECIDED.labels(one["decision"]).inc()
                _SECONDS.observe((one["evaluated_at"] - one["requested_at"]).total_seconds())
        return {one["order_id"]: Outcome("done") for one in decided}


async def replay(pool: asyncpg.Pool, order_id: UUID, policies: Policies) -> list[str]:
    """Makes a past decision again from what was stored; returns the differences, none when it is the same.

    Raises:
        RealtimeError: there is no such decision, or an input of it or its policy is missing.
    """
    row = await pool.fetchrow(
        "select decision, reason_codes, score, model_version, raw_response from app.risk_evaluations"
        " where evaluation_id = $1",
        evaluation_id(order_id),
    )
    if row is None:
        raise RealtimeError("there is no automatic decision of this order")
    stored = msgspec.json.decode(row["raw_response"] or "{}")
    given = stored.get("inputs") or {}
    missing = sorted(set(Inputs.__struct_fields__) - given.keys() - {"features"})
    if (
        not missing
        and policies.version(given["policy_version"]).scorecard_version
        and not given.get("features")
    ):
        missing = ["features"]
    if missing:
        raise RealtimeError(f"the decision cannot be made again: stored inputs lack {', '.join(missing)}")
    again: Decision = decide(msgspec.convert(given, Inputs), policies)
    pairs = {
        "model": (row["model_version"], again.model_version),
        "outcome": (row["decision"], again.outcome),
        "reasons": (list(row["reason_codes"]), again.reasons),
        "score": (row["score"], again.score),
        "approved_amount": (
            stored.get("approved_amount"),
            again.approved_amount and str(again.approved_amount),
        ),
        "interest_rate": (stored.get("interest_rate"), again.interest_rate and str(again.interest_rate)),
    }
    return [f"{name}: was {was}, is {now}" for name, (was, now) in pairs.items() if was != now]
