"""The lists of bugs that `make mutants` plants: each still fits the file that it is planted in."""

import pytest

from tests.mutants import ROOT, Mutant, mutants


@pytest.mark.parametrize("mutant", mutants([]), ids=lambda mutant: mutant.why)
def test_each_can_be_planted(mutant: Mutant) -> None:
    count = (ROOT / mutant.file).read_text().count(mutant.old)
    assert count == 1, f"`old` occurs {count} times in {mutant.file}: update the entry in tests/mutants/"
    assert mutant.new != mutant.old
    for test in mutant.tests:
        assert (ROOT / test).exists()
