{#
    dbt run-operation maintain
    On Athena, from time to time: the files that daily merges leave small are written anew together (OPTIMIZE), and
    snapshots older than five days go, with the files that nothing refers to any more (VACUUM). Tables that are built
    whole need none of it. Readers are not disturbed. On DuckDB there is nothing to do.
#}
{% macro maintain() -%}
    {{ return(adapter.dispatch('maintain')()) }}
{%- endmacro %}

{% macro default__maintain() -%}
    {%- do log('nothing to maintain on ' ~ target.type, info=true) -%}
{%- endmacro %}

{% macro athena__maintain() -%}
    {%- for node in graph.nodes.values() if node.config.materialized in ('incremental', 'snapshot') -%}
        {%- set relation = adapter.get_relation(node.database, node.schema, node.alias) -%}
        {%- if relation and relation.type == 'table' -%}
            {%- set name = relation.schema ~ '.' ~ relation.identifier -%}
            {%- do log('optimize and vacuum ' ~ name, info=true) -%}
            {%- do run_query('optimize ' ~ name ~ ' rewrite data using bin_pack') -%}
            {%- do run_query('vacuum ' ~ name) -%}
        {%- endif -%}
    {%- endfor -%}
{%- endmacro %}
