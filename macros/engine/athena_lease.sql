{#
    One build at a time. On DuckDB the file's lock keeps others out. On Athena two builds would write the same tables:
    the first one to change the only row of `tables.build_lease` may build, and says now and then that it is still at
    work. Iceberg refuses the second of two changes of one row, so there is one winner. A build that was killed leaves
    its name there; it counts no more after BUILD_LEASE_SECONDS without a word of it. By default that is longer than
    the longest statement that Athena runs, 30 minutes: none that a dead build began can end in the next one.
#}

{# dbt_project.yml: on-run-start. Refuses while another build is at work. #}
{% macro begin_build() -%}
    {%- if execute and flags.WHICH != 'test' -%}
        {%- do adapter.dispatch('begin_build')() -%}
    {%- endif -%}
{%- endmacro %}

{% macro default__begin_build() -%}{%- endmacro %}

{% macro athena__begin_build() -%}
    {%- set lease = build_lease() -%}
    {%- do create_schema(lease) -%}
    {%- if not adapter.get_relation(lease.database, lease.schema, lease.identifier) -%}
        {%- do run_query(
            "create table " ~ lease.render() ~ " with (table_type = 'iceberg', is_external = false, format = 'parquet', location = '"
            ~ adapter.generate_s3_location(lease, target.s3_data_dir, target.s3_data_naming) ~ "') as select cast('' as varchar) as build, "
            ~ lease_now() ~ ' as heard_of'
        ) -%}
    {%- endif -%}
    {%- set mine = change_lease(invocation_id, "build in ('', '" ~ invocation_id ~ "') or heard_of < "
        ~ lease_now() ~ " - interval '" ~ lease_seconds() ~ "' second") -%}
    {%- if not mine -%}
        {%- set other = run_query(
            "select build, date_diff('second', heard_of, " ~ lease_now() ~ ') from ' ~ lease.render()
        ).rows[0] -%}
        {%- do exceptions.raise_compiler_error(
            'another build is at work: dbt invocation ' ~ other[0] ~ ', heard of ' ~ other[1] ~ ' s ago. Wait for its end;'
            ~ ' if it was killed, builds may begin again ' ~ lease_seconds() ~ ' s after that (BUILD_LEASE_SECONDS), or at'
            ~ ' once after `dbt run-operation end_other_build`'
        ) -%}
    {%- endif -%}
    {%- do graph.update({'lease_renewed': modules.datetime.datetime.now()}) -%}
{%- endmacro %}


{#
    dbt_project.yml: before each model, snapshot and seed. Renews the lease when half of it is over, and ends a build
    that has lost it: nothing of it begins any more, for the other build may be writing the same tables.
#}
{% macro go_on_building() -%}
    {%- do adapter.dispatch('go_on_building')() -%}
{%- endmacro %}

{% macro default__go_on_building() -%}{%- endmacro %}

{% macro athena__go_on_building() -%}
    {%- set now = modules.datetime.datetime.now() -%}
    {%- if execute and 'lease_renewed' in graph -%}
        {%- if not graph.get('lease_lost') and (now - graph['lease_renewed']).total_seconds() > lease_seconds() / 2 -%}
            {%- do graph.update({'lease_renewed': now}) -%}
            {%- do graph.update({'lease_lost': not change_lease(invocation_id, "build = '" ~ invocation_id ~ "'")}) -%}
        {%- endif -%}
        {%- if graph.get('lease_lost') -%}
            {%- do exceptions.raise_compiler_error(
                'another build has taken over, for nothing was heard of this one for ' ~ lease_seconds()
                ~ ' s (BUILD_LEASE_SECONDS): this one ends'
            ) -%}
        {%- endif -%}
    {%- endif -%}
{%- endmacro %}


{# dbt_project.yml: on-run-end, which also comes after failed models. #}
{% macro end_build() -%}
    {%- if execute and 'lease_renewed' in graph -%}
        {%- do change_lease('', "build = '" ~ invocation_id ~ "'") -%}
    {%- endif -%}
{%- endmacro %}


{# dbt run-operation end_other_build: when it is known that the build whose name is in the lease was killed. #}
{% macro end_other_build() -%}
    {%- do change_lease('', 'true') -%}
{%- endmacro %}


{# Give the lease to a build ('' is nobody) on a condition; whether that held. #}
{% macro change_lease(build, condition) -%}
    {%- call statement('lease') -%}
        update {{ build_lease().render() }}
        set build = '{{ build }}', heard_of = {{ lease_now() }}
        where {{ condition }}
    {%- endcall -%}
    {{ return(load_result('lease').response.rows_affected == 1) }}
{%- endmacro %}


{% macro build_lease() -%}
    {{ return(api.Relation.create(database=target.database, schema='tables', identifier='build_lease', type='table')) }}
{%- endmacro %}


{# Athena's own clock: those of two machines differ. #}
{% macro lease_now() -%}
    cast(current_timestamp at time zone 'UTC' as timestamp(6))
{%- endmacro %}


{% macro lease_seconds() -%}
    {{ return(env_var('BUILD_LEASE_SECONDS', '') | int or 2100) }}
{%- endmacro %}
