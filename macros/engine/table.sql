{#
    A table on DuckDB, where a transaction replaces it in one step: readers see the old one or the new one. The
    adapter's own way builds it beside the old one, renames both and drops one, each in a statement and a Jinja
    context of its own. There are no grants and no indexes here.
#}
{% materialization table, adapter='duckdb' -%}
    {%- set target = this.incorporate(type='table') -%}
    {%- set existing = load_cached_relation(this) -%}
    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}
    {% call statement('main') -%}
        {%- if existing %}
        drop {{ existing.type }} {{ existing }};
        {%- endif %}
        {{ create_table_as(False, target, compiled_code) }}
    {%- endcall %}
    {%- do persist_docs(target, model) -%}
    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {%- do adapter.commit() -%}
    {{ run_hooks(post_hooks, inside_transaction=False) }}
    {{ return({'relations': [target]}) }}
{%- endmaterialization %}
