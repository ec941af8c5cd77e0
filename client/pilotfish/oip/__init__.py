"""Generated stubs of the Open Inference Protocol v2; made by `make protos`, never edited."""
