"""Ways of training a network, each with the one verb `step`; and optimisers.

It knows networks and batches; it must not know runs: no record, no checkpoint, no display. Open
`base.py` first: what a method is; then `backprop.py`, the plainest one.
"""
