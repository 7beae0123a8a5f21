{#
    An incremental model on Athena: what its query finds is merged by the key, in one commit. The adapter's own way
    reads the whole table for it; here only the years that the rows to merge are of (macros/staging/built_rows.sql),
    and nothing where there is nothing to merge.
#}
{% materialization incremental, adapter='athena' -%}
    {%- set target_relation = this.incorporate(type='table') -%}
    {%- set existing = adapter.get_relation(this.database, this.schema, this.identifier) -%}
    {{ run_hooks(pre_hooks) }}

    {%- if existing is none or existing.type == 'view' or should_full_refresh() -%}
        {%- if existing -%}
            {%- do drop_relation(existing) -%}
        {%- endif -%}
        {%- set done = safe_create_table_as(False, target_relation, compiled_code) -%}
    {%- else -%}
        {%- set found = make_temp_relation(target_relation, '__dbt_tmp') -%}
        {%- set leftover = adapter.get_relation(found.database, found.schema, found.identifier) -%}
        {%- if leftover -%}
            {%- do drop_relation(leftover) -%}
        {%- endif -%}
        {%- do safe_create_table_as(True, found, compiled_code) -%}
        {%- set column = partition_column() -%}
        {%- if not run_query('select count(*) from ' ~ found).rows[0][0] -%}
            {%- do process_schema_changes(config.get('on_schema_change'), found, existing) -%}
            {%- set done = 'nothing to merge' -%}
        {%- else -%}
            {%- set done = iceberg_merge(
                on_schema_change=config.get('on_schema_change'),
                tmp_relation=found,
                target_relation=target_relation,
                unique_key=config.get('unique_key'),
                incremental_predicates=[is_in_years('target.' ~ column, years_of(found, column))] if column else none,
                existing_relation=existing,
                delete_condition=none,
                update_condition=config.get('update_condition'),
                insert_condition=none,
                force_batch=false,
            ) -%}
        {%- endif -%}
        {%- do drop_relation(found) -%}
    {%- endif -%}
    {%- call noop_statement('main', done) -%} {{ compiled_code }} {%- endcall -%}

    {{ run_hooks(post_hooks) }}
    {%- do persist_docs(target_relation, model) -%}
    {%- do adapter.expire_glue_table_versions(target_relation, 1, False) -%}
    {{ return({'relations': [target_relation]}) }}
{%- endmaterialization %}
