"""`pilotfish demo`: the whole life of a model, on real data, with real processes, in a few minutes."""
