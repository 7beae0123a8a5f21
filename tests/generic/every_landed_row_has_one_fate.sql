{#
    Every landed row has exactly one fate: current (or deleted, when it says the record's end), superseded by a
    version that is, or quarantined; and what is current was landed. The rows landed on as_of_date are looked at,
    with var `whole_history` all of them: that reads all of raw.

    model     the quarantine
    landed    the raw table
    staged    the staging model
    key       what names a record: column → how staging normalises it
    version   what tells versions of a record apart
#}
{% test every_landed_row_has_one_fate(model, landed, staged, key, version=['_batch_id']) %}

with

landed as (

    select
        {{ normalised_key(key) }},
        {{ version | join(', ') }}
    from {{ landed }}
    where {{ is_day_under_test('extract_date') }}

),

quarantined as (

    select
        {{ key | join(', ') }},
        {{ version | join(', ') }},
        count(*) as times
    from {{ model }}
    group by {{ key | join(', ') }}, {{ version | join(', ') }}

),

staged as (

    select
        {{ key | join(', ') }},
        {{ version | join(', ') }}
    from {{ staged }}

),

-- the table again: DuckDB keeps a CTE that is read twice as a copy of the whole table
staged_that_day as (

    select
        {{ key | join(', ') }},
        {{ version | join(', ') }}
    from {{ staged }}
    where {{ is_day_under_test('cast(_extract_date as varchar)') }}

),

fates as (

    select
        landed.*,
        case
            when staged.{{ version[0] }} is null then 'none'
            when {{ same_key('staged', 'landed', version) }} then 'current'
            when {{ is_superseded('staged', 'landed', version) }} then 'superseded'
            else 'none'
        end as staged_fate,
        coalesce(quarantined.times, 0) as times_quarantined
    from landed
    left join staged on {{ same_key('landed', 'staged', key) }}
    left join quarantined on {{ same_key('landed', 'quarantined', key.keys() | list + version) }}

),

invented as (

    select staged_that_day.*
    from staged_that_day
    left join landed on {{ same_key('staged_that_day', 'landed', key.keys() | list + version) }}
    where landed.{{ version[0] }} is null

)

select
    {{ key_as_text(key) }} as record_key,
    staged_fate,
    times_quarantined
from fates
where not (
    (times_quarantined = 0 and staged_fate in ('current', 'superseded'))
    or (times_quarantined = 1 and staged_fate in ('none', 'superseded'))
)
union all
select
    {{ key_as_text(key) }} as record_key,
    'never landed' as staged_fate,
    0 as times_quarantined
from invented

{% endtest %}
