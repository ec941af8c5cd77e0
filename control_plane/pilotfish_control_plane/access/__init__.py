"""Principals, tokens and role bindings: who calls, and what each may do."""
