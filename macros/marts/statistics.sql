{#
    The ends of the interval that holds a share with 95 % confidence, where `hits` of `cases` were seen (Wilson 1927:
    right for few cases and for shares near 0 or 1 too). Null without a case.
#}
{% macro wilson_low(hits, cases) -%}
    {{ return(_wilson_end(hits, cases, '-')) }}
{%- endmacro %}

{% macro wilson_high(hits, cases) -%}
    {{ return(_wilson_end(hits, cases, '+')) }}
{%- endmacro %}

{% macro _wilson_end(hits, cases, sign) -%}
    {%- set n = 'cast(' ~ cases ~ ' as double)' -%}
    {%- set share = '(cast(' ~ hits ~ ' as double) / ' ~ n ~ ')' -%}
    {%- set z = 'cast(1.96 as double)' -%}
    case
            when {{ cases }} > 0
                then greatest(cast(0 as double), (
                    {{ share }} + {{ z }} * {{ z }} / (2 * {{ n }})
                    {{ sign }} {{ z }} * sqrt(
                        ({{ share }} * (1 - {{ share }}) + {{ z }} * {{ z }} / (4 * {{ n }})) / {{ n }}
                    )
                ) / (1 + {{ z }} * {{ z }} / {{ n }}))
        end
{%- endmacro %}


{#
    The standard error of an AUC over so many bad and good cases (Hanley and McNeil 1982). Null where there are none
    of either.
#}
{% macro auc_standard_error(auc, bads, goods) -%}
    case
            when {{ bads }} > 0 and {{ goods }} > 0
                then sqrt(greatest(cast(0 as double), (
                    {{ auc }} * (1 - {{ auc }})
                    + ({{ bads }} - 1) * ({{ auc }} / (2 - {{ auc }}) - {{ auc }} * {{ auc }})
                    + ({{ goods }} - 1) * (2 * {{ auc }} * {{ auc }} / (1 + {{ auc }}) - {{ auc }} * {{ auc }})
                ) / (cast({{ bads }} as double) * cast({{ goods }} as double))))
        end
{%- endmacro %}
