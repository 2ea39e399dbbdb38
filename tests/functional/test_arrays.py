"""The loss for arrays of other libraries."""

import numpy as np
import pytest
import torch
from draws import noise_array

import gaussreg_fast as gf
from gaussreg_fast import arrays


class Exporter:
    """An array of a foreign library, as seen from outside."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __dlpack__(self, **options):
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_numpy_arrays_give_what_tensors_give(dtype, reduction):
    x = noise_array(3, 4, 8, 8, dtype=dtype)
    loss, grad = arrays.gaussianity_value_and_grad(x, seed=5, reduction=reduction)
    want, want_grad = gf.gaussianity_value_and_grad(
        torch.from_numpy(x), seed=5, reduction=reduction
    )
    assert isinstance(loss, np.ndarray)
    assert isinstance(grad, np.ndarray)
    assert loss.shape == tuple(want.shape)
    assert grad.dtype == dtype
    np.testing.assert_array_equal(loss, want.numpy())
    np.testing.assert_array_equal(grad, want_grad.numpy())


def _in_records(x):
    """Returns the numbers of x as a field of a structured array, whose strides are odd."""
    records = np.zeros(x.shape, dtype=[("flag", "u1"), ("x", x.dtype)])
    records["x"] = x
    return records["x"]


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, ::2],
        lambda x: x.transpose(0, 2, 1),
        lambda x: x[::-1],
        lambda x: x[:, ::-1, ::2],
        lambda x: np.broadcast_to(x[:1], x.shape),  # read-only
        lambda x: x.astype(">f4"),
        lambda x: _in_records(x),
        lambda x: np.frombuffer(bytearray(b"?" + x.tobytes()), np.float32, offset=1).reshape(4, -1),
    ],
)
def test_layouts_and_read_only_arrays(view):
    x = view(noise_array(4, 16, 8, dtype=np.float32))
    plain = np.array(x, dtype=np.float32, order="C")
    loss, grad = arrays.gaussianity_value_and_grad(x, seed=5)
    want, want_grad = arrays.gaussianity_value_and_grad(plain, seed=5)
    np.testing.assert_array_equal(loss, want)
    np.testing.assert_array_equal(grad, want_grad)
    np.testing.assert_array_equal(plain, x)  # and nothing was written to


def test_any_exporter_and_an_explicit_permutation():
    x = noise_array(2, 100, dtype=np.float32)
    order = np.random.default_rng(1).permutation(100)
    loss, _ = arrays.gaussianity_value_and_grad(
        Exporter(torch.from_numpy(x.copy())), permutation=order
    )
    want, _ = gf.gaussianity_value_and_grad(
        torch.from_numpy(x), permutation=torch.from_numpy(order)
    )
    assert loss == want.numpy()
    # torch has no negative strides
    backwards, _ = arrays.gaussianity_value_and_grad(x, permutation=order[::-1])
    again, _ = arrays.gaussianity_value_and_grad(x, permutation=order[::-1].copy())
    assert backwards == again


@pytest.mark.parametrize("x", [[[1.0, 2.0]], None, 3.0, np.float32(1)])
def test_what_is_not_an_array_is_refused(x):
    with pytest.raises(TypeError, match="__dlpack__"):
        arrays.gaussianity_value_and_grad(x)


def test_errors_of_the_function_for_tensors_come_through():
    with pytest.raises(TypeError, match="float32"):
        arrays.gaussianity_value_and_grad(np.zeros((2, 64), np.int32))
    with pytest.raises(ValueError, match=r"\(B, \*latent\)"):
        arrays.gaussianity_value_and_grad(noise_array(64, dtype=np.float32))
    with pytest.raises(TypeError, match="DLPack"):
        arrays.gaussianity_value_and_grad(np.array([["a", "b"]]))
    with pytest.raises(TypeError, match="meta"):
        arrays.gaussianity_value_and_grad(torch.zeros(2, 64, device="meta"))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_bfloat16_gives_a_float32_gradient(reduction):
    """NumPy has no bfloat16: the gradient holds the same numbers in float32."""
    x = torch.from_numpy(noise_array(3, 4, 64, dtype=np.float32)).bfloat16()
    options = {"seed": 5, "reduction": reduction}
    want, want_grad = gf.gaussianity_value_and_grad(x, **options)
    for given in (Exporter(x), x):
        loss, grad = arrays.gaussianity_value_and_grad(given, **options)
        assert grad.dtype == np.float32
        np.testing.assert_array_equal(loss, want.numpy())
        np.testing.assert_array_equal(grad, want_grad.float().numpy())


def test_bfloat16_of_numpy_keeps_its_dtype():
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    for x in (noise_array(4, 64), noise_array(8, 64)[::2, ::-1], noise_array(64, 4).T):
        x = x.astype(bfloat16)
        x.flags.writeable = x.flags.c_contiguous
        loss, grad = arrays.gaussianity_value_and_grad(x, seed=5)
        tensor = torch.from_numpy(x.astype(np.float32)).bfloat16()
        want, want_grad = gf.gaussianity_value_and_grad(tensor, seed=5)
        assert grad.dtype == x.dtype
        np.testing.assert_array_equal(loss, want.numpy())
        np.testing.assert_array_equal(grad.astype(np.float32), want_grad.float().numpy())


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (
            np.zeros((2, 64), "V2"),
            "raw bytes NumPy saves .* like bfloat16: convert them to float32",
        ),
        (np.zeros((2, 64), np.longdouble), "which torch does not have$"),
        (np.zeros((2, 64), [("a", "f4")]), "not numeric"),
        (np.zeros((2, 64), "M8[s]"), "not numeric"),
        (np.ma.masked_array(np.zeros((2, 64)), mask=True), "mask"),
    ],
)
def test_dtypes_and_masks_that_tensors_do_not_have(x, said):
    with pytest.raises(TypeError, match=f"x .*{said}"):
        arrays.gaussianity_value_and_grad(x)


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_float8_is_refused_before_anything_is_computed(name):
    x = torch.zeros(2, 64).to(getattr(torch, name))
    with pytest.raises(TypeError, match=f"x must be float32, .*, got torch.{name}"):
        arrays.gaussianity_value_and_grad(Exporter(x))
