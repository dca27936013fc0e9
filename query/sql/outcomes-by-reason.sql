-- what the crawls skipped or failed at, by reason
select status, stage, error, count(*) as n, max("at") as last, any_value(message) as example
from outcomes
where status <> 'done'
group by all
order by n desc, status, stage, error
