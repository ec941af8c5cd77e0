"""Long-running work as operations: views of jobs, rollouts and deployments."""
