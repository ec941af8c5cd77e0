"""The sidecar: captures predictions beside a model server, watches drift, spools, and reports to the control plane.

Nothing is imported here: `pilotfish_sidecar.tap` is loaded into model servers and must bring nothing along.
"""
