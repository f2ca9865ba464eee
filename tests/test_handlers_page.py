"""The page on Pyro's handlers says what they do."""

import doctest
from pathlib import Path

PAGE = Path(__file__).parent.parent / "experiments" / "handlers.md"


def test_every_block_gives_its_output():
    found = doctest.testfile(str(PAGE), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 30 and found.failed == 0
