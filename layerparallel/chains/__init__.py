"""N steps, advanced as a rectangle of intervals; coarse levels and adjoints are chains as well.

It knows which steps are where and how they are evaluated together; it must not know the algorithm
that asks for them. Open `chain.py` first: the two things that a chain can do.
"""
