"""The registry: models, their versions, and where each version stands."""
