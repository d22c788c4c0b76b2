from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.statistics import Estimate, kappa, proportion
from napari_bloodcell.corrections.agreement import cohens_kappa
from napari_bloodcell.results.specimens.statistics import (
    MOST_PAIRS,
    bland_altman,
    concordance,
    passing_bablok,
    repeatability,
    spearman,
)

# Peak expiratory flow, l/min, of 17 people, measured twice with each of two meters: Bland and Altman, Lancet 1986;
# i: 307, table 1. Typed from memory: the means, deviations and limits that the paper prints, which are tested below,
# come out of them.
WRIGHT = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
WRIGHT_AGAIN = [490, 397, 512, 401, 470, 611, 415, 431, 638, 429, 420, 633, 275, 492, 165, 372, 421]
MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]
MINI_AGAIN = [525, 415, 508, 444, 500, 625, 460, 390, 642, 432, 420, 605, 227, 467, 268, 370, 443]

# Creatinine in serum and plasma, mg/dl, of 110 patients (two lack a value): the data `creatinine` of the R package mcr,
# as listed in the SAS program of R. Wicklin, "Passing-Bablok regression in SAS" (The DO Loop, 14 February 2022), with
# what mcr prints for them.
CREATININE = """
0.82 0.79 1.83 1.62 1.39 1.36 0.81 1.3 1.72 1.88 3.23 3.35 1.23 1.06 1.37 1.34 1.72 1.56 0.96 0.94 0.76 0.69 1.15 1.16
0.95 0.71 1 0.83 1.52 1.44 1.56 1.26 2.45 2.36 1.85 1.9 0.89 0.95 0.82 0.77 1.01 0.82 0.96 0.88 3.38 3.42 1.31 1.15
1.1 0.96 1.26 1.12 1.15 1.02 1.2 1.29 1.01 0.87 1.33 1.13 0.87 0.82 1.66 1.33 1.41 1.14 1.08 0.93 1.17 1.09 1.77 1.89
1.33 1.57 1.23 1.29 1.21 1.13 1.2 1.11 1.49 1.61 0.89 0.79 1.09 1.19 1.03 0.96 1.07 1.25 0.89 0.87 1.39 1.36 0.96 0.86
1.06 1.03 1.17 0.86 0.9 0.8 1.39 1.22 0.91 0.86 2.28 2.25 0.9 0.87 1.34 1.3 1.32 1.04 1.02 0.92 1.04 1.01 1.27 1.21
1.08 1.11 1.1 1.21 1.39 1.54 1.07 0.99 0.79 0.79 1.02 1.06 0.94 1.02 1.99 2.15 0.7 0.56 0.84 1.01 0.66 0.59 1.1 1.17
0.9 0.82 2.06 2.09 1.31 1.44 1.03 1.22 1.61 1.77 1.52 1.6 1.11 1.13 0.85 1.06 1.2 1.38 1.09 1.24 1.27 1.29 2.06 2.08
1.21 1.31 0.77 0.82 1.06 1.28 1.02 1.15 1 1.04 1.47 1.51 0.97 1.13 1.7 1.84 1.78 1.94 0.93 1.32 0.92 1.36 1.59 1.88
0.68 0.73 0.7 0.78 1.08 1.01 0.83 0.9 1.17 1.3 0.98 0.96 0.77 0.61 0.91 1.27 1.1 1.05 0.8 1.12 0.85 0.72 0.82 0.87
"""


def pairs_of(text: str) -> tuple[np.ndarray, np.ndarray]:
    numbers = np.array(text.split(), float).reshape(-1, 2)
    return numbers[:, 0], numbers[:, 1]


def three(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.value, estimate.low, estimate.high


# --- Bland and Altman -------------------------------------------------------------------------------------------------


def test_bias_and_its_interval_are_those_that_bland_and_altman_print() -> None:
    found = bland_altman(MINI, WRIGHT)
    assert round(found.sd, 1) == 38.8
    assert [round(v, 1) for v in three(found.bias)] == [-2.1, -22.0, 17.8]


def test_limits_of_agreement_are_those_that_bland_and_altman_print_but_for_their_rounding() -> None:
    found = bland_altman(MINI, WRIGHT)
    # they take 2 and √(3/n) where 1.96 and √(1/n + 1.96²/(2(n−1))) are exact
    assert three(found.lower) == pytest.approx((-79.7, -114.3, -45.1), abs=2.1)
    assert three(found.upper) == pytest.approx((75.5, 40.9, 110.1), abs=2.1)


def test_limits_of_agreement_are_their_formula_to_1e_6() -> None:
    x, y = pairs_of(CREATININE)
    found, d, n = bland_altman(x, y), y - x, len(x)
    sd = stats.tstd(d)
    half = stats.t.interval(0.95, n - 1, scale=sd * np.sqrt(1 / n + stats.norm.ppf(0.975) ** 2 / (2 * (n - 1))))[1]
    lower, upper = stats.norm.interval(0.95, d.mean(), sd)
    assert three(found.bias)[1:] == pytest.approx(stats.ttest_1samp(d, 0).confidence_interval(0.95), abs=1e-6)
    assert three(found.lower) == pytest.approx((lower, lower - half, lower + half), abs=1e-6)
    assert three(found.upper) == pytest.approx((upper, upper - half, upper + half), abs=1e-6)


def test_nineteen_of_twenty_intervals_of_a_limit_hold_the_true_one() -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(800):
        limit = bland_altman(np.zeros(40), random.normal(0, 1, 40)).upper
        held += limit.low < stats.norm.ppf(0.975) < limit.high
    assert 0.925 < held / 800 < 0.975


# --- Passing and Bablok -----------------------------------------------------------------------------------------------


def exact_line(x: list[str], y: list[str]) -> tuple[Fraction, Fraction, Fraction]:
    """Slope and its interval as Passing and Bablok define them, in fractions: nothing is rounded."""
    points = [(Fraction(a), Fraction(b)) for a, b in zip(x, y, strict=True)]
    slopes: list[tuple[int, Fraction]] = []  # (1, 0) is upright, and above all others
    for (x0, y0), (x1, y1) in itertools.combinations(points, 2):
        if x0 != x1 and y1 - y0 != x0 - x1:
            slopes.append((0, (y1 - y0) / (x1 - x0)))
        elif x0 == x1 and y0 != y1:
            slopes.append((1, Fraction(0)))
    slopes.sort()
    n, n_slopes, shift = len(points), len(slopes), sum(s < (0, Fraction(-1)) for s in slopes)
    rest = slopes[2 * shift :]  # the K lowest count as the K highest
    middle = (rest[(len(rest) - 1) // 2][1] + rest[len(rest) // 2][1]) / 2
    spread = stats.norm.ppf(0.975) * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    first = round((n_slopes - spread) / 2)
    return middle, slopes[first + shift - 1][1], slopes[n_slopes - first + shift][1]


def test_the_line_through_creatinine_is_that_of_its_definition_to_1e_6() -> None:
    words = CREATININE.split()
    slope, low, high = exact_line(words[::2], words[1::2])
    found = passing_bablok(*pairs_of(CREATININE))
    assert three(found.slope) == pytest.approx((float(slope), float(low), float(high)), abs=1e-6)
    x, y = pairs_of(CREATININE)
    intercepts = [np.median(y - float(b) * x) for b in (slope, high, low)]
    assert three(found.intercept) == pytest.approx(intercepts, abs=1e-6)


def test_the_line_through_creatinine_is_that_of_mcr_but_for_its_rounding() -> None:
    # mcr keeps slopes of -1 that are not quite -1 in binary, and takes the mean of two slopes as the upper bound
    found = passing_bablok(*pairs_of(CREATININE))
    assert three(found.slope) == pytest.approx((1.0880089, 1.0, 1.173005), abs=1e-4)
    assert three(found.intercept) == pytest.approx((-0.1171729, -0.2001149, -0.02), abs=2e-4)


def test_a_line_without_such_slopes_is_that_of_mcr_in_all_its_digits() -> None:
    # from the tests of the Python package methcomp, which cite mcr
    y = [1.03, 2.05, 2.79, 3.67, 5.00, 5.82, 7.16, 7.69, 8.53, 10.38]
    y += [11.11, 12.17, 13.47, 13.83, 15.15, 16.12, 16.94, 18.09, 19.13, 19.54]
    found = passing_bablok(range(1, 21), y)
    assert (found.slope.value, found.intercept.value) == pytest.approx((1.0050, 0.0125), abs=1e-6)
    assert three(found.slope)[1:] == pytest.approx((0.9848077, 1.0265805), abs=2e-3)  # means of two slopes


def slow_cusum(x: np.ndarray, y: np.ndarray, a: float, b: float) -> float:
    """Passing and Bablok's test, step by step."""
    signs = [
        0 if abs(yi - a - b * xi) < 1e-9 else math.copysign(1, yi - a - b * xi) for xi, yi in zip(x, y, strict=True)
    ]
    n_above, n_below = signs.count(1), signs.count(-1)
    order = sorted(range(len(x)), key=lambda i: (y[i] + x[i] / b - a) / math.sqrt(1 + 1 / b**2))
    total, largest = 0.0, 0.0
    for i in order:
        total += signs[i] * math.sqrt(n_below / n_above if signs[i] > 0 else n_above / n_below)
        largest = max(largest, abs(total))
    return largest / math.sqrt(n_below + 1)


def test_the_cusum_test_is_its_definition_and_finds_a_bend() -> None:
    random = np.random.default_rng(1)
    x = random.uniform(1, 10, 60)
    y = 0.1 * x**2 + random.normal(0, 0.1, 60)
    found = passing_bablok(x, y)
    assert found.cusum == pytest.approx(slow_cusum(x, y, found.intercept.value, found.slope.value), abs=1e-9)
    assert found.p < 0.001
    assert stats.kstwobign.sf(1.3581) == pytest.approx(0.05, abs=1e-4)  # Passing and Bablok's own critical value: 1.36


def test_the_cusum_test_calls_one_line_in_twenty_bent_at_most() -> None:
    random = np.random.default_rng(2)
    x = random.uniform(1, 10, (200, 40))
    found = [passing_bablok(row, row + random.normal(0, 0.3, 40)).p < 0.05 for row in x]
    assert np.mean(found) <= 0.08


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=6, max_size=25))
def test_methods_may_be_exchanged(pairs: list[tuple[int, int]]) -> None:
    x, y = np.array(pairs, float).T
    if stats.kendalltau(x, y).statistic > 0.3:  # elsewhere the slope is not near 1 and the shift of ranks not symmetric
        there, back = passing_bablok(x, y).slope.value, passing_bablok(y, x).slope.value
        slopes = [
            (y[j] - y[i]) / (x[j] - x[i]) for i in range(len(x)) for j in range(i) if x[i] != x[j] and y[i] != y[j]
        ]
        if len(slopes) == len(x) * (len(x) - 1) / 2 and len(slopes) % 2 and there > 0:
            assert there * back == pytest.approx(1)


def test_a_line_is_found_through_points_on_it() -> None:
    found = passing_bablok([1, 2, 3, 4, 5, 6, 7], [3, 5, 7, 9, 11, 13, 15])
    assert three(found.slope) == pytest.approx((2, 2, 2))
    assert three(found.intercept) == pytest.approx((1, 1, 1))
    assert (found.cusum, found.p) == (0, 1)


@pytest.mark.parametrize(
    ("x", "y"), [([], []), ([1], [2]), ([1, 2], [1, 2]), ([0, 0, 0, 0], [0, 0, 0, 0]), ([3, 3, 3, 3], [1, 2, 3, 4])]
)
def test_what_has_no_line_has_none(x: list[float], y: list[float]) -> None:
    found = passing_bablok(x, y)
    assert all(math.isnan(v) for v in (*three(found.slope), *three(found.intercept), found.cusum, found.p))


# --- correlations -----------------------------------------------------------------------------------------------------


def test_concordance_is_one_minus_the_mean_squared_difference_over_that_of_strangers() -> None:
    x, y = pairs_of(CREATININE)
    of_strangers = np.mean(np.subtract.outer(y, x) ** 2)  # Lin's own definition: independent of the formula above
    assert concordance(x, y).value == pytest.approx(1 - np.mean((y - x) ** 2) / of_strangers, abs=1e-12)


def test_concordance_of_the_peak_flow_meters_is_the_one_known() -> None:
    assert round(concordance(MINI, WRIGHT).value, 3) == 0.943  # Stata's concord, R's epiR


def test_nineteen_of_twenty_intervals_of_concordance_and_of_ranks_hold_the_true_one() -> None:
    random = np.random.default_rng(2)
    true = np.array([[1.0, 0.8], [0.8, 1.2]])
    rho_c = 2 * 0.8 / (1 + 1.2 + 0.3**2)
    rank = 6 / np.pi * np.arcsin(0.8 / np.sqrt(1.2) / 2)
    held = np.zeros(2)
    for _ in range(500):
        x, y = random.multivariate_normal([0, 0.3], true, 50).T
        for i, (found, truth) in enumerate(((concordance(x, y), rho_c), (spearman(x, y), rank))):
            held[i] += found.low < truth < found.high
    assert 0.92 < held[0] / 500 < 0.98
    assert 0.92 < held[1] / 500 < 0.995  # Bonett and Wright's is a little wide for ranks that agree well


def test_perfect_and_missing_agreement_have_values_without_warnings() -> None:
    assert three(concordance([1, 2, 3, 4], [1, 2, 3, 4])) == (1, 1, 1)
    assert concordance([1, 2, 3, 4], [5, 5, 5, 5]).value == 0
    assert math.isnan(spearman([1, 2, 3, 4], [5, 5, 5, 5]).value)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]).value == -1


# --- readers ----------------------------------------------------------------------------------------------------------

SEXUAL_FUN = [[7, 7, 2, 3], [2, 8, 3, 7], [1, 5, 4, 9], [2, 8, 9, 14]]
"""Agresti's table of 91 couples, as in R's vcd."""


@pytest.mark.parametrize(("weights", "value", "error"), [("none", 0.1293, 0.06860), ("linear", 0.2374, 0.07832)])
def test_kappa_and_its_error_are_those_that_vcd_prints(weights: str, value: float, error: float) -> None:
    found = kappa(SEXUAL_FUN, weights)  # type: ignore[arg-type]
    assert round(found.value, 4) == value
    assert round((found.high - found.low) / (2 * stats.norm.ppf(0.975)), 5) == pytest.approx(error, abs=1e-5)


def test_quadratic_kappa_is_the_concordance_of_the_grades() -> None:
    a, b = np.repeat(np.indices((4, 4)).reshape(2, -1), np.ravel(SEXUAL_FUN), axis=1)
    assert kappa(SEXUAL_FUN, "quadratic").value == pytest.approx(concordance(a, b).value, abs=1e-12)  # Krippendorff


def test_kappa_of_readers_is_that_of_their_table() -> None:
    a, b = np.repeat(np.indices((4, 4)).reshape(2, -1), np.ravel(SEXUAL_FUN), axis=1).astype(str)
    assert cohens_kappa(a.tolist(), b.tolist()) == pytest.approx(kappa(SEXUAL_FUN).value, abs=1e-12)


def test_readers_who_agree_throughout_have_kappa_one() -> None:
    assert kappa([[5]]).value == kappa([[3, 0], [0, 4]]).value == 1
    assert math.isnan(kappa([[0, 0], [0, 0]]).value)


def test_no_square_table_is_refused() -> None:
    with pytest.raises(InputError, match="square table"):
        kappa([[1, 2, 3], [4, 5, 6]])


def test_an_exact_interval_is_that_of_the_beta_distribution() -> None:
    assert three(proportion(197, 200)) == pytest.approx(
        (0.985, stats.beta.ppf(0.025, 197, 4), stats.beta.ppf(0.975, 198, 3)), abs=1e-6
    )
    assert [round(100 * v, 1) for v in three(proportion(197, 200))] == [98.5, 95.7, 99.7]


# --- repeated smears --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second", "printed"), [(WRIGHT, WRIGHT_AGAIN, 43.2), (MINI, MINI_AGAIN, 56.4)])
def test_repeatability_is_what_bland_and_altman_print(first: list[int], second: list[int], printed: float) -> None:
    found = repeatability([*range(17), *range(17)], [*first, *second])
    assert found is not None
    assert found.limit * 2 / stats.norm.ppf(0.975) == pytest.approx(printed, abs=0.11)  # they take 2, rounded


def test_the_spread_within_specimens_is_the_residual_of_an_analysis_of_variance() -> None:
    values, specimens = [1.0, 2.0, 4.0, 9.0, 11.0, 5.0], ["a", "a", "a", "b", "b", "c"]
    found = repeatability(specimens, values)
    assert found is not None
    assert (found.n_repeated, found.n) == (2, 5)
    assert found.sd.value**2 == pytest.approx((np.var([1, 2, 4]) * 3 + np.var([9, 11]) * 2) / 3, abs=1e-12)
    assert found.sd.low < found.sd.value < found.sd.high


def test_without_repeats_there_is_no_repeatability() -> None:
    assert repeatability(["a", "b"], [1, 2]) is None


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1, 2], [1], "shapes"),
        ([1, math.nan], [1, 2], "not finite"),
        (range(MOST_PAIRS + 1), range(MOST_PAIRS + 1), "in parts"),
    ],
)
def test_what_are_no_pairs_is_refused(x: list[float], y: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        bland_altman(list(x), list(y))
