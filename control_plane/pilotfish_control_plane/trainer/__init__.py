"""The code that runs inside a training job's own process.

    python -m pilotfish_control_plane.trainer --job-dir DIR

Its contract is a directory: it reads `spec.json`, appends progress to `events.jsonl`, leaves the files of the new
version in `artifact/` and ends by writing `result.json` once, atomically. It knows no gRPC, no protobuf messages of
pilotfish and no control-plane database, and needs nobody to stay alive while it works.

Importing this package is cheap: NumPy, pandas and scikit-learn are only imported by the modules that use them.
"""
