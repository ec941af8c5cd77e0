"""Generated stubs of the TensorFlow Serving's Predict; made by `make protos`, never edited."""
