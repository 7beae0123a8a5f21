"""The online feature store: what `ml_credit_risk_features` will say of an order, at the moment it is decided.

Its tables (schema `realtime`) are filled from the warehouse and kept current by the database's triggers and
the bureau's answers. Features are named, rounded and null as in the mart, whose model is the specification.
"""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol
from zoneinfo import ZoneInfo

import asyncpg
import msgspec

from realtime.bureau import Record
from realtime.errors import RealtimeError

_ZONE = ZoneInfo("America/Sao_Paulo")
_DAYS = 100  # of bank transactions that are kept: the window is 90


class Features(msgspec.Struct, frozen=True, kw_only=True):
    """The columns of `ml_credit_risk_features` that describe an order, without its label."""

    product_at_request: str
    purpose_at_request: str | None
    currency_at_request: str
    requested_amount_at_request: Decimal
    requested_amount_brl: Decimal | None
    term_months_at_request: int
    prior_orders: int
    prior_risk_score_mean: float | None = None
    """Decisions made before this was looked at lack it, and are replayed all the same."""
    customer_state: str | None
    monthly_income: Decimal | None
    age_at_request: int | None
    customer_days_at_request: int | None
    requested_amount_to_income: float | None
    bureau_score_at_request: int | None
    bureau_score_age_days: int | None
    bureau_negative_records_at_request: int | None
    bureau_total_debt_at_request: Decimal | None
    bank_inflow_90d_at_request: Decimal | None
    bank_outflow_90d_at_request: Decimal | None
    bank_transactions_90d_at_request: int | None
    bank_outflow_to_inflow_90d_at_request: float | None
    has_bureau_consent_at_request: bool
    has_open_finance_consent_at_request: bool


# Of the orders in $1. The warehouse rounds the app's times to milliseconds before it compares them: half a
# millisecond on the other side says the same and lets indexes be used.
FEATURES = """
select
    o.order_id,
    o.product as product_at_request,
    o.purpose as purpose_at_request,
    o.currency as currency_at_request,
    o.requested_amount::numeric(18, 2) as requested_amount_at_request,
    case o.currency
        when 'BRL' then o.requested_amount else round(o.requested_amount * fx.sell, 2)
    end as requested_amount_brl,
    o.term_months as term_months_at_request,
    prior.orders as prior_orders,
    scored.mean as prior_risk_score_mean,
    customer.state as customer_state,
    customer.monthly_income,
    floor((
        (extract(year from o.day) - extract(year from customer.birth_date)) * 10000
        + (extract(month from o.day) - extract(month from customer.birth_date)) * 100
        + (extract(day from o.day) - extract(day from customer.birth_date))
    ) / 10000)::int as age_at_request,
    (o.created_at at time zone 'UTC')::date - (customer.registered_at at time zone 'UTC')::date
        as customer_days_at_request,
    bank.inflow as bank_inflow_90d_at_request,
    bank.outflow as bank_outflow_90d_at_request,
    bank.transactions as bank_transactions_90d_at_request,
    coalesce(consent.bureau, false) as has_bureau_consent_at_request,
    coalesce(consent.open_finance, false) as has_open_finance_consent_at_request,
    o.day as requested_date,
    bureau.queried_at, bureau.score, bureau.score_version, bureau.negative_records, bureau.total_debt
from (
    select *, (created_at at time zone 'America/Sao_Paulo')::date as day
    from app.credit_orders
    where order_id = any($1)
) as o
left join lateral (
    select c.sell
    from realtime.fx_closings as c
    where c.currency = o.currency and c.rate_date between o.day - 7 and o.day and c.quoted_at <= o.created_at
    order by c.rate_date desc
    limit 1
) as fx on true
left join lateral (
    select count(*)::int as orders
    from app.credit_orders as p
    where p.customer_id = o.customer_id and p.created_at < o.created_at - interval '500 microseconds'
) as prior on true
left join lateral (
    select sum(e.score)::float8 / nullif(count(e.score), 0) as mean
    from app.credit_orders as p
    join app.risk_evaluations as e using (order_id)
    where
        p.customer_id = o.customer_id
        and e.model_version not like 'scorecard-%'
        and e.evaluated_at < o.created_at + interval '500 microseconds'
        and e.created_at < o.created_at + interval '500 microseconds'
) as scored on true
left join lateral (
    select v.*
    from realtime.customer_versions as v
    where v.customer_id = o.customer_id
    order by
        v.known_from <= o.created_at desc,
        case when v.known_from <= o.created_at then v.known_from end desc,
        v.known_from
    limit 1
) as customer on true
left join lateral (
    select r.*
    from realtime.bureau_records as r
    where r.customer_id = o.customer_id and r.queried_at <= o.created_at
    order by r.queried_at desc
    limit 1
) as bureau on true
left join lateral (
    select bool_or(k.scope = 'bureau') as bureau, bool_or(k.scope = 'open_finance') as open_finance
    from app.consents as k
    where
        k.customer_id = o.customer_id
        and k.granted_at < o.created_at + interval '500 microseconds'
        and (k.expires_at is null or k.expires_at >= o.created_at + interval '500 microseconds')
        and (k.revoked_at is null or k.revoked_at >= o.created_at + interval '500 microseconds')
) as consent on true
left join lateral (
    select
        case
            when count(f.currency) = 0 then 0.00
            when count(f.currency) = count(f.inflow) then sum(f.inflow)
        end as inflow,
        case
            when count(f.currency) = 0 then 0.00
            when count(f.currency) = count(f.outflow) then sum(f.outflow)
        end as outflow,
        coalesce(sum(f.transactions), 0)::int as transactions
    from (
        select
            flow.currency,
            flow.transactions,
            realtime.convert(flow.inflow, flow.currency, flow.sell, o.currency, fx.sell) as inflow,
            realtime.convert(flow.outflow, flow.currency, flow.sell, o.currency, fx.sell) as outflow
        from (
            select
                m.currency,
                count(*) as transactions,
                coalesce(sum(m.amount) filter (where m.amount > 0), 0) as inflow,
                coalesce(-sum(m.amount) filter (where m.amount < 0), 0) as outflow,
                (
                    select c.sell
                    from realtime.fx_closings as c
                    where
                        c.currency = m.currency
                        and c.rate_date between o.day - 7 and o.day
                        and c.quoted_at <= o.created_at
                    order by c.rate_date desc
                    limit 1
                ) as sell
            from realtime.bank_sources as s
            join realtime.bank_movements as m using (account_id)
            where
                s.customer_id = o.customer_id
                and m.booked_at > o.created_at - interval '90 days'
                and m.booked_at <= o.created_at
                and m.known_at <= o.created_at
            group by 1
        ) as flow
    ) as f
    having exists (
        select from realtime.bank_sources as s
        where s.customer_id = o.customer_id and s.first_known_at <= o.created_at
    )
) as bank on true
"""

# In words that DuckDB and Athena both understand.
_STORE = {
    "customer_versions": """
        select customer_id, version_at as known_from, state, monthly_income, birth_date,
            created_at as registered_at
        from (
            select
                *, row_number() over (partition by customer_id, version_at order by _batch_id desc) as place
            from staging.stg_app__customer_versions
        ) as v
        where place = 1
    """,
    "bank_sources": """
        select a.account_id, a.customer_id, min(t.created_at) as first_known_at
        from staging.stg_app__bank_accounts as a
        left join staging.stg_app__bank_transactions as t
            on a.account_id = t.account_id and t.deleted_at is null
        where a.deleted_at is null
        group by 1, 2
    """,
    "bank_movements": """
        select account_id, booked_at, transaction_id, created_at as known_at, currency, amount
        from staging.stg_app__bank_transactions
        where deleted_at is null and booked_at > {after}
    """,
    "bureau_records": """
        select customer_id, queried_at, score, score_version, negative_records, total_debt
        from (
            select
                c.customer_id, s.queried_at, s.score, s.score_version, s.negative_records, s.total_debt,
                row_number() over (partition by s.cpf order by s.queried_at desc) as place
            from staging.stg_bureau__scores as s
            join staging.stg_app__customers as c on s.cpf = c.cpf
            where s.deleted_at is null
        ) as r
        where place <= 2
    """,
    "fx_closings": """
        select currency, rate_date, quoted_at, sell
        from (
            select
                currency, rate_date, quoted_at, sell,
                row_number() over (
                    partition by currency, rate_date order by quoted_at desc, sell desc
                ) as place
            from (
                -- closings are published in the afternoon: no rule of the time zone matters
                select currency, quoted_at, sell, cast(quoted_at - interval '3' hour as date) as rate_date
                from staging.stg_central_bank__fx_rates
                where deleted_at is null and is_closing and quoted_at > {after}
            ) as r
        ) as f
        where place = 1
    """,
}
_ON_CONFLICT = {
    "customer_versions": "(customer_id, known_from) do nothing",
    "bank_sources": "(account_id) do update"
    " set first_known_at = least(old.first_known_at, excluded.first_known_at)",
    "bank_movements": "do nothing",
    "bureau_records": "do nothing",
    "fx_closings": "(currency, rate_date) do update set quoted_at = excluded.quoted_at, sell = excluded.sell",
}
# What happened since the warehouse last looked: the triggers may be younger than that.
_CATCH_UP = """
select realtime.take_customers(array_agg(c)) from app.customers as c where updated_at > $1;
select realtime.take_bank_accounts(array_agg(a)) from app.bank_accounts as a where updated_at > $1;
select realtime.take_bank_transactions(array_agg(t)) from app.bank_transactions as t where created_at > $1;
"""
_BUREAU_ANSWERED = """
insert into realtime.bureau_records
    (customer_id, queried_at, score, score_version, negative_records, total_debt)
select * from unnest($1::bigint[], $2::timestamptz[], $3::int[], $4::text[], $5::int[], $6::numeric[])
on conflict do nothing
"""


class Source(Protocol):
    """A warehouse to read from: SQL in, a DB-API cursor out."""

    def __call__(self, sql: str) -> Any:
        """The cursor of a query."""


@contextmanager
def open_duckdb(warehouse: Path) -> Iterator[Source]:
    """A DuckDB warehouse.

    Raises:
        RealtimeError: there is none, another process writes it, or it lacks a table.
    """
    import duckdb

    try:
        with duckdb.connect(str(warehouse), read_only=True) as connection:
            yield connection.execute
    except duckdb.Error as error:
        raise RealtimeError(
            f"{warehouse} cannot be read ({type(error).__name__}): build it first, and set WAREHOUSE"
        ) from None


@contextmanager
def open_athena(lake: str) -> Iterator[Source]:
    """The warehouse on Athena; results of queries go below the lake. Region and workgroup by the environment.

    Raises:
        RealtimeError: Athena does not answer, or lacks a table.
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from pyathena import connect
    from pyathena.error import Error

    try:
        with connect(
            s3_staging_dir=f"{lake}/query-results/",
            work_group=os.environ.get("ATHENA_WORKGROUP") or None,
            region_name=os.environ.get("AWS_REGION") or None,
        ) as connection:
            yield lambda sql: connection.cursor().execute(sql)
    except (Error, BotoCoreError, ClientError) as error:
        raise RealtimeError(
            f"Athena cannot be read ({type(error).__name__}): build there first, and set LAKE"
        ) from None


async def load(pool: asyncpg.Pool, source: Source, now: datetime) -> dict[str, int]:
    """Fills the store from a warehouse; what is there already stays. Returns rows read, by table."""
    loaded = {}
    after = f"timestamp '{now.astimezone(UTC) - timedelta(days=_DAYS):%Y-%m-%d %H:%M:%S}'"
    (looked_at,) = source(
        "select max(greatest(created_at, updated_at)) from staging.stg_app__customers"
    ).fetchone()
    async with pool.acquire() as connection:
        for table, query in _STORE.items():
            cursor = source(query.format(after=after))
            columns = [column[0] for column in cursor.description]
            loaded[table] = 0
            while rows := cursor.fetchmany(50_000):
                await _insert(connection, table, columns, map(_aware, rows))
                loaded[table] += len(rows)
        if looked_at:
            since = looked_at.replace(tzinfo=UTC) - timedelta(days=2)
            for statement in _CATCH_UP.strip().split(";\n"):
                await connection.execute(statement.rstrip(";"), since)
    return loaded


async def _insert(
    connection: asyncpg.Connection, table: str, columns: list[str], rows: Iterator[tuple]
) -> None:
    names = ", ".join(columns)
    async with connection.transaction():
        await connection.execute(
            f"create temp table arrived on commit drop as table realtime.{table} with no data"
        )
        await connection.copy_records_to_table("arrived", records=rows, columns=columns)
        await connection.execute(
            f"insert into realtime.{table} as old ({names}) select {names} from arrived"  # noqa: S608 - our own names
            f" on conflict {_ON_CONFLICT[table]}"
        )


def _aware(row: tuple) -> tuple:
    return tuple(v.replace(tzinfo=UTC) if isinstance(v, datetime) else v for v in row)


async def forget_old(pool: asyncpg.Pool, now: datetime) -> None:
    """Deletes bank transactions that no window reaches any more."""
    await pool.execute(
        "delete from realtime.bank_movements where booked_at < $1", now - timedelta(days=_DAYS)
    )


async def keep_records(pool: asyncpg.Pool, records: Collection[tuple[int, Record]]) -> None:
    """Keeps what the bureau answered, by customer."""
    if records:
        columns = zip(
            *(
                (c, to_ms(r.queried_at), r.score, r.score_version, r.negative_records, r.total_debt)
                for c, r in records
            ),
            strict=True,
        )
        await pool.execute(_BUREAU_ANSWERED, *map(list, columns))


def to_ms(at: datetime) -> datetime:
    """A time as the warehouse has it: to the nearest millisecond."""
    at += timedelta(microseconds=500)
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def make_features(
    row: asyncpg.Record, record: Record | None, *, may_use_bureau: bool
) -> tuple[Features, Record | None]:
    """The features of an order, and the bureau's record that they rest on.

    Args:
        row: of `FEATURES`.
        record: what the bureau has just answered, if anything.
        may_use_bureau: whether there is a consent still; without, nothing of the bureau is looked at.
    """
    known = None
    if may_use_bureau:
        if row["queried_at"]:
            known = Record(
                "",
                row["score"],
                row["queried_at"],
                row["score_version"],
                row["negative_records"],
                row["total_debt"],
            )
        if record and (known is None or to_ms(record.queried_at) > known.queried_at):
            known = record
    taken = {name: row[name] for name in Features.__struct_fields__ if name in row}
    features = Features(
        **taken,
        requested_amount_to_income=_ratio(row["requested_amount_brl"], row["monthly_income"]),
        bureau_score_at_request=known.score if known else None,
        bureau_score_age_days=known and (row["requested_date"] - _business_day(known.queried_at)).days,
        bureau_negative_records_at_request=known.negative_records if known else None,
        bureau_total_debt_at_request=known.total_debt if known else None,
        bank_outflow_to_inflow_90d_at_request=_ratio(
            row["bank_outflow_90d_at_request"], row["bank_inflow_90d_at_request"]
        ),
    )
    return features, known


def _business_day(at: datetime) -> date:
    return to_ms(at).astimezone(_ZONE).date()


def _ratio(part: Decimal | None, whole: Decimal | None) -> float | None:
    return float(part) / float(whole) if part is not None and whole else None
