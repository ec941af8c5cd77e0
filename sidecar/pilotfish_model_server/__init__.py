"""The bundled model server: ONNX models over the Open Inference Protocol v2, gRPC and REST, tapped from inside."""
