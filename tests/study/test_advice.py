"""What is said of a config before its search starts."""

from __future__ import annotations

from evomerge.config.search import SearchConfig
from evomerge.study.advice import own_cost


def test_an_algorithm_whose_cost_grows_says_what_it_comes_to_and_others_say_nothing() -> None:
    (found,) = own_cost(SearchConfig(algorithm="tpe"), dimensions=200, candidates=10_000)
    # 1.6 us for each dimension and candidate before: 3.2 s at the end, and half of that on average.
    assert "the last of 10,000 takes it about 3 s" in found
    assert "all of them about 4.4 h" in found
    assert own_cost(SearchConfig(algorithm="tpe"), dimensions=20, candidates=200) == []
    assert own_cost(SearchConfig(algorithm="gp"), dimensions=20, candidates=200)
    assert own_cost(SearchConfig(), dimensions=200, candidates=10_000) == []
