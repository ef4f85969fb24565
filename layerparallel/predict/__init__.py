"""How a training would scale over a cluster that one does not have, found out on one process.

It knows solvers' schedules and virtual ranks; nothing but the command line knows it. Open `task.py`
first: what is predicted; then `estimate.py` and `scaling.py`.
"""
