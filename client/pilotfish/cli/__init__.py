"""The command line `pilotfish`: one module per group of commands, the supervisor among them."""
