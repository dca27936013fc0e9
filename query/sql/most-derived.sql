-- roots by the number of their stored descendants, undeclared ones counted apart
select d.root, count(distinct d.descendant) as descendants,
       count(distinct d.descendant) filter (l.undeclared) as undeclared
from descendants d
left join lineage l on l.child = d.descendant and l.parent = d.root
where d.root not in (select child from lineage where verdict = 'derived' and direction = 'parent')
group by d.root
order by descendants desc, d.root
