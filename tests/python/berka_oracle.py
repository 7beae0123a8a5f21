"""What the marts must say about the real bank, from its original files with plain DuckDB.

It imports nothing of the project, and reads the files another way: by itself, straight into months.
"""

from datetime import date
from decimal import Decimal
from functools import lru_cache
from pathlib import Path

import duckdb

CashFlow = dict[date, Decimal]
"""Amount per month (its first day), for months with movement only."""

BankFlow = dict[tuple[int, date, str], tuple[Decimal, Decimal, Decimal, Decimal, int]]
"""Inflow, outflow, net, closing balance, transactions by customer, month and currency."""


def counts(berka_dir: Path, day: date) -> dict[str, int]:
    """Rows of every app table at the end of `day`."""
    bank = _bank(berka_dir)
    until = f"where strptime(date, '%y%m%d') <= date '{day}'"
    queries = {
        "customers": "select count(*) from client",
        "consents": "select 0",
        "credit_orders": f"select count(*) from loan {until}",
        "credit_order_events": f"select count(*) from loan {until}",
        "risk_evaluations": "select 0",
        "installments": f"select sum(duration::int)::int from loan {until}",
        "loan_payments": f"select count(*) from trans {until} and k_symbol = 'UVER'",
        "loan_events": "select 0",
        "bank_accounts": f"select count(*) from account {until}",
        "bank_transactions": f"select count(*) from trans {until}",
    }
    return {table: bank.execute(query).fetchone()[0] for table, query in queries.items()}


def orders_disbursed(berka_dir: Path, day: date) -> dict[date, int]:
    """Loans per month of the loan's date, up to `day`."""
    return dict(
        _bank(berka_dir)
        .execute(
            """
            select date_trunc('month', strptime(date, '%y%m%d'))::date, count(*)
            from loan where strptime(date, '%y%m%d') <= $day group by 1
            """,
            {"day": day},
        )
        .fetchall()
    )


def disbursed_amount(berka_dir: Path, day: date) -> CashFlow:
    """The loans' amounts per month of the loan's date, up to `day`."""
    return dict(
        _bank(berka_dir)
        .execute(
            """
            select date_trunc('month', strptime(date, '%y%m%d'))::date, sum(amount::decimal(14, 2))
            from loan where strptime(date, '%y%m%d') <= $day group by 1
            """,
            {"day": day},
        )
        .fetchall()
    )


def received_amount(berka_dir: Path, day: date) -> CashFlow:
    """The UVER transactions per month, up to `day`."""
    return dict(
        _bank(berka_dir)
        .execute(
            """
            select date_trunc('month', strptime(date, '%y%m%d'))::date, sum(amount::decimal(14, 2))
            from trans where k_symbol = 'UVER' and strptime(date, '%y%m%d') <= $day group by 1
            """,
            {"day": day},
        )
        .fetchall()
    )


def customer_monthly_bank_flow(berka_dir: Path, day: date) -> BankFlow:
    """Credits and debits of the owners' accounts per month with movement, up to `day`."""
    rows = (
        _bank(berka_dir)
        .execute(
            """
            with monthly as (
                select
                    client_id::bigint as customer_id,
                    date_trunc('month', strptime(date, '%y%m%d'))::date as month,
                    coalesce(sum(amount::decimal(14, 2)) filter (credit), 0) as inflow,
                    coalesce(sum(amount::decimal(14, 2)) filter (not credit), 0) as outflow,
                    count(*) as transactions
                from (select *, type in ('PRIJEM', 'credit') as credit from trans)
                join (select account_id, client_id from disp where type = 'OWNER') using (account_id)
                where strptime(date, '%y%m%d') <= $day
                group by all
            )
            select
                customer_id, month, 'CZK', inflow, outflow, inflow - outflow,
                sum(inflow - outflow) over (partition by customer_id order by month),
                transactions
            from monthly
            """,
            {"day": day},
        )
        .fetchall()
    )
    return {row[:3]: row[3:] for row in rows}


@lru_cache(maxsize=2)
def _bank(berka_dir: Path) -> duckdb.DuckDBPyConnection:
    bank = duckdb.connect()
    for table, files in {
        "client": ["client.asc"],
        "account": ["account.asc"],
        "disp": ["disp.asc"],
        "loan": ["loan.asc"],
        "trans": ["trans_19930101_19940330.asc", "trans_loan_accounts_1995_1998.csv"],
    }.items():
        paths = [str(berka_dir / file) for file in files]
        bank.execute(
            f"create table {table} as "
            f"from read_csv({paths}, delim = ';', quote = '\"', header = true, all_varchar = true)"
        )
    return bank
