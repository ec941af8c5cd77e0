"""Tests of pilotfish."""
