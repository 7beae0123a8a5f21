-- The bank's files (tables of text: client, district, account, disp, loan, trans_all,
-- trans_loan_accounts; with person and loan_order made beside them) as the app's tables.
-- One table macro per app table: its rows as they stand at the end of `day`. A column that the bank
-- does not have is left out here and null in the app.

create macro day_of(yymmdd) as strptime('19' || yymmdd, '%Y%m%d')::date;

-- Noon UTC is the same day in Prague and in São Paulo.
create macro noon(day) as day::timestamp + interval 12 hour;

create macro money(amount) as amount::decimal(14, 2);

-- `k_symbol` says what a transaction is for, `operation` how it was made; the purpose wins. The second
-- file is a translation of the same codes, so both speak one vocabulary here.
create table kinds as
select * from (values
    ('UROK', 'interest'),
    ('interest credited', 'interest'),
    ('SANKC. UROK', 'penalty_interest'),
    ('sanction interest if negative balance', 'penalty_interest'),
    ('SLUZBY', 'statement_fee'),
    ('payment for statement', 'statement_fee'),
    ('SIPO', 'household_payment'),
    ('household', 'household_payment'),
    ('POJISTNE', 'insurance_payment'),
    ('insurrance payment', 'insurance_payment'),
    ('DUCHOD', 'pension'),
    ('UVER', 'loan_payment'),
    ('VKLAD', 'cash_deposit'),
    ('credit in cash', 'cash_deposit'),
    ('PREVOD Z UCTU', 'transfer_in'),
    ('collection from another bank', 'transfer_in'),
    ('PREVOD NA UCET', 'transfer_out'),
    ('remittance to another bank', 'transfer_out'),
    ('VYBER', 'cash_withdrawal'),
    ('withdrawal in cash', 'cash_withdrawal'),
    ('VYBER KARTOU', 'card_withdrawal'),
    ('credit card withdrawal', 'card_withdrawal')
) as codes (code, kind);

create table trans as
with both_files as (
    select * from trans_all
    union all by name
    select * from trans_loan_accounts
)

select
    trans_id::bigint as trans_id,
    account_id::bigint as account_id,
    day_of(date) as day,
    case
        when type in ('PRIJEM', 'credit') then money(amount)
        when type in ('VYDAJ', 'VYBER', 'withdrawal', 'withdrawal in cash') then -money(amount)
    end as amount,
    money(balance) as balance,
    nullif(trim(operation), '') as operation,
    nullif(trim(k_symbol), '') as k_symbol,
    nullif(trim(bank), '') as bank
from both_files;

create table accounts as
select
    account.account_id::bigint as account_id,
    disp.client_id::bigint as customer_id,
    day_of(account.date) as day
from account
inner join disp on account.account_id = disp.account_id and disp.type = 'OWNER';

create table loans as
select
    loan.loan_id::bigint as loan_id,
    loan.account_id::bigint as account_id,
    accounts.customer_id,
    day_of(loan.date) as day,
    money(loan.amount) as amount,
    loan.duration::int as duration,
    money(loan.payments) as payment,
    case loan.status
        when 'A' then 'paid_off'
        when 'B' then 'defaulted'
        when 'C' then 'current'
        when 'D' then 'late'
    end as repayment_status
from loan
inner join accounts on loan.account_id::bigint = accounts.account_id;

-- Rows that the mapping would lose or have to guess at. The original files have none.
create view problems as
select 'accounts without one owner' as problem, count(*) as count
from (select account_id::bigint from account except all select account_id from accounts)
union all
select 'loans or transactions of an unknown account', count(*)
from (
    (select account_id::bigint as account_id from loan union all select account_id from trans)
    except
    select account_id from accounts
)
union all
select 'transactions that are neither credit nor debit', count(*)
from trans
where amount is null
union all
select 'loans of an unknown status', count(*)
from loans
where repayment_status is null
union all
select 'loan payments of an account without a loan', count(*)
from trans
where k_symbol = 'UVER' and account_id not in (select account_id from loans)
union all
select 'facts after 1998-12-08, the last day', count(*)
from (select day from trans union all select day from loans union all select day from accounts)
where day > '1998-12-08';

-- Which instalment each loan payment pays: filled by ledger.py.
create table allocation (payment_id bigint, installment_no int, settles boolean);

-- Every client has one account, as owner or as disponent: the person is the bank's customer since then.
create macro customers(as_of) as table
select
    client.client_id::bigint as customer_id,
    'berka' as partner_id,
    person.full_name,
    person.cpf,
    person.email,
    day_of(
        substr(client.birth_number, 1, 2)
        || lpad((substr(client.birth_number, 3, 2)::int % 50)::varchar, 2, '0')
        || substr(client.birth_number, 5, 2)
    ) as birth_date,
    person.gender,
    district.A2 as city,
    district.A3 as state,
    noon(min(day_of(account.date))) as created_at,
    noon(min(day_of(account.date))) as updated_at
from client
inner join person on client.client_id::bigint = person.client_id
left join district on client.district_id = district.A1
inner join disp on client.client_id = disp.client_id
inner join account on disp.account_id = account.account_id
group by all
having min(day_of(account.date)) <= as_of;

create macro credit_orders(as_of) as table
select
    loan_order.order_id,
    loans.customer_id,
    'berka' as partner_id,
    'personal_loan' as product,
    'CZK' as currency,
    loans.amount as requested_amount,
    loans.amount as approved_amount,
    loans.amount as disbursed_amount,
    loans.duration as term_months,
    'approved' as status,
    noon(loans.day) as decided_at,
    noon(loans.day) as disbursed_at,
    loans.repayment_status,
    format('{{"loan_id": {}, "account_id": {}}}', loans.loan_id, loans.account_id) as metadata,
    noon(loans.day) as created_at,
    noon(loans.day) as updated_at
from loans
inner join loan_order on loans.loan_id = loan_order.loan_id
where loans.day <= as_of;

-- What the app's trigger writes when an order is inserted in its only state.
create macro credit_order_events(as_of) as table
select
    order_id,
    1 as seq,
    'created' as event_type,
    status as to_status,
    'customer' as actor,
    '{}' as payload,
    created_at as occurred_at
from credit_orders(as_of);

create macro loan_payments(as_of) as table
select
    trans.trans_id as payment_id,
    loan_order.order_id,
    allocation.installment_no,
    noon(trans.day) as paid_at,
    -trans.amount as amount,
    noon(trans.day) as created_at
from trans
inner join loans on trans.account_id = loans.account_id
inner join loan_order on loans.loan_id = loan_order.loan_id
inner join allocation on trans.trans_id = allocation.payment_id
where trans.k_symbol = 'UVER' and trans.day <= as_of;

create macro installments(as_of) as table
with schedule as (
    select
        loan_id,
        day,
        payment,
        unnest(range(1, duration + 1))::int as installment_no
    from loans
    where day <= as_of
),

settled as (
    select
        loans.loan_id,
        allocation.installment_no,
        trans.day
    from allocation
    inner join trans on allocation.payment_id = trans.trans_id
    inner join loans on trans.account_id = loans.account_id
    where allocation.settles and trans.day <= as_of
)

select
    loan_order.order_id,
    1 as schedule_version,
    schedule.installment_no,
    (schedule.day + to_months(schedule.installment_no))::date as due_date,
    schedule.payment as due_amount,
    case when settled.loan_id is null then 'unknown' else 'paid' end as status,
    noon(coalesce(settled.day, schedule.day)) as updated_at
from schedule
inner join loan_order on schedule.loan_id = loan_order.loan_id
left join settled
    on schedule.loan_id = settled.loan_id and schedule.installment_no = settled.installment_no;

create macro bank_accounts(as_of) as table
select
    account_id,
    customer_id,
    'BERKA' as bank_code,
    noon(day) as opened_at,
    noon(day) as updated_at
from accounts
where day <= as_of;

-- The description keeps the file's own words.
create macro bank_transactions(as_of) as table
select
    trans.trans_id as transaction_id,
    trans.account_id,
    noon(trans.day) as booked_at,
    trans.amount,
    'CZK' as currency,
    coalesce(purpose.kind, trans.k_symbol, way.kind, trans.operation, 'other') as kind,
    trans.bank as counterparty_bank,
    nullif(concat_ws(' / ', trans.operation, trans.k_symbol), '') as description,
    trans.balance as balance_after,
    noon(trans.day) as created_at
from trans
left join kinds as purpose on trans.k_symbol = purpose.code
left join kinds as way on trans.operation = way.code
where trans.day <= as_of;
