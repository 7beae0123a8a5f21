{#
    The pattern of every staging model, in three steps:

    1. `landed_since_last_build`: raw rows of the batches not yet built (a first build takes all days), without
       those that break a rule (`not_quarantined`);
    2. `version_rank`: of several versions of a record among them, 1 is the one to keep;
    3. `ahead_of_built`: a row that is already built, or superseded by what is built, is left out; a row that is
       built and has got a newer version in quarantine is flagged.

    What remains is merged by the model's unique_key. So a day costs the same however long the history,
    a second build merges nothing, and the result is that of a full refresh.

    A table of the app is ranked by `_batch_id` alone: a later batch read a later snapshot of the database and
    holds a key once. Not by `updated_at`: it is the start of the app's transaction, so it can go down.
#}

{#
    Condition on raw rows: landed up to as_of_date and, when `built_relation` (by default the model's own table)
    exists and the build is incremental, since the last day it holds. That day may have got another batch: only
    batches after the last one it holds are read of it, for batches are numbered in the order in which they land.
    With `whole_day` all of that day is read again. Days are literals so that both engines prune. The days of a
    backfill are read again as well: for batches landed late under a day already built.
#}
{% macro landed_since_last_build(built_relation=this, whole_day=false) -%}
    {%- set until = as_of_day() -%}
    {%- set backfill = backfill_days() -%}
    {%- if execute and is_incremental() and built_relation -%}
        {%- set built, last_batch = last_built(built_relation) -%}
        {%- if built and built | string > until -%}
            {%- do exceptions.raise_compiler_error(
                built_relation.identifier ~ ' already holds ' ~ built ~ ', which is after as_of_date ' ~ until
                ~ ': a state of the past needs a warehouse of its own (WAREHOUSE) or --full-refresh'
            ) -%}
        {%- endif -%}
    {%- endif -%}
    extract_date <= '{{ until }}'
    {%- if built %}
        {%- set is_new = "extract_date > '" ~ built ~ "' or _batch_id > '" ~ last_batch ~ "'" %}
        {%- if backfill %}
        and extract_date >= '{{ [built | string, backfill[0]] | min }}'
        and (
            extract_date between '{{ backfill[0] }}' and '{{ backfill[1] }}'
            or (extract_date >= '{{ built }}'{{ '' if whole_day else ' and (' ~ is_new ~ ')' }})
        )
        {%- else %}
        and extract_date >= '{{ built }}'
        {%- if not whole_day %}
        and ({{ is_new }})
        {%- endif -%}
        {%- endif -%}
    {%- endif -%}
{%- endmacro %}


{#
    The last day and the last batch that a relation holds; none where it holds nothing. Asked once an invocation. What
    came yesterday and today is in few files; older ones are only read where nothing came for days, twice as many each
    time.
#}
{% macro last_built(relation) -%}
    {%- set known = graph.setdefault('last_built', {}) -%}
    {%- set name = relation.render() -%}
    {%- set query = 'select max(_extract_date), max(_batch_id) from ' ~ name -%}
    {%- set today = modules.datetime.date.fromisoformat(as_of_day()) -%}
    {%- for days in (1, 2, 4, 8, 16, 32, 64) if not known.get(name, [none])[0] -%}
        {%- set since = " where _extract_date >= cast('%s' as date)" % (today - modules.datetime.timedelta(days=days)) -%}
        {%- do known.update({name: run_query(query ~ since).rows[0]}) -%}
    {%- endfor -%}
    {%- if not known[name][0] -%}
        {%- do known.update({name: run_query(query).rows[0]}) -%}
    {%- endif -%}
    {{ return(known[name]) }}
{%- endmacro %}


{#
    The first and the last of the days to read again (YYYY-MM-DD), from vars `backfill_from` and `backfill_to`
    (by default as_of_date); none without them.
#}
{% macro backfill_days() -%}
    {%- set first, last = var('backfill_from', none), var('backfill_to', none) -%}
    {%- if last and not first -%}
        {%- do exceptions.raise_compiler_error('backfill_to needs backfill_from: from which day on?') -%}
    {%- elif not first -%}
        {{ return(none) }}
    {%- endif -%}
    {%- set first = validate_day(first | string, 'backfill_from') -%}
    {%- set last = validate_day(last | string, 'backfill_to') if last else as_of_day() -%}
    {%- if execute and last < first -%}
        {%- do exceptions.raise_compiler_error('backfill_to ' ~ last ~ ' is before backfill_from ' ~ first) -%}
    {%- endif -%}
    {{ return([first, last]) }}
{%- endmacro %}


{#
    Condition on raw rows (of the alias `raw_rows`) that breaks no rule: it is not in the quarantine, a CTE called
    `quarantined`. The quarantine must have been brought up to date by this very run, or rows that break a rule
    would pass.
#}
{% macro not_quarantined(source_name, table) -%}
    {%- set quarantine = 'model.' ~ project_name ~ '.quarantine_' ~ source_name ~ '__' ~ table -%}
    {%- if execute and flags.WHICH in ('run', 'build') and quarantine not in selected_resources -%}
        {%- do exceptions.raise_compiler_error(
            'stg_' ~ source_name ~ '__' ~ table ~ ' is built from its quarantine: select both, as in'
            ~ ' `dbt build --select quarantine staging`'
        ) -%}
    {%- endif -%}
    {%- set meta = quarantine_meta(source_name, table) -%}
    not exists (
            select 1
            from quarantined
            where
                {% for column, normalise in meta.key.items() -%}
                {{ normalised('raw_rows.' ~ column, normalise) }} = quarantined.{{ column }}
                and {% endfor -%}
                {% for column in meta.version -%}
                raw_rows.{{ column }} = quarantined.{{ column }}
                {{- '\n                and ' if not loop.last }}
                {%- endfor %}
        )
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
    The landing columns that end every staging model's `renamed`, from the alias `landed`. A deletion carries the
    record's last content: it is the record's current version and says when the record ended, at the end of the
    logical day that found it gone.
#}
{% macro landing_columns() -%}
    landed._source_deleted,
        case when landed._source_deleted then {{ end_of_day('landed.extract_date') }} end as deleted_at,
        landed._batch_id,
        cast(landed.extract_date as date) as _extract_date
{%- endmacro %}


{#
    Condition on rows of staging: of batches after the last one the model's own table holds, or of the days of a
    backfill, whose batches may have lower numbers; all in a full build.
#}
{% macro changed_since_last_build() -%}
    {%- set last_batch = last_built(this)[1] if execute and is_incremental() -%}
    {%- if last_batch -%}
    {%- set backfill = backfill_days() -%}
    (
            _batch_id > '{{ last_batch }}'
            {%- if backfill %}
            or _extract_date between cast('{{ backfill[0] }}' as date) and cast('{{ backfill[1] }}' as date)
            {%- endif %}
        )
    {%- else -%} true
    {%- endif -%}
{%- endmacro %}


{#
    Condition on rows of staging that changed_since_last_build, and that know the first batch of their record: had the
    model's own table another version of it?
#}
{% macro is_correction() -%}
    {%- set last_batch = last_built(this)[1] if execute and is_incremental() -%}
    {%- if last_batch -%} _first_batch_id <= '{{ last_batch }}' {%- else -%} false {%- endif -%}
{%- endmacro %}


{# Of each record that has a version in quarantine, the latest batch that brought one. #}
{% macro newest_quarantined() -%}
    {%- set key = unique_key_columns() -%}
    select
        {%- for column in key %}
        {{ column }},
        {%- endfor %}
        max(_batch_id) as last_batch_id
    from quarantined
    group by {% for column in key %}{{ loop.index }}{{ ', ' if not loop.last }}{% endfor %}
{%- endmacro %}


{#
    What a build merges: the rows of the CTE `renamed` that are ahead of the row already built with the same key,
    and built rows that have got a newer version in quarantine since. `ahead_by` says what makes a row ahead, most
    important first: (column, '>' or '<') pairs.
#}
{% macro ahead_of_built(ahead_by) -%}
    {%- set key = unique_key_columns() -%}
    {%- set flag = 'has_quarantined_version' -%}
    {%- set built_rows = built_rows() if is_incremental() -%}
    {#- a linter has to see names -#}
    {%- set columns = ['*'] if execute else key -%}
    {%- if execute and is_incremental() -%}
        {%- set columns = adapter.get_columns_in_relation(this) | map(attribute='name') | reject('equalto', flag) | list -%}
        {%- set missing = model.columns.keys() | reject('in', columns + [flag]) | list -%}
        {%- if missing -%}
            {%- do exceptions.raise_compiler_error(
                this.identifier ~ ' was built without ' ~ missing | join(', ')
                ~ ', which the model has now: build it and what depends on it with --full-refresh'
            ) -%}
        {%- endif -%}
    {%- endif -%}
    select
        {%- for column in columns %}
        {%- if column == '_first_batch_id' %}
        least(renamed.{{ column }}, coalesce(built.{{ column }}, renamed.{{ column }})) as {{ column }},
        {%- else %}
        renamed.{{ column }},
        {%- endif %}
        {%- endfor %}
        coalesce(newest_quarantined.last_batch_id > renamed._batch_id, false) as {{ flag }}
    from renamed
    left join newest_quarantined on {{ same_key('renamed', 'newest_quarantined', key) }}
    {%- if is_incremental() %}
    left join {{ built_rows }} as built on {{ same_key('renamed', 'built', key) }}
    where
        built.{{ key[0] }} is null
        or {{ is_ahead(ahead_by) }}
    union all
    select
        {%- for column in columns %}
        built.{{ column }},
        {%- endfor %}
        true as {{ flag }}
    from {{ built_rows }} as built
    inner join newest_quarantined on {{ same_key('built', 'newest_quarantined', key) }}
    left join renamed
        on
            {{ same_key('renamed', 'built', key) }}
            and ({{ is_ahead(ahead_by) }})
    where
        newest_quarantined.last_batch_id > built._batch_id
        and not built.{{ flag }}
        and renamed.{{ key[0] }} is null
    {%- endif -%}
{%- endmacro %}


{# The rows of the CTE `renamed` whose key has not been built: what a table that only grows merges. #}
{% macro not_yet_built() -%}
    {%- set key = unique_key_columns() -%}
    select renamed.*
    from renamed
    {%- if is_incremental() %}
    left join {{ built_rows() }} as built on {{ same_key('renamed', 'built', key) }}
    where built.{{ key[0] }} is null
    {%- endif -%}
{%- endmacro %}


{# The columns of the model's unique_key, as a list. #}
{% macro unique_key_columns() -%}
    {%- set key = config.get('unique_key') -%}
    {{ return([key] if key is string else key) }}
{%- endmacro %}


{% macro same_key(left, right, key) -%}
    {%- for column in key -%}
    {{ left }}.{{ column }} = {{ right }}.{{ column }}{{ ' and ' if not loop.last }}
    {%- endfor -%}
{%- endmacro %}


{# Is the row of `renamed` ahead of the one of `built`? #}
{% macro is_ahead(ahead_by) -%}
    {%- for column, sign in ahead_by -%}
    (
            {%- for earlier, _ in ahead_by[:loop.index0] -%}
            renamed.{{ earlier }} = built.{{ earlier }} and {% endfor -%}
            renamed.{{ column }} {{ sign }} built.{{ column }})
        {{- '\n        or ' if not loop.last }}
    {%- endfor -%}
{%- endmacro %}
