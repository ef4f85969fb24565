"""Ways of training a network; each has the one verb `step`."""
