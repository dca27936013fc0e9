-- checkpoints whose sampled weights are equal, value for value; order_known says whether dates tell who was earlier
select a.repo_id as earlier, b.repo_id as later, coalesce(a.created_at < b.created_at, false) as order_known,
       a.created_at as earlier_at, b.created_at as later_at, a.license as earlier_license, b.license as later_license
from latest_checkpoints a
join latest_checkpoints b on a.content_digest = b.content_digest and a.repo_id <> b.repo_id
where a.resolved > 0
  and exists (select 1 from tensors t where t.fingerprint_id = a.fingerprint_id and t.digest is not null)
  and (coalesce(a.created_at, 'infinity'), a.repo_id) < (coalesce(b.created_at, 'infinity'), b.repo_id)
order by earlier, later
