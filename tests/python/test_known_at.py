"""No leakage: facts that come after a request move no feature of its order, and a model that lets them is caught.

The features are those of `int_credit_orders__correlated` and of `credit_decisions` that may explain a decision.
Future facts of every source of features are drawn from a seed and written into a copy of a built warehouse.
"""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from conftest import DBT, ROOT, Pipeline, TwoDays

SEED = random.SystemRandom().randrange(2**31)
FUTURE = "2026-02-20"
MODELS = (
    "int_credit_orders__dated int_credit_orders__customer int_credit_orders__evaluation"
    " int_credit_orders__consents int_credit_orders__prior_scores int_credit_orders__bank_behaviour int_fx_rates__daily int_loan_payments__net"
    " int_credit_orders__correlated ml_credit_risk_features credit_decisions"
).split()

FEATURES = {
    "intermediate.int_credit_orders__correlated": (
        "product_at_request purpose_at_request currency_at_request requested_amount_at_request term_months_at_request"
        " is_order_backfilled is_customer_known customer_state customer_gender monthly_income age_at_request customer_days_at_request"
        " is_backfilled prior_orders evaluation_id risk_score risk_decision reason_codes model_version"
        " bureau_score_at_request bureau_score_queried_at bureau_negative_records_at_request"
        " bureau_total_debt_at_request bank_inflow_90d_at_request bank_outflow_90d_at_request"
        " bank_transactions_90d_at_request has_bureau_consent_at_request has_open_finance_consent_at_request"
        " has_marketing_consent_at_request fx_rate_to_brl_at_request"
    ).split(),
    "marts.ml_credit_risk_features": (
        "product_at_request purpose_at_request currency_at_request requested_amount_at_request requested_amount_brl"
        " term_months_at_request prior_orders prior_risk_score_mean customer_state monthly_income age_at_request customer_days_at_request"
        " requested_amount_to_income bureau_score_at_request bureau_score_age_days bureau_negative_records_at_request"
        " bureau_total_debt_at_request bank_inflow_90d_at_request bank_outflow_90d_at_request"
        " bank_transactions_90d_at_request bank_outflow_to_inflow_90d_at_request is_customer_known is_backfilled"
        " has_bureau_consent_at_request has_open_finance_consent_at_request"
    ).split(),
    "marts.credit_decisions": (
        "is_customer_known prior_orders risk_score reason_codes bureau_score_at_request bank_inflow_90d_at_request"
        " bank_outflow_90d_at_request"
    ).split(),
}

# Every statement writes what an app, a bureau, a bank may still say: none of it had arrived by a request that is
# decided. `landing` is what the columns of a later batch hold.
LATER = "_batch_id = 'zz-later', _extract_date = date '2026-02-19'"
FACTS = {
    "customers": f"""
        update staging.stg_app__customers set
            state = 'AC', gender = 'x', monthly_income = 1, birth_date = birth_date - 9999, cpf = 'x' || cpf,
            updated_at = timestamp '2026-02-19', version_at = timestamp '2026-02-19', {LATER}
    """,
    "customer versions": """
        insert into staging.stg_app__customer_versions by name
        select * replace (
            'AC' as state, 'x' as gender, 1 as monthly_income, birth_date - 9999 as birth_date, 'x' || cpf as cpf,
            created_at - interval 9 day as created_at, timestamp '2026-02-19' as version_at,
            'zz-later' as _batch_id, date '2026-02-19' as _extract_date
        )
        from (select distinct on (customer_id) * from staging.stg_app__customer_versions)
    """,
    "later scores": """
        insert into staging.stg_bureau__scores by name
        select s.* replace (
            o.last_request + interval (1 + random() * 9999) second as queried_at, 1 as score, 99 as negative_records,
            99 as total_debt, 'zz-later' as _batch_id
        )
        from last_orders as o
        join staging.stg_app__customers as c using (customer_id)
        join (select distinct on (cpf) * from staging.stg_bureau__scores order by cpf, queried_at) as s
            on c.cpf in (s.cpf, 'x' || s.cpf)
    """,
    "later evaluations": """
        insert into staging.stg_app__risk_evaluations by name
        select e.* replace (
            uuid()::varchar as evaluation_id, 1 as score, 'x' as decision, ['x'] as reason_codes_mapped,
            'x' as model_version,
            greatest(o.decided_at, l.last_request) + interval (1 + random() * 9999) second as evaluated_at,
            'zz-later' as _batch_id
        )
        from staging.stg_app__risk_evaluations as e join staging.stg_app__credit_orders as o using (order_id)
        join last_orders as l using (customer_id)
        where o.decided_at is not null
    """,
    "transactions booked later, and earlier ones that arrived later": """
        insert into staging.stg_app__bank_transactions by name
        select t.* replace (
            (row_number() over () + 10000000000)::bigint as transaction_id,
            random() * 99999 - 50000 as amount,
            o.last_request + interval 1 second * (1000 - random() * 80 * 86400)::int as booked_at,
            o.last_request + interval (1 + random() * 9999) second as created_at,
            'zz-later' as _batch_id, date '2026-02-19' as _extract_date
        )
        from last_orders as o
        join staging.stg_app__bank_accounts as a using (customer_id)
        join (select distinct on (account_id) * from staging.stg_app__bank_transactions) as t using (account_id)
        where t.created_at < o.last_request
    """,
    "consents given later": """
        insert into staging.stg_app__consents by name
        select c.* replace (
            c.consent_id || scope.scope as consent_id, o.last_request + interval 1 second as granted_at,
            null as revoked_at, scope.scope as scope, null as expires_at, 'zz-later' as _batch_id
        )
        from last_orders as o
        join (select distinct on (customer_id) * from staging.stg_app__consents) as c using (customer_id)
        cross join (select distinct scope from staging.stg_app__consents) as scope
    """,
    "their versions": """
        insert into staging.stg_app__consent_versions by name
        select
            consent_id, customer_id, scope, granted_at, expires_at, revoked_at, granted_at as version_at, _batch_id,
            _extract_date
        from staging.stg_app__consents where _batch_id = 'zz-later'
    """,
    "consents revoked later": f"""
        update staging.stg_app__consents set
            revoked_at = granted_at, updated_at = timestamp '2026-02-19', {LATER}
    """,
    "versions of consents that are revoked, or extended, as if they had been so ever since": """
        insert into staging.stg_app__consent_versions by name
        select * replace (
            timestamp '2000-01-01' as granted_at, null as expires_at,
            case when random() < 0.7 then timestamp '2000-01-01' end as revoked_at,
            timestamp '2026-02-19' as version_at, 'zz-later' as _batch_id, date '2026-02-19' as _extract_date
        )
        from (select distinct on (consent_id) * from staging.stg_app__consent_versions where _batch_id <> 'zz-later')
    """,
    "accounts that became another's": f"""
        update staging.stg_app__bank_accounts set
            customer_id = customer_id + 1, updated_at = timestamp '2026-02-19', {LATER}
    """,
    "their versions, old owners first": """
        insert into staging.stg_app__bank_account_versions by name
        select * replace (
            customer_id + 1 as customer_id, timestamp '2026-02-19' as version_at, 'zz-later' as _batch_id,
            date '2026-02-19' as _extract_date
        )
        from (select distinct on (account_id) * from staging.stg_app__bank_account_versions)
    """,
    "orders corrected": f"""
        update staging.stg_app__credit_orders set
            requested_amount = 1, term_months = 1, purpose = 'x', updated_at = timestamp '2026-02-19', {LATER}
    """,
    "versions of orders": """
        insert into staging.stg_app__credit_order_versions by name
        select * replace (
            1 as requested_amount, 1 as term_months, 'x' as product, 'x' as purpose, 'XXX' as currency,
            timestamp '2026-02-19' as version_at, 'zz-later' as _batch_id, date '2026-02-19' as _extract_date
        )
        from (select distinct on (order_id) * from staging.stg_app__credit_order_versions)
    """,
    "payments": """
        insert into staging.stg_app__loan_payments by name
        select * replace ((payment_id + 10000000000)::bigint as payment_id, timestamp '2026-02-19' as paid_at)
        from staging.stg_app__loan_payments
    """,
    "rates of the last day, published at its end, and of later days": """
        insert into staging.stg_central_bank__fx_rates by name
        select f.* replace (
            9.99 as sell, true as is_closing, 'zz-later' as _batch_id,
            (select max(_extract_date) from staging.stg_app__credit_orders) + interval (n * 24 * 60 + 1618) minute as quoted_at
        )
        from range(20) as days (n)
        cross join (select distinct on (currency) * from staging.stg_central_bank__fx_rates) as f
    """,
    "later orders": """
        insert into staging.stg_app__credit_orders by name
        select * replace ('later ' || order_id as order_id, timestamp '2026-02-19' as created_at)
        from staging.stg_app__credit_orders
    """,
}

# What a careless author would write: (file below models/, as it is, as it would leak), and a feature that it moves.
LEAKS = {
    "intermediate/credit/int_credit_orders__customer.sql": [
        ("{{ is_known_at('customer_versions', 'credit_orders.requested_at') }}",
         "customer_versions.known_until is null", "customer_state"),
        ("versions.requested_at >= scores.queried_at\n", "true\n", "bureau_score_at_request"),
    ],
    "intermediate/credit/int_credit_orders__evaluation.sql": [
        ("risk_evaluations.evaluated_at <= credit_orders.decided_at", "true", "risk_score"),
    ],
    "intermediate/credit/int_credit_orders__bank_behaviour.sql": [
        ("bank_transactions.created_at <= window_months.requested_at", "true", "bank_inflow_90d_at_request"),
        ("{{ is_known_at('account_versions', 'windows.requested_at') }}", "account_versions.known_until is null",
         "bank_outflow_90d_at_request"),
    ],
    "intermediate/credit/int_credit_orders__consents.sql": [
        ("{{ is_known_at('consent_versions', 'credit_orders.requested_at') }}",
         "consent_versions.known_until is null", "has_bureau_consent_at_request"),
    ],
    "intermediate/credit/int_credit_orders__prior_scores.sql": [
        ("range between unbounded preceding and current row", "range between unbounded preceding and unbounded following",
         "prior_risk_score_mean"),
    ],
    "intermediate/credit/int_credit_orders__dated.sql": [
        ("rank() over (partition by customer_id order by created_at) - 1", "count(*) over (partition by customer_id)",
         "prior_orders"),
    ],
    "intermediate/credit/int_credit_orders__correlated.sql": [
        ("rate_known_at('fx_rates', 'credit_orders.requested_at')", "'fx_rates.sell'", "fx_rate_to_brl_at_request"),
        ("{{ is_known_at('order_versions', 'credit_orders.requested_at') }}", "order_versions.known_until is null",
         "requested_amount_at_request"),
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def future(synthetic: TwoDays, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the warehouse whose staging knows the future as well."""
    print(f"seed {SEED}")
    warehouse = tmp_path_factory.mktemp("future") / "warehouse.duckdb"
    shutil.copyfile(synthetic.day2.warehouse, warehouse)
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute(f"select setseed({SEED / 2**31})")
        # the earliest moment at which a fact of a customer is later than all of the customer's requests
        connection.execute(
            "create temp table last_orders as select customer_id, max(created_at) as last_request"
            " from staging.stg_app__credit_orders group by 1"
        )
        for name, statement in FACTS.items():
            (rows,) = connection.execute(statement).fetchone()
            assert rows > 10, name
            print(f"{name}: {rows} rows")
    return warehouse


def moved(before: Path, after: Path) -> dict[str, int]:
    """Feature → number of orders, decided before, of which it is another one now."""
    with duckdb.connect() as connection:
        connection.execute(f"attach '{before}' as before (read_only)")
        connection.execute(f"attach '{after}' as after (read_only)")
        counts: dict[str, int] = {}
        for table, features in FEATURES.items():
            of_each = ", ".join(f"count(*) filter (where b.{f} is distinct from a.{f})" for f in features)
            orders, *found = connection.execute(
                f"select count(*), {of_each} from before.{table} as b left join after.{table} as a using (order_id)"
                " where order_id in (select order_id from before.marts.credit_decisions where decided_at is not null)"
            ).fetchone()
            assert orders > 100
            for feature, count in zip(features, found, strict=True):
                counts[feature] = counts.get(feature, 0) + count
    return {feature: count for feature, count in counts.items() if count}


def build(pipeline: Pipeline, warehouse: Path, project: Path) -> None:
    """Build what leads to the features once more, weeks later."""
    pipeline.run(
        *(str(DBT), "run", "--project-dir", str(project), "--select", *MODELS),
        WAREHOUSE=str(warehouse),
        AS_OF_DATE=FUTURE,
        DBT_TARGET_PATH=str(warehouse.parent / "target"),
    )


def test_future_facts_move_no_feature(synthetic: TwoDays, future: Path, tmp_path: Path) -> None:
    warehouse = tmp_path / "warehouse.duckdb"
    shutil.copyfile(future, warehouse)
    build(synthetic.pipeline, warehouse, ROOT)
    assert moved(synthetic.day2.warehouse, warehouse) == {}


def test_a_model_that_leaks_is_caught(
    synthetic: TwoDays, future: Path, tmp_path: Path, new_folder: Callable[[str], Path]
) -> None:
    project = new_folder("leaking")
    for name in ("dbt_project.yml", "packages.yml"):
        shutil.copy(ROOT / name, project)
    for name in ("models", "macros", "seeds", "snapshots", "tests/generic", "tests/singular", "dbt_packages"):
        shutil.copytree(ROOT / name, project / name)
    for name, edits in LEAKS.items():
        file = project / "models" / name
        text = file.read_text()
        for honest, leaking, _ in edits:
            assert honest in text, (name, honest)
            text = text.replace(honest, leaking)
        file.write_text(text)
    warehouse = tmp_path / "warehouse.duckdb"
    shutil.copyfile(future, warehouse)
    build(synthetic.pipeline, warehouse, project)
    found = moved(synthetic.day2.warehouse, warehouse)
    print(found)
    assert {feature for edits in LEAKS.values() for *_, feature in edits} - found.keys() == set()


def test_the_next_day_moves_no_feature_of_a_decided_order(synthetic: TwoDays) -> None:
    assert moved(synthetic.day1.warehouse, synthetic.day2.warehouse) == {}
