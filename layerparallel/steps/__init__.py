"""What one step is: residual functions, integrators, layers, and what a step may not do.

It knows states, modules and functions; it must not know that steps stand in a chain. Open
`state.py` first, then `fields.py`: residual functions of many steps at once.
"""
