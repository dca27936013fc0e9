-- children under another license than an ancestor of theirs
select child, child_license, parent, parent_license, relation, declared
from lineage
where verdict = 'derived' and license_differs
order by child, rank
