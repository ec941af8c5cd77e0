"""Generated stubs of TensorFlow Serving's Predict; made by `make protos`, never edited."""
