{#
    The pattern of every quarantine model: the raw rows that break a rule, one row a version, whole and with every
    reason; and from when on the record was good again or gone. Staging leaves these rows out.

    source_name, table   the raw table; the model is called quarantine_<source_name>__<table>, and its meta has
                         `rules`, `key` (column: macro that normalises it, or as_is) and, where a batch may hold a
                         record twice, `version` (what tells the copies apart)

    A build reads the days that staging has not built yet and the last one it has, whole: what was landed while an
    earlier build ran may have been looked at by one of the two alone. When nothing is broken and nothing was open, it
    merges nothing.
#}
{% macro quarantined_rows(source_name, table) -%}
{%- set meta = quarantine_meta(source_name, table) -%}
{%- set raw = source(source_name, table) -%}
{%- set since = landed_since_last_build(staging_relation(source_name, table), whole_day=true) -%}
{%- set names = meta.key.keys() | list + meta.version -%}
{%- set columns = raw_columns(source_name, table) -%}

with

broken as (

    select
        {%- for column, normalise in meta.key.items() %}
        {{ normalised(column, normalise) }} as {{ column }},
        {%- endfor %}
        {%- for column in meta.version if column != '_batch_id' %}
        {{ column }},
        {%- endfor %}
        {{ broken_rules(meta.rules) }} as reasons,
        cast(extract_date as date) as first_seen,
        _batch_id,
        {{ json_text(columns, meta.lists, raw) }} as payload
    from {{ raw }}
    where {{ since }}

),

candidates as (

    select
        {{ names | join(', ') }},
        reasons,
        first_seen,
        {{ '_batch_id,' if '_batch_id' not in names }}
        payload
    from broken
    where reasons is not null
    {%- if is_incremental() %}
    union
    select
        {{ names | join(', ') }},
        reasons,
        first_seen,
        {{ '_batch_id,' if '_batch_id' not in names }}
        payload
    from {{ this }}
    where resolved_at is null
    {%- endif %}

),

landed as (

    select
        {%- for column, normalise in meta.key.items() %}
        {{ normalised(column, normalise) }} as {{ column }},
        {%- endfor %}
        {%- for column in meta.version if column != '_batch_id' %}
        {{ column }},
        {%- endfor %}
        _batch_id,
        extract_date
    from {{ raw }}
    where {{ since }}

),

-- a later version that is not in quarantine itself, be it good or the record's end
resolutions as (

    select
        {%- for column in names %}
        candidates.{{ column }},
        {%- endfor %}
        cast(min(landed.extract_date) as date) as resolved_at
    from candidates
    inner join landed
        on
            {% for column in meta.key -%}
            candidates.{{ column }} = landed.{{ column }}
            and {% endfor -%}
            candidates._batch_id <= landed._batch_id
    left join candidates as also_broken
        on
            {% for column in names -%}
            landed.{{ column }} = also_broken.{{ column }}
            {{- '\n            and ' if not loop.last }}
            {%- endfor %}
    where also_broken.{{ names[0] }} is null
    group by {% for column in names %}{{ loop.index }}{{ ', ' if not loop.last }}{% endfor %}

),

final as (

    select
        {%- for column in meta.key %}
        candidates.{{ column }},
        {%- endfor %}
        {%- for column in meta.version if column != '_batch_id' %}
        candidates.{{ column }},
        {%- endfor %}
        candidates.reasons,
        candidates.first_seen,
        resolutions.resolved_at,
        candidates._batch_id,
        candidates.payload
    from candidates
    left join resolutions
        on
            {% for column in names -%}
            candidates.{{ column }} = resolutions.{{ column }}
            {{- '\n            and ' if not loop.last }}
            {%- endfor %}

)

select * from final
{%- endmacro %}


{# What a quarantine model's meta says of its raw table, with defaults. #}
{% macro quarantine_meta(source_name, table) -%}
    {%- set node = graph.get('nodes', {}).get('model.' ~ project_name ~ '.quarantine_' ~ source_name ~ '__' ~ table) -%}
    {%- set meta = node.config.meta if node else {} -%}
    {{ return({
        'rules': meta.get('rules', {}),
        'key': meta.get('key', {}),
        'version': meta.get('version', ['_batch_id']),
        'lists': meta.get('lists', []),
    }) }}
{%- endmacro %}


{# A raw column as staging keeps it. #}
{% macro normalised(column, how) -%}
    {%- if how == 'as_is' -%} {{ column }}
    {%- elif how == 'digits' -%} {{ digits(column) }}
    {%- elif how == 'ts' -%} {{ ts(column) }}
    {%- elif how == 'currency_code' -%} {{ currency_code(column) }}
    {%- else -%} {%- do exceptions.raise_compiler_error("a key cannot be normalised by '" ~ how ~ "'") -%}
    {%- endif -%}
{%- endmacro %}


{# The columns a raw table has from its source, without what the landing adds. #}
{% macro raw_columns(source_name, table) -%}
    {%- set node = graph.get('sources', {}).get('source.' ~ project_name ~ '.' ~ source_name ~ '.' ~ table) -%}
    {{ return(
        node.columns.keys() | reject('in', ['_batch_id', '_extracted_at', '_source_deleted', 'extract_date']) | list
        if node else []
    ) }}
{%- endmacro %}


{#
    The table of a staging model as it is before this build: no ref(), for staging is built from the quarantine.
    None when it does not exist.
#}
{% macro staging_relation(source_name, table) -%}
    {%- set node = graph.get('nodes', {}).get('model.' ~ project_name ~ '.stg_' ~ source_name ~ '__' ~ table) -%}
    {%- if not execute or not node -%} {{ return(none) }} {%- endif -%}
    {{ return(adapter.get_relation(node.database, node.schema, node.alias)) }}
{%- endmacro %}


{# A row of a relation as JSON: every column a text, a list its items joined by commas. #}
{% macro json_text(columns, lists, relation) -%}
    {{ return(adapter.dispatch('json_text')(columns, lists, relation)) }}
{%- endmacro %}

{% macro default__json_text(columns, lists, relation) -%}
    cast(to_json({
        {%- for column in columns %}
            '{{ column }}': {{ list_to_text(column) if column in lists else 'cast(' ~ column ~ ' as varchar)' }}
            {{- ',' if not loop.last }}
        {%- endfor %}
        }) as varchar)
{%- endmacro %}

{# Piece by piece, for a map would sort its keys; times as DuckDB writes them, though Athena knows no microseconds. #}
{% macro athena__json_text(columns, lists, relation) -%}
    {%- set times = [] -%}
    {%- if execute -%}
        {%- for column in adapter.get_columns_in_relation(relation) if column.data_type.startswith('timestamp') -%}
            {%- do times.append(column.name) -%}
        {%- endfor -%}
    {%- endif -%}
    '{'
    {%- for column in columns %}
    || '{{ ',' if not loop.first }}"{{ column }}":' || coalesce(json_format(cast(
        {%- if column in lists %} {{ list_to_text(column) }}
        {%- elif column in times %} regexp_replace(cast({{ column }} as varchar), '[.]?0*$', '') || '+00'
        {%- else %} cast({{ column }} as varchar)
        {%- endif %} as json)), 'null')
    {%- endfor %}
    || '}'
{%- endmacro %}
