"""Experiments: what was run, with which parameters, and what came out."""
