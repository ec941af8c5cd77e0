"""Artifacts: uploads, validation in an isolated process, and the store of files."""
