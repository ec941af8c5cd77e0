"""The small HTTP side: metrics and probes."""
