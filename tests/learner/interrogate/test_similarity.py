"""Cosines against torch and arithmetic; CKA against its formula on the full matrices, and against real shuffles."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

from learner.interrogate.similarity import CKA, cka, cosine


def by_formula(a, b):
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with the centring matrix written out, in numpy."""
    a, b = (np.asarray(x, dtype=np.float64).reshape(len(x), -1) for x in (a, b))
    h = np.eye(len(a)) - 1 / len(a)
    k, l = h @ (a @ a.T) @ h, h @ (b @ b.T) @ h  # noqa: E741
    return np.trace(k @ l) / np.sqrt(np.trace(k @ k) * np.trace(l @ l))


def related(n, width_a, width_b, seed=0):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(n, width_a, generator=generator, dtype=torch.float64)
    mix = torch.randn(width_a, width_b, generator=generator, dtype=torch.float64)
    return a, a @ mix + 2 * torch.randn(n, width_b, generator=generator, dtype=torch.float64)


def test_cosine_is_that_of_torch():
    a, b = torch.randn(20, 3, 4), torch.randn(20, 3, 4)
    assert torch.allclose(cosine(a, b), torch.cosine_similarity(a.flatten(1), b.flatten(1)), atol=1e-6)


def test_cosine_takes_arrays_lists_and_half_precision():
    a, b = torch.randn(5, 4).bfloat16(), torch.randn(5, 4).bfloat16()
    expected = torch.cosine_similarity(a.float(), b.float())
    assert torch.allclose(cosine(a, b), expected, atol=1e-6)
    assert torch.allclose(cosine(a.float().numpy(), b.tolist()).float(), expected, atol=1e-6)


def test_cosine_of_a_zero_vector_is_zero():
    assert cosine([[0.0, 0.0], [0.0, 0.0]], [[1.0, 2.0], [0.0, 0.0]]).tolist() == [0.0, 0.0]


def test_cosine_knows_no_too_small_and_no_too_large():
    a = torch.tensor([[3e-30, 4e-30], [3e30, 4e30]])
    assert torch.allclose(cosine(a, torch.tensor([[4.0, 3.0], [4.0, 3.0]])), torch.tensor(24 / 25))


def test_cosine_stays_within_one_so_that_its_angle_exists():
    x = torch.randn(1000, 7)
    assert cosine(x, x).acos().isfinite().all()
    assert cosine(x, -x).acos().isfinite().all()


def test_cosine_of_what_is_not_finite_is_nan_for_that_sample_alone():
    assert cosine([[torch.nan, 1.0], [torch.inf, 1.0], [1.0, 1.0]], [[1.0, 1.0]] * 3).isnan().tolist() == [
        True,
        True,
        False,
    ]


def test_cosine_refuses_what_cannot_be_compared():
    with pytest.raises(ValueError, match="`a` and `b` must be of the same samples, got 2 and 3"):
        cosine(torch.zeros(2, 4), torch.zeros(3, 4))
    with pytest.raises(
        ValueError, match="`a` and `b` must be equally wide, got 4 and 5 numbers a sample; `cka` compares"
    ):
        cosine(torch.zeros(2, 4), torch.zeros(2, 5))
    with pytest.raises(TypeError, match="`b` must be a tensor"):
        cosine(torch.zeros(2, 4), "text")


@pytest.mark.parametrize(("n", "width_a", "width_b"), [(200, 5, 9), (30, 50, 80), (30, 2, 90), (2, 3, 3), (60, 45, 40)])
def test_cka_is_its_formula(n, width_a, width_b):
    a, b = related(n, width_a, width_b)
    assert cka(a, b).value == pytest.approx(by_formula(a, b), abs=1e-10)


@pytest.mark.parametrize("size", [1, 7, 64, 500])
@pytest.mark.parametrize(("width_a", "width_b"), [(5, 9), (120, 3)])
def test_streamed_cka_is_the_exact_one(size, width_a, width_b):
    a, b = related(100, width_a, width_b)
    streamed = cka(zip(a.split(size), b.split(size), strict=True))
    assert streamed == pytest.approx(cka(a, b), abs=1e-10)
    assert streamed.value == pytest.approx(by_formula(a, b), abs=1e-10)


@given(
    n=st.integers(2, 25),
    widths=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    size=st.integers(1, 25),
    seed=st.integers(0, 1000),
)
def test_all_ways_to_compute_cka_agree(n, widths, size, seed):
    a, b = related(n, *widths, seed=seed)
    streamed = cka(zip(a.split(size), b.split(size), strict=True))
    assert cka(a, b).value == pytest.approx(by_formula(a, b), abs=1e-10)
    assert streamed == pytest.approx(cka(a, b), abs=1e-10)
    assert 0 <= streamed.value <= 1


@pytest.mark.parametrize("offset", [1e4, -1e6])
@pytest.mark.parametrize("size", [16, 100])
def test_cka_loses_no_digits_to_a_large_mean(offset, size):
    a, b = related(100, 5, 9)
    shifted = zip((a + offset).split(size), (b + offset).split(size), strict=True)
    assert cka(shifted).value == pytest.approx(by_formula(a, b), abs=1e-9)  # the offset itself costs the input digits


def test_cka_takes_any_order_of_batches_with_drifting_means():
    a, b = related(100, 5, 9)
    a = a + torch.linspace(0, 1000, 100)[:, None]
    assert cka(zip(a.split(9), b.split(9), strict=True)).value == pytest.approx(by_formula(a, b), abs=1e-10)


def test_cka_does_not_see_rotation_scale_and_shift():
    a, _ = related(50, 6, 6)
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    assert cka(a, 3 * a @ rotation + 5).value == pytest.approx(1, abs=1e-12)


def test_cka_of_independent_features_is_their_shuffled_one():
    a, b = torch.randn(4096, 170), torch.randn(4096, 170)
    measured = cka(a, b)
    assert measured.shuffled > 0.03  # far from 0, so a bare value would mislead
    assert measured.value == pytest.approx(measured.shuffled, abs=0.002)


@pytest.mark.parametrize(("n", "width_a", "width_b"), [(60, 4, 7), (20, 30, 40)])
def test_the_baseline_is_the_mean_over_shuffles(n, width_a, width_b):
    a, b = related(n, width_a, width_b)
    generator = torch.Generator().manual_seed(1)
    shuffles = torch.tensor([by_formula(a, b[torch.randperm(n, generator=generator)]) for _ in range(1500)])
    standard_error = shuffles.std() / 1500**0.5
    assert cka(a, b).shuffled == pytest.approx(shuffles.mean().item(), abs=4 * standard_error.item())


def test_the_baseline_is_the_mean_over_all_shuffles_to_the_last_digit():
    from itertools import permutations

    a, b = related(5, 2, 3)
    every = [by_formula(a, b[list(order)]) for order in permutations(range(5))]
    assert cka(a, b).shuffled == pytest.approx(np.mean(every), abs=1e-12)


def test_cka_draws_no_random_number():
    a, b = related(50, 6, 6)
    before = torch.get_rng_state()
    cka(a, b)
    assert torch.equal(before, torch.get_rng_state())


def test_cka_of_one_half_precision_batch_is_computed_in_double():
    a, b = related(100, 5, 9)
    a, b = a.half(), b.bfloat16()
    assert cka(a, b).value == pytest.approx(by_formula(a.float(), b.float()), abs=1e-10)


class LargestTensor(TorchFunctionMode):
    """Remember how many numbers the largest tensor holds that any operation gave."""

    numel = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numel = max(self.numel, result.numel())
        return result


def test_cka_of_wide_features_makes_no_square_of_the_width():
    with LargestTensor() as largest:
        cka(torch.randn(10, 1500), torch.randn(10, 2000))
    assert largest.numel == 10 * 2000


def test_cka_of_many_samples_makes_no_square_of_their_number():
    with LargestTensor() as largest:
        cka(torch.randn(1000, 3), torch.randn(1000, 4))
    assert largest.numel == 1000 * 7


def test_streamed_cka_keeps_nothing_that_grows_with_the_samples():
    def batches():
        for _ in range(50):
            yield torch.randn(20, 3), torch.randn(20, 4)

    with LargestTensor() as largest:
        cka(batches())
    assert largest.numel == 20 * 7


def test_cka_reads_well():
    assert repr(CKA(0.82512, 0.04159)) == "CKA(value=0.8251, shuffled=0.0416)"
    value, shuffled = cka([[1.0], [2.0], [4.0]], [[1.0], [2.0], [4.0]])
    assert (value, shuffled) == (1.0, 0.5)  # of three samples in one dimension half is chance


@pytest.mark.parametrize("n", [7, 100])  # by products of samples, and of features
@pytest.mark.parametrize("constant", [0.1, 0.0, 1e20])
def test_cka_refuses_what_does_not_vary(n, constant):
    a, b = torch.randn(n, 9), torch.full((n, 9), constant, dtype=torch.float64)
    with pytest.raises(ValueError, match=f"`b` must vary, got the same features for all {n} samples"):
        cka(a, b)
    with pytest.raises(ValueError, match=f"`a` must vary, got the same features for all {n} samples"):
        cka(zip(b.split(3), a.split(3), strict=True))


@pytest.mark.parametrize(
    ("batches", "error", "match"),
    [
        ([], ValueError, "`cka` must be given at least 2 samples, got 0"),
        ([(torch.ones(1, 2), torch.ones(1, 2))], ValueError, "`cka` must be given at least 2 samples, got 1"),
        ([torch.ones(3, 2)], TypeError, r"a batch for `cka` must be a pair \(a, b\), got Tensor\(3, 2\) .* as batch 0"),
        ([(torch.ones(3, 2),) * 3], TypeError, "must be a pair"),
        (torch.ones(3, 2), TypeError, r"`cka` must be given `a` and `b`, .* got Tensor\(3, 2\) float32 alone"),
        (3, TypeError, "`cka` must be given `a` and `b`, or an iterable of pairs, got 3 alone"),
        (
            [(torch.ones(3, 2), torch.ones(3, 2)), (torch.ones(3, 2), torch.ones(3, 4))],
            ValueError,
            r"`a` and `b` of batch 1 must be as wide as before, \(2, 2\), got \(2, 4\)",
        ),
        ([(torch.ones(3, 2), torch.ones(4, 2))], ValueError, "`a` and `b` of batch 0 must be of the same samples"),
        ([(torch.ones(3, 2), torch.full((3, 2), torch.nan))], ValueError, "`b of batch 0` must be finite"),
    ],
)
def test_streamed_cka_refuses_what_it_cannot_use(batches, error, match):
    with pytest.raises(error, match=match):
        cka(batches)


def test_cka_refuses_what_cannot_be_compared():
    with pytest.raises(ValueError, match="`a` and `b` must be of the same samples, got 4 and 5"):
        cka(torch.zeros(4, 2), torch.zeros(5, 2))
    with pytest.raises(ValueError, match="`a` must be finite, got NaN or infinity in 1 of 2 samples"):
        cka([[torch.inf], [1.0]], [[1.0], [2.0]])
    with pytest.raises(ValueError, match="`cka` must be given at least 2 samples, got 1"):
        cka([[1.0]], [[1.0]])
