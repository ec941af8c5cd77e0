"""The gRPC edge: interceptors, error mapping and one servicer per area."""
