{#
    Nothing is lost on the way from raw: the model has one row for every key that was landed up to
    as_of_date. It reads all of raw.
#}
{% test holds_every_landed_record(model, landed, key) %}

with

landed_keys as (

    select distinct {{ key | join(', ') }}
    from {{ landed }}
    where extract_date <= '{{ as_of_day() }}'

),

counts as (

    select
        (select count(*) from landed_keys) as records_landed,
        (select count(*) from {{ model }}) as records_held

)

select * from counts
where records_landed <> records_held

{% endtest %}
