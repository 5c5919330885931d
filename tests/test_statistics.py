"""Differences of two rules over the same seeds."""

import numpy as np
import pytest
from scipy import stats

import jaxlocal as jl


def test_the_interval_is_that_of_the_paired_t_test():
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(0.9, 0.1, 6), rng.normal(0.8, 0.1, 6)
    difference = jl.statistics.paired(ours, theirs, 0.9)
    expected = stats.ttest_rel(ours, theirs)
    low, high = expected.confidence_interval(0.9)
    np.testing.assert_allclose(difference[:3], [np.mean(ours) - np.mean(theirs), low, high])
    np.testing.assert_allclose(difference.effect, expected.statistic / 6**0.5)  # t is d times the root of the number


def test_a_difference_is_clear_where_its_interval_leaves_out_zero():
    assert jl.statistics.paired([0.9, 0.91, 0.92], [0.8, 0.82, 0.81]).is_clear
    assert not jl.statistics.paired([0.9, 0.8, 0.85], [0.85, 0.85, 0.85]).is_clear


def test_one_seed_and_equal_differences_have_no_spread():
    assert jl.statistics.paired([0.9], [0.8])[1:] == (None, None, None)
    assert jl.statistics.paired([0.5, 0.75], [0.25, 0.5]) == (0.25, 0.25, 0.25, None)
    rounded = jl.statistics.paired([0.3, 0.8], [0.1, 0.6])  # in floats the two differences are not quite equal
    assert rounded.effect is None and rounded.low == rounded.high == pytest.approx(0.2)


def test_numbers_of_any_type_are_compared_alike():
    ours, theirs = [0.98, 0.97, 0.96], [0.95, 0.94, 0.93]
    single = jl.statistics.paired(np.array(ours, np.float32), np.array(theirs, np.float32))
    assert single.effect is None and single.low == single.high == pytest.approx(0.03)
    whole = jl.statistics.paired(np.array([90, 91], np.uint8), np.array([95, 97], np.uint8))
    assert whole == jl.statistics.paired([90.0, 91.0], [95.0, 97.0])


def test_numbers_that_have_no_partner_are_refused():
    with pytest.raises(ValueError, match=r"ours has shape \(2,\) and theirs has \(1,\)"):
        jl.statistics.paired([0.9, 0.8], [0.8])
    with pytest.raises(ValueError, match=r"ours has shape \(\)"):
        jl.statistics.paired(0.9, 0.8)
    with pytest.raises(ValueError, match="confidence=95"):
        jl.statistics.paired([0.9, 0.8], [0.8, 0.7], 95)
    with pytest.raises(ValueError, match="baseline='bpp': has no numbers; did you mean bp"):
        jl.statistics.against("bpp", {"al": [0.9], "bp": [0.8]})
