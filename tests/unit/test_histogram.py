"""Counts in place of values."""

from __future__ import annotations

from bisect import bisect_right

from hypothesis import given
from hypothesis import strategies as st

from kodectl.core.histogram import Histogram

BOUNDS = (0.5, 1.0, 2.0)


@given(st.lists(st.floats(0, 4)))
def test_each_bound_has_those_that_are_not_beyond_it(values: list[float]) -> None:
    histogram = Histogram(BOUNDS)
    for value in values:
        histogram.observe(value)
    ordered = sorted(values)
    assert histogram.cumulative() == [(bound, bisect_right(ordered, bound)) for bound in (*BOUNDS, float("inf"))]
    assert (histogram.count, histogram.total) == (len(values), sum(values))
