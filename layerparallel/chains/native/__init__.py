"""Native loops: a step, traced into a list of operations, and machine code that walks a chain of it.

It knows operations on one sample and how a compiler makes code of them; it must not know chains or
solvers. Open `program.py` first: the list of operations; then `trace.py`, which writes it, and
`walking.py`, which makes C of it.
"""
