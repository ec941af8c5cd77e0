"""What is decided about deployments: pure functions of state, evidence and time.

No clock, no random, no SQL, no grpc: everything is passed in, so the automation can be simulated with a seed.
"""
