"""The weight of the continuity term: the schedules by their equations, the paper's constants, mistakes."""
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynaseg.images import InputError
from dynaseg.weighting import DEFAULT_MU, fixed, fsf, scf, weighting

Q_PRIMES = st.integers(1, 1000)


MUS = st.floats(0.01, 1000)


@given(Q_PRIMES, MUS)
def test_schedules_by_their_equations(q_prime, mu):
    assert fsf(mu)(q_prime) == pytest.approx(q_prime / mu)
    assert scf(mu)(q_prime) == pytest.approx(mu / q_prime)
    assert fixed(mu)(q_prime) == mu
    assert fsf(mu)(q_prime) * scf(mu)(q_prime) == pytest.approx(1)
    for name in ("fsf", "scf", "fixed"):
        assert weighting(name, mu)(q_prime) == {"fsf": fsf, "scf": scf, "fixed": fixed}[name](mu)(q_prime)


@given(MUS)
def test_fsf_falls_and_scf_rises_while_labels_merge(mu):
    merging = range(100, 0, -1)
    for name, sign in (("fsf", -1), ("scf", 1), ("fixed", 0)):
        steps = np.sign(np.diff([weighting(name, mu)(q) for q in merging]))
        assert (steps == sign).all()


def test_the_papers_constants():
    assert DEFAULT_MU == {"fsf": 15, "scf": 50, "fixed": 5}
    for name, mu in DEFAULT_MU.items(): assert weighting(name)(30) == weighting(name, mu)(30)
    assert (weighting("fsf")(30), weighting("scf")(25), weighting("fixed")(7)) == (2, 2, 5)
    assert (fsf()(15), scf()(50), fixed()(50)) == (1, 1, 5)


@pytest.mark.parametrize("mu", [15, 15.0, np.float64(15), np.float32(15), np.int64(15)])
def test_numbers_of_any_kind(mu):
    assert weighting("fsf", mu)(30) == 2


def test_anything_callable_is_a_weighting():
    assert weighting(math.sqrt) is math.sqrt
    with pytest.raises(InputError, match="mu=3 goes with a named variant"): weighting(math.sqrt, mu=3)


@pytest.mark.parametrize("mu", [0, -1, -0.5, float("nan"), float("inf"), -float("inf"), "15", True, [15]])
def test_bad_mu(mu):
    with pytest.raises(InputError) as caught: weighting("fsf", mu)
    for words in (f"mu={mu!r}", "finite number above 0", "15 for FSF", "50 for SCF"): assert words in str(caught.value)


@pytest.mark.parametrize("variant", ["fcf", "FSF", "", None, 3, ["fsf"]])
def test_bad_variant(variant):
    with pytest.raises(InputError) as caught: weighting(variant)
    for word in (f"variant={variant!r}", "'fsf'", "'scf'", "'fixed'", "function"): assert word in str(caught.value)


def test_the_smallest_mu_is_above_0():
    tiny = np.nextafter(0, 1)
    assert weighting("fixed", tiny)(3) == tiny


def test_weights_by_hand():
    "30 labels in use, then 10, then 1."
    assert [weighting("fsf")(q) for q in (30, 15, 3)] == [2, 1, 0.2]
    assert [weighting("scf")(q) for q in (100, 50, 10)] == [0.5, 1, 5]
    assert [weighting("fixed")(q) for q in (100, 50, 10)] == [5, 5, 5]
    assert [weighting(name, 2)(8) for name in ("fsf", "scf", "fixed")] == [4, 0.25, 2]
    assert all(isinstance(weighting(name, 2)(8), float) for name in ("fsf", "scf", "fixed"))
