-- declared parents that the weights do not come from, and the ancestor found instead
select l.child, l.parent as declared_parent, l.score, l.log10_p,
       (select first(a.parent order by a.rank) from lineage a where a.child = l.child and a.verdict = 'derived') as found_instead
from lineage l
where l.contradicted
order by l.child, l.parent
