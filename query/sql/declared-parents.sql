-- what the cards declare, and whether the declared parent is stored
select c.repo_id as child, p.parent, c.declared_relation as relation, s.repo_id is not null as stored,
       c.license as child_license, s.license as parent_license
from latest_checkpoints c, unnest(c.declared_parents) as p(parent)
left join (select distinct repo_id, any_value(license) as license from latest_checkpoints group by repo_id) s
  on lower(s.repo_id) = lower(p.parent)
order by child, parent
