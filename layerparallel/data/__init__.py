"""Data sets: generated, or read from files that the user has."""
