{#
    The rules a landed row must keep are data: `meta.rules` of its quarantine model, a mapping of a rule's name
    to {check: ..., column: ..., and what the check needs}. A rule is about the row alone, as it was landed: it
    never looks at other rows or a clock, so that what it says of a row is said for ever. Checks:

    cpf         11 digits, not all the same, with valid check digits; punctuation is allowed
    email       one @, a name before and a domain with a dot after it, no blank
    state       a code of two letters is one of var `state_codes`; a longer text is a region of another country
    currency    a code of ISO 4217
    range       min <= column <= max, above < column: whole numbers
    day         min <= day of column <= max (YYYY-MM-DD); without max: no later than the day after extract_date
    not_before  column is not before `than`
    not_blank   not null, not blanks only
    one_of      one of `values`
    never       a condition in SQL that holds on both engines and must never be true

    Null passes every check but not_blank: whether a column may be null is for never_null to say.
#}

{# The names of the rules a raw row breaks, 'a, b', or null. A deletion breaks none: its content counts no more. #}
{% macro broken_rules(rules) -%}
    case
        when not _source_deleted
            then nullif(substr(
                {%- for name, rule in rules.items() %}
                case when {{ rule_is_broken(rule) }} then ', {{ name }}' else '' end
                {{- ' ||' if not loop.last }}
                {%- endfor %},
                3
            ), '')
    end
{%- endmacro %}


{# A condition over raw columns: is the rule broken? #}
{% macro rule_is_broken(rule) -%}
    {%- set column = rule.get('column') -%}
    {%- if rule.check == 'cpf' -%} {{ cpf_is_invalid(digits(column)) }}
    {%- elif rule.check == 'email' -%}
        (trim({{ column }}) not like '%_@_%._%' or trim({{ column }}) like '% %' or {{ column }} like '%@%@%')
    {%- elif rule.check == 'state' -%}
        (length(trim({{ column }})) = 2 and {{ state_code(column) }} not in ({{ text_list(var('state_codes').split()) }}))
    {%- elif rule.check == 'currency' -%}
        {{ currency_code(column) }} not in ({{ text_list(iso_4217_codes()) }})
    {%- elif rule.check == 'range' -%}
        {%- set bounds = [] -%}
        {%- for bound, sign in (('min', '<'), ('max', '>'), ('above', '<=')) if bound in rule -%}
            {%- do bounds.append(column ~ ' ' ~ sign ~ ' ' ~ rule[bound]) -%}
        {%- endfor -%}
        ({{ bounds | join(' or ') }})
    {%- elif rule.check == 'day' -%}
        {%- set last = "cast('" ~ rule.max ~ "' as date)" if 'max' in rule else add_days('cast(extract_date as date)', 1) -%}
        cast({{ ts(column) }} as date) not between cast('{{ rule.get('min', '1900-01-01') }}' as date) and {{ last }}
    {%- elif rule.check == 'not_before' -%} {{ column }} < {{ rule.than }}
    {%- elif rule.check == 'not_blank' -%} coalesce(trim({{ column }}), '') = ''
    {%- elif rule.check == 'one_of' -%} {{ column }} not in ({{ text_list(rule['values']) }})
    {%- elif rule.check == 'never' -%} ({{ rule.condition }})
    {%- else -%}
        {%- do exceptions.raise_compiler_error("no check is called '" ~ rule.check ~ "': see macros/quarantine/rules.sql") -%}
    {%- endif -%}
{%- endmacro %}


{# Is a text of digits no CPF? The last two digits follow from the nine before. #}
{% macro cpf_is_invalid(cpf) -%}
    (
        length({{ cpf }}) <> 11
        or replace({{ cpf }}, substr({{ cpf }}, 1, 1), '') = ''
        {%- for place in (10, 11) %}
        or (
            {% for digit in range(1, place) -%}
            coalesce(try_cast(substr({{ cpf }}, {{ digit }}, 1) as integer), 0) * {{ place + 1 - digit }}
            {{- ' + ' if not loop.last }}
            {%- endfor %}
        ) * 10 % 11 % 10 <> try_cast(substr({{ cpf }}, {{ place }}, 1) as integer)
        {%- endfor %}
    )
{%- endmacro %}


{# Texts as a list of SQL literals. #}
{% macro text_list(texts) -%}
    {%- for text in texts -%} '{{ text }}'{{ ', ' if not loop.last }} {%- endfor -%}
{%- endmacro %}


{# The codes of ISO 4217 in use, funds and metals left out; those the euro replaced stay for old contracts. #}
{% macro iso_4217_codes() -%}
    {{ return((
        'AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF'
        ~ ' CHF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD'
        ~ ' HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD'
        ~ ' LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK'
        ~ ' PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS'
        ~ ' TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VES VND VUV WST XAF XCD XOF XPF YER ZAR ZMW ZWG'
        ~ ' ATS BEF CYP DEM EEK ESP FIM FRF GRD HRK IEP ITL LTL LUF LVL MTL NLG PTE SIT SKK'
    ).split()) }}
{%- endmacro %}
