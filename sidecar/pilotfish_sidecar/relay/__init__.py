"""The relay: a pass-through in front of any model server, with a tee to the decoder's process.

It never alters, delays or refuses the bytes of a call, whatever the decoder, the agent, their disks or the control
plane do. What it cannot hand to the decoder it counts.
"""
