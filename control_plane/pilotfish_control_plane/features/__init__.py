"""The feature store: named, versioned definitions of features, and their statistics per job."""
