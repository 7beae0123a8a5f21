{#
    The pattern of every staging model, in three steps:

    1. `landed_since_last_build`: raw rows of the days not yet built (a first build takes all days);
    2. `version_rank`: of several versions of a record among them, 1 is the one to keep;
    3. `unless_built`: a row that is already built, or superseded by what is built, is left out.

    What remains is merged by the model's unique_key. So a day costs the same however long the history,
    a second build merges nothing, and the result is that of a full refresh.

    A table of the app is ranked by `_batch_id` alone: a later batch read a later snapshot of the database and
    holds a key once. Not by `updated_at`: it is the start of the app's transaction, so it can go down.
#}

{#
    Condition on raw rows: landed up to as_of_date and, when the table exists, since the last day it holds.
    That day is read again, for it may have got another batch. Days are literals so that both engines prune.
#}
{% macro landed_since_last_build() -%}
    {%- set until = as_of_day() -%}
    {%- if execute and is_incremental() -%}
        {%- set built = run_query('select max(_extract_date) from ' ~ this).rows[0][0] | string -%}
        {%- if built not in ('None', '') and built > until -%}
            {%- do exceptions.raise_compiler_error(
                this.identifier ~ ' already holds ' ~ built ~ ', which is after as_of_date ' ~ until
                ~ ': a state of the past needs a warehouse of its own (WAREHOUSE) or --full-refresh'
            ) -%}
        {%- endif -%}
    {%- endif -%}
    extract_date <= '{{ until }}'
    {%- if built and built not in ('None', '') %}
        and extract_date >= '{{ built }}'
    {%- endif -%}
{%- endmacro %}


{#
    Rank of a version among those of its record; 1 is kept. `key` and `order_by` are lists of expressions
    over the raw columns.
#}
{% macro version_rank(key, order_by) -%}
    row_number() over (
        partition by {{ key | join(', ') }}
        order by {{ order_by | join(', ') }}
    )
{%- endmacro %}


{#
    Join and condition that leave out rows of `cte` that are not ahead of the row already built with the
    same key. `ahead_by` says what makes a row ahead, most important first: (column, '>' or '<') pairs.
#}
{% macro unless_built(cte, ahead_by) -%}
    {%- if is_incremental() -%}
    {%- set key = config.get('unique_key') -%}
    {%- set key = [key] if key is string else key %}
    left join {{ this }} as built
        on
            {% for column in key -%}
            {{ cte }}.{{ column }} = built.{{ column }}
            {{- '\n            and ' if not loop.last }}
            {%- endfor %}
    where
        built.{{ key[0] }} is null
        {%- for column, sign in ahead_by %}
        or (
            {% for earlier, _ in ahead_by[:loop.index0] -%}
            {{ cte }}.{{ earlier }} = built.{{ earlier }} and {% endfor -%}
            {{ cte }}.{{ column }} {{ sign }} built.{{ column }}
        )
        {%- endfor %}
    {%- endif -%}
{%- endmacro %}
