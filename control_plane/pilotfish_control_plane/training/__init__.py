"""Training: pipelines and jobs. What happens inside a job's process is in `trainer`."""
