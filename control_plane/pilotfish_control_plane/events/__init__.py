"""The event log: what changed, in the order in which it was committed."""
