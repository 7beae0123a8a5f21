"""A person reviews an order: one that the policy referred, or one that it refused (LGPD art. 20).

The first decision stays as it is. A review is a second evaluation and a new event; only then may the status
change, from in_review to either side or from rejected to approved.
"""

from typing import Any

import asyncpg
import msgspec

from realtime.orders import Refusal, ReviewRequest
from realtime.settings import Clock

_STATUS = {"approve": "approved", "reject": "rejected"}


async def review_order(
    pool: asyncpg.Pool, clock: Clock, order_id: str, review: ReviewRequest, reviewer: str
) -> dict[str, Any]:
    """Records what the reviewer decided; returns it with the criteria of the first decision.

    The review's id is its key of idempotency: the same review again gives the same answer.

    Raises:
        Refusal: there is no such order, it is not decided yet, it is not open to a review, or the id belongs
            to another review.
    """
    async with pool.acquire() as connection, connection.transaction():
        order = await connection.fetchrow(
            "select status, requested_amount, created_at from app.credit_orders where order_id = $1"
            " for update",
            order_id,
        )
        if order is None:
            raise Refusal(404, "not-found", "there is no such order")
        first = await connection.fetchrow(
            "select decision, score, model_version, reason_codes, raw_response, evaluated_at"
            " from app.risk_evaluations where order_id = $1 and provider <> 'credit_desk'"
            " order by evaluated_at limit 1",
            order_id,
        )
        evidence = {"reviewer": reviewer, "review": msgspec.to_builtins(review, enc_hook=str)}
        known = await connection.fetchrow(
            "select order_id, raw_response, evaluated_at from app.risk_evaluations where evaluation_id = $1",
            review.review_id,
        )
        if known is not None:
            if str(known["order_id"]) != order_id or msgspec.json.decode(known["raw_response"]) != evidence:
                raise Refusal(409, "conflict", "this review_id belongs to another review", "/review_id")
            return _answer(order_id, review, first, known["evaluated_at"])
        if first is None:
            raise Refusal(409, "not-decided", "the order is not decided yet; review it afterwards")
        if order["status"] not in ("in_review", "rejected"):
            raise Refusal(409, "final", f"an order that is {order['status']} is not open to a review")
        if review.approved_amount is not None and review.approved_amount > order["requested_amount"]:
            raise Refusal(422, "invalid", "must not be more than was asked for", "/approved_amount")
        now = max(clock.now(), order["created_at"], first["evaluated_at"])
        await connection.execute(
            "insert into app.risk_evaluations (evaluation_id, order_id, provider, model_version, decision,"
            " reason_codes, raw_response, evaluated_at, created_at)"
            " values ($1, $2, 'credit_desk', 'manual', $3, $4, $5, $6, $6)",
            review.review_id,
            order_id,
            review.outcome,
            review.reason_codes,
            msgspec.json.encode(evidence).decode(),
            now,
        )
        event = {
            "review_id": str(review.review_id),
            "reviewer": reviewer,
            "outcome": review.outcome,
            "reason": review.reason,
            "reason_codes": review.reason_codes,
        }
        payload = msgspec.json.encode(event).decode()
        if order["status"] == _STATUS[review.outcome]:  # the refusal stands
            await connection.execute(
                "insert into app.credit_order_events"
                " (order_id, seq, event_type, from_status, to_status, actor, payload, occurred_at)"
                " select $1, max(seq) + 1, 'reviewed', $2, $2, 'staff', $3, $4"
                " from app.credit_order_events where order_id = $1",
                order_id,
                order["status"],
                payload,
                now,
            )
        else:
            await connection.execute(
                "select set_config('app.actor', 'staff', true), set_config('app.event_payload', $1, true)",
                payload,
            )
            await connection.execute(
                "update app.credit_orders"
                " set status = $2, approved_amount = $3, interest_rate = $4, decided_at = $5,"
                " updated_at = $5, policy_version = coalesce(policy_version, $6) where order_id = $1",
                order_id,
                _STATUS[review.outcome],
                review.approved_amount,
                review.interest_rate,
                now,
                _policy_version(first),
            )
    return _answer(order_id, review, first, now)


def _answer(order_id: str, review: ReviewRequest, first: asyncpg.Record, at: Any) -> dict[str, Any]:
    return {
        "order_id": order_id,
        "review_id": review.review_id,
        "status": _STATUS[review.outcome],
        "reviewed_at": at,
        "criteria": criteria(first),
    }


def _policy_version(evaluation: asyncpg.Record) -> str | None:
    """The policy that referred the order: a review happens under the same one."""
    return (msgspec.json.decode(evaluation["raw_response"] or "{}").get("inputs") or {}).get("policy_version")


def criteria(evaluation: asyncpg.Record | None) -> dict[str, Any] | None:
    """What an automatic decision was made of: the rules' version, their result, and every input."""
    if evaluation is None:
        return None
    evidence = msgspec.json.decode(evaluation["raw_response"] or "{}")
    return {
        "decision": evaluation["decision"],
        "score": evaluation["score"],
        "model_version": evaluation["model_version"],
        "reason_codes": list(evaluation["reason_codes"]),
        "inputs": evidence.get("inputs"),
    }
