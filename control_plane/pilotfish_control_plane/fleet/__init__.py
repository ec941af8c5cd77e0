"""The members of the fleet: sidecars and nodes, their streams, leases and configuration."""
