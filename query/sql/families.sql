-- model types and sizes in the store
select model_type, n_layers, hidden_size, count(*) as checkpoints, min(created_at) as first, max(created_at) as last
from latest_checkpoints
group by all
order by checkpoints desc, model_type, n_layers
