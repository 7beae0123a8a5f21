{#
    dbt run-operation maintain
    On Athena, from time to time: the files that daily merges leave small are written anew together (OPTIMIZE), and
    snapshots older than five days go, with the files that nothing refers to any more (VACUUM). Tables that are built
    whole need none of it; the lease of builds, a row that each build changes some times, does. Readers are not
    disturbed. On DuckDB there is nothing to do.
#}
{% macro maintain() -%}
    {{ return(adapter.dispatch('maintain')()) }}
{%- endmacro %}

{% macro default__maintain() -%}
    {%- do log('nothing to maintain on ' ~ target.type, info=true) -%}
{%- endmacro %}

{% macro athena__maintain() -%}
    {%- set changing = [build_lease()] -%}
    {%- for node in graph.nodes.values() if node.config.materialized in ('incremental', 'snapshot') -%}
        {%- do changing.append(api.Relation.create(database=node.database, schema=node.schema, identifier=node.alias)) -%}
    {%- endfor -%}
    {%- for each in changing -%}
        {%- set relation = adapter.get_relation(each.database, each.schema, each.identifier) -%}
        {%- if relation and relation.type == 'table' -%}
            {%- set name = relation.schema ~ '.' ~ relation.identifier -%}
            {%- do log('optimize and vacuum ' ~ name, info=true) -%}
            {#- Of a large table Athena does a part and fails with "run it again". -#}
            {%- do adapter.run_operation_with_potential_multiple_runs(
                'optimize ' ~ name ~ ' rewrite data using bin_pack', 'optimize'
            ) -%}
            {%- do adapter.run_operation_with_potential_multiple_runs('vacuum ' ~ name, 'vacuum') -%}
        {%- endif -%}
    {%- endfor -%}
{%- endmacro %}
