"""What tests of compiled steps share."""

import pytest

from pyrovae.training import traced


@pytest.fixture
def as_traced(monkeypatch):
    """Graphs are run as they were traced, operation by operation, in place of machine code, which takes ten seconds;
    they are kept in this list."""
    made = []

    def compiled(graph, inputs):
        made.append(graph)
        return graph

    monkeypatch.setattr(traced, "_inductor", compiled)
    return made
