"""Shows runs: the report page with its figures, wandb's dashboard, and the table of metrics."""
