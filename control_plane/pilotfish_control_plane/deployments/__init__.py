"""Endpoints, deployments, replicas, traffic, rollouts: what serves, and how it comes and goes."""
