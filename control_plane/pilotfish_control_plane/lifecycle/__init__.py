"""Lifecycle automation: rules, their firings, and retirement plans."""
