"""The loops that move desired state to actual state, and the outbox of actions."""
