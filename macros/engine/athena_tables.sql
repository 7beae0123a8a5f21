{#
    What the adapter for Athena does with tables, where that is not safe or not gapless. DuckDB has none of it.
#}

{# Every table of dbt is Iceberg: the adapter's Hive tables take no timestamp(6), and no merge. #}
{% macro resolve_table_type() -%}
    {{ return(config.get('table_type') or 'iceberg') }}
{%- endmacro %}


{#
    What a unit test learns the types of its columns from, never their rows: a view does, and takes types that a table
    does not, such as the timestamp(0) of a literal in a fixture.
#}
{% macro athena__get_create_table_as_sql(temporary, relation, sql) -%}
    create or replace view {{ relation.render() }} as
    {{ sql }}
{%- endmacro %}


{#
    A table whose readers never find it missing or half made. It is built as one of two tables in the database
    `tables`, the one that nobody reads; then the view of the model's name is made to show it, in one step. The
    other one stays until the next build, for queries that are still reading it. The adapter's own way renames
    two tables, between which there is none.
#}
{% materialization table, adapter='athena' -%}
    {%- set view = this.incorporate(type='view') -%}
    {%- set existing = adapter.get_relation(this.database, this.schema, this.identifier) -%}
    {%- set built = free_slot(this, existing) -%}
    {{ run_hooks(pre_hooks) }}

    {%- set leftover = adapter.get_relation(built.database, built.schema, built.identifier) -%}
    {%- if leftover -%}
        {%- do drop_relation(leftover) -%}
    {%- endif -%}
    {%- do safe_create_table_as(False, built, compiled_code) -%}
    {%- if existing and existing.type == 'table' -%}
        {%- do drop_relation(existing) -%}
    {%- endif -%}
    {%- call statement('main') -%}
        create or replace view {{ view }} as
        select * from {{ built }}
    {%- endcall -%}

    {{ run_hooks(post_hooks) }}
    {%- do persist_docs(view, model) -%}
    {{ return({'relations': [view]}) }}
{%- endmaterialization %}


{# Of a model's two tables the one that its view does not show; the first where there is no view. #}
{% macro free_slot(relation, existing) -%}
    {%- set slots = [] -%}
    {%- for slot in ('a', 'b') -%}
        {%- do slots.append(api.Relation.create(
            database=relation.database,
            schema='tables',
            identifier=relation.schema ~ '__' ~ relation.identifier ~ '__' ~ slot,
            type='table'
        )) -%}
    {%- endfor -%}
    {%- if existing and existing.type == 'view' -%}
        {%- set shown = run_query('show create view ' ~ existing.render()).rows | map('first') | join('\n') -%}
        {%- if slots[0].identifier in shown -%} {{ return(slots[1]) }} {%- endif -%}
    {%- endif -%}
    {{ return(slots[0]) }}
{%- endmacro %}


{#
    The adapter drops a table by deleting whatever is below its location, as Glue says it. Here that has to be
    a folder of its own that dbt made, below LAKE/processed or LAKE/curated, or nothing is deleted. Glue forgets
    the table first: a build that dies in between leaves objects that nobody refers to, and no table without them.
#}
{% macro drop_relation_glue(relation) -%}
    {%- set location = adapter.get_glue_table_location(relation) -%}
    {%- if location and not is_own_folder(location, target.s3_data_dir) -%}
        {%- do exceptions.raise_compiler_error(
            relation.render() ~ ' is at ' ~ location ~ ', which is no folder that dbt made for one table below '
            ~ target.s3_data_dir ~ ': it is not dropped, for that would delete all that is there'
        ) -%}
    {%- endif -%}
    {%- do adapter.delete_from_glue_catalog(relation) -%}
    {%- if location -%}
        {%- do adapter.delete_from_s3(location) -%}
    {%- endif -%}
{%- endmacro %}


{# Is a location LAKE/processed/<schema>/<table>/<uuid>, or curated? `data_dir` is LAKE/processed/. #}
{% macro is_own_folder(location, data_dir) -%}
    {%- set lake = modules.re.escape(data_dir[:-('processed/' | length)]) -%}
    {%- set uuid = '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}' -%}
    {{ return(
        modules.re.fullmatch(lake ~ '(processed|curated)/[^/]+/[^/]+/' ~ uuid ~ '/?', location) is not none
    ) }}
{%- endmacro %}
