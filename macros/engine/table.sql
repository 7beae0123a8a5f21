{#
    A table on DuckDB, where a transaction replaces it in one step: readers see the old one or the new one. The
    adapter's own way builds it beside the old one, renames both and drops one, each in a statement and a Jinja
    context of its own. A contract is held against the table that was made, before the transaction ends: to ask the
    query for its columns would plan it once more, and to insert into a table that was declared takes longer than to
    create it. There are no grants, no indexes and no constraints here.
#}
{% materialization table, adapter='duckdb' -%}
    {%- set target = this.incorporate(type='table') -%}
    {%- set existing = load_cached_relation(this) -%}
    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}
    {%- if model.constraints or model.columns.values() | selectattr('constraints') | list %}
        {%- do exceptions.raise_compiler_error("constraints are not made on DuckDB: write a data test instead") %}
    {%- endif %}
    {% call statement('main') -%}
        {%- if existing %}
        drop {{ existing.type }} {{ existing }};
        {%- endif %}
        create table {{ target }} as (
            {{ compiled_code }}
        )
    {%- endcall %}
    {%- if config.get('contract').enforced %}
        {{- get_assert_columns_equivalent('select * from ' ~ target) }}
    {%- endif %}
    {%- do persist_docs(target, model) -%}
    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {%- do adapter.commit() -%}
    {{ run_hooks(post_hooks, inside_transaction=False) }}
    {{ return({'relations': [target]}) }}
{%- endmaterialization %}
