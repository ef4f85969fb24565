"""The pool of processes that all tests of ranks share."""

import pool as pools
import pytest


@pytest.fixture(scope="session")
def pool():
    """Five processes, connected by gloo; they start when the first test asks for them."""
    made = pools.Pool()
    yield made
    made.stop()
