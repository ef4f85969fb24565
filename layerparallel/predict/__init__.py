"""Prediction: what a cluster would take, from one process. `command.predict` is the command line."""
