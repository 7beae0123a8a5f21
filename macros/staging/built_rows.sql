{#
    The rows of the model's own table that a landed row may be a version of. On DuckDB that is all of them. On Athena,
    which bills what it reads, a table is partitioned by the year of a time that a record keeps from its first version
    to its last (`partitioned_by`), and only years of landed rows are read; a month around each is looked at as well,
    for a time that was corrected.

    A record that turned up in another year than before, more than a month away, would be taken for a new one. The
    tests of staging's keys find it; --full-refresh mends it.
#}
{% macro built_rows() -%}
    {{ return(adapter.dispatch('built_rows')()) }}
{%- endmacro %}

{% macro default__built_rows() -%}
    {{ return(this) }}
{%- endmacro %}

{% macro athena__built_rows() -%}
    {%- set condition = 'true' -%}
    {%- if execute and '_batch_id' in unique_key_columns() -%}
        {#- A version is of the day of its batch. -#}
        {%- if last_built(this)[0] -%}
            {%- set days = [last_built(this)[0] | string] + (backfill_days() or []) -%}
            {%- set condition = "_extract_date >= cast('" ~ days | min ~ "' as date)" -%}
        {%- endif -%}
    {%- elif execute and partition_column() -%}
        {%- set column = partition_column() -%}
        {%- set source_name, table = model.sources[0] -%}
        {%- set time = normalised(column, 'as_is' if column.endswith('_date') else 'ts') -%}
        {#- A row whose own time breaks a rule may be of any year. -#}
        {%- for rule in quarantine_meta(source_name, table).rules.values() if rule.get('column') == column -%}
            {%- set time = 'case when not (' ~ rule_is_broken(rule) ~ ') then ' ~ time ~ ' end' -%}
        {%- endfor -%}
        {%- set condition = is_in_years(column, years_of(source(source_name, table), time, landed_since_last_build())) -%}
    {%- endif -%}
    {{ return('(select * from ' ~ this ~ ' where ' ~ condition ~ ')') }}
{%- endmacro %}


{# The column of the model's `partitioned_by`, ['year(column)'], or none. #}
{% macro partition_column() -%}
    {%- set partitioned_by = config.get('partitioned_by') -%}
    {%- if not partitioned_by -%} {{ return(none) }} {%- endif -%}
    {{ return(modules.re.fullmatch('year\((\w+)\)', partitioned_by[0]).group(1)) }}
{%- endmacro %}


{# The years in which, or within a month of which, a time of a relation's rows is; none where one is unknown. #}
{% macro years_of(relation, time, condition='true') -%}
    {%- set query -%}
        select distinct extract(year from {{ dbt.dateadd('day', 'days.apart', 'times.moment') }})
        from (select {{ time }} as moment from {{ relation }} where {{ condition }}) as times
        cross join (select -31 as apart union all select 0 union all select 31) as days
    {%- endset -%}
    {%- set years = run_query(query).columns[0].values() | list -%}
    {{ return(none if none in years else years | sort) }}
{%- endmacro %}


{# A condition: is the column's time in one of some years? Of no years when none is given: true. #}
{% macro is_in_years(column, years) -%}
    {%- if years is none -%} {{ return('true') }} {%- endif -%}
    {%- set ranges = [] -%}
    {%- for year in years -%}
        {%- do ranges.append("(%s >= date '%04d-01-01' and %s < date '%04d-01-01')" % (column, year | int, column, year | int + 1)) -%}
    {%- endfor -%}
    {{ return('(' ~ (ranges | join(' or ') or 'false') ~ ')') }}
{%- endmacro %}


{#
    Of rows of staging that changed_since_last_build, the years that a time of theirs is in, for Athena to read less
    (is_in_years). None, which is all, on DuckDB, in a full build, and where a row had another version before, which
    may have been of any year.
#}
{% macro years_of_changes(relation, time) -%}
    {{ return(adapter.dispatch('years_of_changes')(relation, time)) }}
{%- endmacro %}

{% macro default__years_of_changes(relation, time) -%}
    {{ return(none) }}
{%- endmacro %}

{% macro athena__years_of_changes(relation, time) -%}
    {%- if execute and is_incremental() -%}
        {%- set time = 'case when not (' ~ is_correction() ~ ') then ' ~ time ~ ' end' -%}
        {{ return(years_of(relation, time, changed_since_last_build())) }}
    {%- endif -%}
    {{ return(none) }}
{%- endmacro %}
