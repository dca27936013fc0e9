-- checkpoints whose sampled weights are equal, value for value
select a.repo_id as earlier, b.repo_id as later, a.created_at as earlier_at, b.created_at as later_at,
       a.license as earlier_license, b.license as later_license
from latest_checkpoints a
join latest_checkpoints b on a.content_digest = b.content_digest and a.repo_id <> b.repo_id
where a.resolved > 0
  and (coalesce(a.created_at, 'infinity'), a.repo_id) < (coalesce(b.created_at, 'infinity'), b.repo_id)
order by earlier, later
