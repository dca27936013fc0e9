-- derivations that the card does not declare: the most direct ancestor of each child
select child, parent, relation, probability, log10_p, child_license, parent_license, license_differs
from lineage
where undeclared
qualify row_number() over (partition by child order by rank) = 1 or merge_weight is not null
order by child, parent
