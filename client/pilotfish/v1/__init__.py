"""Generated stubs of the contract pilotfish.v1; made by `make protos`, never edited."""
