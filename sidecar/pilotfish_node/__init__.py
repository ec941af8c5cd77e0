"""The node: starts and watches the replicas and the gateway of one machine.

It never decides what should run: the control plane does, and the node holds on to the last configuration
it was given while the control plane is away.
"""
