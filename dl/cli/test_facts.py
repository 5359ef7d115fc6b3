"""facts.json says of models what is so."""

import pytest

from dl.cli import catalogue, facts


@pytest.mark.parametrize("name", ["CNN/LeNet", *(pytest.param(name, marks=pytest.mark.slow) for name in catalogue.names())])
def test_the_facts_of_a_model_are_current(name: str) -> None:
    """Else `python -m dl results` writes them again."""
    assert facts.read().get(name) == facts.compute(name)


def test_every_model_has_facts() -> None:
    assert sorted(facts.read()) == catalogue.names()
