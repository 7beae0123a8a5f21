-- A reference that the source enforces leads to a record that was landed, be it in quarantine or deleted since.

select *
from {{ ref('quarantine_children') }}
where
    is_enforced
    and parent_fate = 'unknown'
