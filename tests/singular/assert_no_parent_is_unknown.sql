-- A reference that the source enforces leads to a record that was landed, be it in quarantine or deleted since.

select
    child_table,
    child_key,
    parent_table,
    parent_key
from {{ ref('quarantine_children') }}
where
    is_enforced
    and parent_fate = 'unknown'
