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


def outcomes(berka_dir: Path, day: date) -> dict[str, int]:
    """Loans by the bank's status: A ended well, B ended unpaid, C runs well, D runs in debt."""
    query = "select status, count(*) from loan where strptime(date, '%y%m%d') <= $day group by 1"
    return dict(_bank(berka_dir).execute(query, {"day": day}).fetchall())


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


def default_rates(berka_dir: Path, day: date) -> dict[tuple[str, int], tuple[int, int]]:
    """Loans, and those of them that ended unpaid (status B), by region of the owner and year of the loan."""
    rows = (
        _bank(berka_dir)
        .execute(
            """
            select A3, year(strptime(loan.date, '%y%m%d')), count(*), count(*) filter (status = 'B')
            from loan
            join (select account_id, client_id from disp where type = 'OWNER') using (account_id)
            join client using (client_id)
            join district on client.district_id = A1
            where strptime(loan.date, '%y%m%d') <= $day
            group by all
            """,
            {"day": day},
        )
        .fetchall()
    )
    return {row[:2]: row[2:] for row in rows}


def instalments(berka_dir: Path) -> dict[date, tuple[Decimal, Decimal]]:
    """What fell due in a month, and what was overdue at its end: the months whose transactions are all there.

    The k-th payment of a loan pays its k-th instalment: the bank never collected in parts in those months.
    """
    rows = (
        _bank(berka_dir)
        .execute(
            """
            with due as (
                select
                    account_id, k, payments::decimal(14, 2) as amount,
                    (strptime(date, '%y%m%d')::date + to_months(k::int))::date as due_date
                from loan, unnest(range(1, duration::int + 1)) as numbers (k)
            ),
            paid as (
                select
                    account_id, amount::decimal(14, 2) as amount, strptime(date, '%y%m%d')::date as paid_date,
                    row_number() over (partition by account_id order by date, trans_id::int) as k
                from trans
                where k_symbol = 'UVER'
            ),
            months as (
                select unnest(range(date '1993-07-01', date '1994-03-01', interval 1 month))::date as month
            )
            select
                month,
                coalesce(sum(due.amount) filter (date_trunc('month', due_date) = month), 0),
                coalesce(sum(
                    greatest(due.amount - if(paid_date <= last_day(month), paid.amount, 0), 0)
                ) filter (due_date <= last_day(month)), 0)
            from months, due left join paid using (account_id, k)
            group by 1
            """
        )
        .fetchall()
    )
    return {row[0]: row[1:] for row in rows}


@lru_cache(maxsize=2)
def _bank(berka_dir: Path) -> duckdb.DuckDBPyConnection:
    bank = duckdb.connect()
    for table, files in {
        "client": ["client.asc"],
        "account": ["account.asc"],
        "disp": ["disp.asc"],
        "loan": ["loan.asc"],
        "district": ["district.asc"],
        "trans": ["trans_19930101_19940330.asc", "trans_loan_accounts_1995_1998.csv"],
    }.items():
        paths = [str(berka_dir / file) for file in files]
        bank.execute(
            f"create table {table} as "
            f"from read_csv({paths}, delim = ';', quote = '\"', header = true, all_varchar = true)"
        )
    return bank
