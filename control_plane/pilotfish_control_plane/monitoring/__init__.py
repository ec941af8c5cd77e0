"""Monitoring: what sidecars report becomes verdicts, evidence, alerts and reports."""
