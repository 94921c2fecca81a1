"""The compiled operators against the reference, through torch's own checks, and at their edges."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from adaptive_conv_golden import NAMES, agrees, golden
from hypothesis import given, settings
from hypothesis import strategies as st

from featup_app import ops
from featup_app.ops import c_interface, loading, native_operators, reference
from featup_app.ops.status import native_status

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[2]

if loading.mode() == "off" or loading.library() is None:
    pytest.skip(f"no compiled operators here: {native_status().detail}", allow_module_level=True)

LAYOUTS = ("plain", "channels last", "transposed", "every second", "expanded")
TOLERANCE = {
    torch.float64: (1e-12, 1e-12),
    torch.float32: (2e-5, 2e-5),
    torch.float16: (2e-3, 2e-3),
    torch.bfloat16: (2e-2, 2e-2),
}


def laid_out(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values (of one pixel everywhere, for "expanded") with other strides."""
    if layout == "channels last":
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "every second":
        wide = tensor.new_full((*tensor.shape[:-1], tensor.shape[-1] * 2), float("nan"))
        wide[..., ::2] = tensor
        return wide[..., ::2]
    if layout == "expanded":
        return tensor[..., :1, :1].expand(tensor.shape)
    return tensor


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def close(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    expected = expected.detach()
    scale = float(expected.abs().max()) if expected.numel() else 1.0
    rtol, atol = TOLERANCE[dtype]
    torch.testing.assert_close(found.double(), expected.double(), rtol=rtol, atol=atol * max(1.0, scale))


cases = st.fixed_dictionaries(
    {
        "batch": st.integers(0, 2),
        "channels": st.sampled_from([0, 1, 2, 3, 4, 5, 8, 9, 16, 31, 48, 50, 97]),
        "size": st.tuples(st.integers(1, 12), st.sampled_from([1, 2, 7, 8, 13, 31, 32, 33, 64, 67])),
        "kernel_size": st.sampled_from([1, 3, 5, 7, 9]),
        "layouts": st.tuples(*[st.sampled_from(LAYOUTS)] * 3),
        "dtype": st.sampled_from(list(TOLERANCE)),
        "seed": st.integers(0, 2**16),
    }
)


def window_operators_agree(case):
    kernel_size, dtype, batch, channels = case["kernel_size"], case["dtype"], case["batch"], case["channels"]
    height, width = case["size"]
    padded_shape = (batch, channels, height + kernel_size - 1, width + kernel_size - 1)
    padded = laid_out(random(*padded_shape, seed=case["seed"], dtype=dtype), case["layouts"][0])
    weights = laid_out(
        random(batch, kernel_size**2, height, width, seed=case["seed"] + 1, dtype=dtype), case["layouts"][1]
    )
    gradient = laid_out(random(batch, channels, height, width, seed=case["seed"] + 2, dtype=dtype), case["layouts"][2])

    exact = padded.double().requires_grad_(), weights.double().requires_grad_()
    expected = reference.window_sum(*exact, kernel_size)
    close(ops.window_sum(padded, weights), expected, dtype)
    to_padded, to_weights = torch.autograd.grad(expected, exact, gradient.double())
    close(native_operators.window_sum_grad_input(gradient, weights, kernel_size), to_padded, dtype)
    close(native_operators.window_sum_grad_weights(padded, gradient, kernel_size), to_weights, dtype)

    bias = random(kernel_size**2, seed=case["seed"] + 3).to(padded)
    if channels and dtype in (torch.float32, torch.float64):
        temperature = torch.tensor(0.6, dtype=dtype)
        expected = reference.range_weights(padded.double(), temperature.double(), bias.double(), kernel_size)
        close(native_operators.range_weights(padded, temperature, bias, kernel_size), expected, dtype)
        expected = reference.bilateral_weights(padded.double(), 0.7, 1.3, kernel_size)
        close(ops.bilateral_weights(padded, 0.7, 1.3, kernel_size), expected, dtype)


@settings(max_examples=60, deadline=None)
@given(case=cases)
def test_operators_agree_with_the_reference(case):
    window_operators_agree(case)


def test_every_instruction_set_agrees_with_the_reference(instruction_set):
    for seed, (channels, dtype) in enumerate([(3, torch.float32), (97, torch.float32), (50, torch.float64)]):
        for kernel_size in (3, 5, 7, 9):
            layouts = (LAYOUTS[seed], LAYOUTS[(seed + kernel_size) % 4], "channels last")
            case = {"batch": 2, "channels": channels, "size": (6, 37), "kernel_size": kernel_size}
            window_operators_agree({**case, "layouts": layouts, "dtype": dtype, "seed": seed})


@pytest.mark.parametrize("compact", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels", [1, 3, 24])
def test_weights_may_be_kept_in_a_compact_type(compact, channels):
    padded, weights = random(1, channels, 26, 56, dtype=torch.float32), random(1, 49, 20, 50, dtype=compact)
    found = ops.window_sum(padded, weights)
    assert found.dtype == torch.float32
    close(found, reference.window_sum(padded.double(), weights.double(), 7), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_storage_types_are_converted_exactly(dtype):
    """A window of one tap with the weight 1 gives back every number there is."""
    numbers = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    padded = numbers.view(1, 16, 64, 64)
    found = native_operators.window_sum(padded, torch.ones(1, 1, 64, 64, dtype=dtype), 1)
    known = ~padded.isnan()
    assert torch.equal(found[known], padded[known])
    assert bool(found[~known].isnan().all())


@pytest.mark.parametrize("name", NAMES)
def test_golden_files(name, instruction_set):
    known = golden(name)
    output = ops.adaptive_conv(known["input"], known["filters"])
    output.backward(known["grad_output"])
    agrees(known, output)


def operands(channels: int, layout: str = "plain", kernel_size: int = 3):
    padded = laid_out(random(2, channels, 3 + kernel_size, 4 + kernel_size), layout)
    return padded, random(2, kernel_size**2, 4, 5, seed=1), random(2, channels, 4, 5, seed=2)


@pytest.mark.parametrize("channels", [2, 9])
@pytest.mark.parametrize("layout", ["plain", "channels last"])
def test_torch_accepts_the_operators(channels, layout):
    padded, weights, gradient = (tensor.requires_grad_() for tensor in operands(channels, layout))
    torch.library.opcheck(native_operators.window_sum, (padded, weights, 3))
    torch.library.opcheck(native_operators.window_sum_grad_input, (gradient, weights, 3))
    torch.library.opcheck(native_operators.window_sum_grad_weights, (padded, gradient, 3))
    temperature, bias = torch.tensor(0.5).double().requires_grad_(), random(9, seed=4).requires_grad_()
    torch.library.opcheck(native_operators.range_weights, (padded, temperature, bias, 3))
    torch.library.opcheck(native_operators.bilateral_weights, (padded.detach(), 0.7, 0.2, 3))


@pytest.mark.parametrize("channels", [2, 9])
def test_gradients_equal_finite_differences(channels):
    padded, weights, gradient = (tensor[:1].detach().requires_grad_() for tensor in operands(channels))
    assert torch.autograd.gradcheck(ops.window_sum, (padded, weights))
    assert torch.autograd.gradcheck(lambda g, w: native_operators.window_sum_grad_input(g, w, 3), (gradient, weights))
    assert torch.autograd.gradcheck(lambda x, g: native_operators.window_sum_grad_weights(x, g, 3), (padded, gradient))
    temperature = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    sigma = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda k, t, s: ops.jbu_weights(k, t, s, 3), (padded, temperature, sigma))
    small = random(1, 2, 4, 4).requires_grad_(), random(1, 9, 2, 2, seed=1).requires_grad_()
    assert torch.autograd.gradgradcheck(ops.window_sum, small)


def test_layouts_are_kept():
    padded, weights, _ = operands(9, "channels last")
    assert ops.window_sum(padded, weights).is_contiguous(memory_format=torch.channels_last)
    assert ops.window_sum(padded.contiguous(), weights).is_contiguous()


def test_the_number_of_threads_does_not_change_the_result():
    padded, weights, gradient = random(1, 50, 90, 110), random(1, 49, 84, 104), random(1, 50, 84, 104)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(
                (
                    native_operators.window_sum(padded, weights, 7),
                    native_operators.window_sum(padded[:, :3], weights, 7),
                    native_operators.window_sum_grad_input(gradient, weights, 7),
                    native_operators.window_sum_grad_weights(padded, gradient, 7),
                    ops.jbu_weights(padded[:, :4], 0.3, 0.5, 7),
                )
            )
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


@pytest.mark.parametrize("width", [3, 15, 16, 47, 50, 64, 101])
def test_weights_of_a_pixel_do_not_depend_on_the_strip(width):
    guidance = random(1, 3, 20, width + 6, dtype=torch.float32)
    whole = ops.bilateral_weights(guidance, 0.7, 0.5)
    for left in (0, width // 3, width // 2):
        part = ops.bilateral_weights(guidance[:, :, 2:13, left:], 0.7, 0.5)
        assert torch.equal(part, whole[:, :, 2:7, left:])


def test_numbers_that_are_none_stay_where_they_are():
    padded, weights = torch.ones(1, 20, 12, 12), torch.ones(1, 9, 10, 10)
    padded[0, 3, 5, 5] = float("nan")
    found = ops.window_sum(padded, weights).isnan()
    assert found[0, 3, 3:6, 3:6].all()
    assert int(found.sum()) == 9
    weights_of = ops.bilateral_weights(padded[:, :4], 0.7, 0.5, 3).isnan()
    assert bool(weights_of[0, :, 3:6, 3:6].all())
    assert int(weights_of.any(dim=1).sum()) == 9


@pytest.mark.parametrize(
    ("padded", "weights", "named"),
    [
        (torch.zeros(1, 2, 6, 7, dtype=torch.int32), torch.zeros(1, 9, 4, 5), "padded"),
        (torch.zeros(1, 2, 6, 7), torch.zeros(1, 9, 4, 5, dtype=torch.bool), "weights"),
        (torch.zeros(1, 2, 6, 7), torch.zeros(1, 9, 4, 5).double(), "weights"),
        (torch.zeros(1, 2, 6, 7), torch.zeros(1, 9, 4, 5, device="meta"), "weights"),
    ],
)
def test_wrong_types_and_devices_are_named(padded, weights, named):
    with pytest.raises(RuntimeError, match=rf"^{named} "):
        ops.window_sum(padded, weights)


def test_the_library_checks_what_it_is_given():
    library, tensor = loading.library(), torch.zeros(1, 9, 4, 4)
    view = c_interface.describe(tensor)

    def message(*arguments) -> str:
        text = library.featup_window_sum(*arguments)
        return "" if text is None else text.decode()

    assert message(None, view, view, 3, 1).startswith("padded is missing")
    assert message(view, view, view, 4, 1).startswith("kernel_size is 4")
    assert message(view, view, view, 3, 0).startswith("threads is 0")
    assert message(view, view, view, 3, 1).startswith("padded has shape (1, 9, 4, 4); expected (1, 9, 6, 6)")
    for change, expected in (
        ({"data": None}, "padded has no memory"),
        ({"data": tensor.data_ptr() + 1}, "padded is not aligned"),
        ({"dtype": 9}, "padded has number format 9"),
        ({"stride": (ctypes.c_int64 * 4)(1, -1, 1, 1)}, "padded has size 9 and stride -1 in dimension 1"),
    ):
        broken = c_interface.TensorDescriptor.from_buffer_copy(view._obj)
        for name, value in change.items():
            setattr(broken, name, value)
        assert message(ctypes.byref(broken), view, view, 3, 1).startswith(expected)
    assert library.featup_use_instruction_set(b"6502").decode().startswith("name is '6502'")


def test_other_threads_run_while_a_kernel_does():
    padded, weights = torch.ones(1, 64, 486, 486), torch.ones(1, 49, 480, 480)
    ticks, done = [], threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    begin = time.perf_counter()
    native_operators.window_sum(padded, weights, 7)
    end = time.perf_counter()
    done.set()
    thread.join()
    assert sum(begin < moment < end for moment in ticks) > 3, f"the call took {end - begin:.3f} s"


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_switched_off_the_reference_runs():
    code = """
import torch
from featup_app import ops
from featup_app.ops import loading
status = ops.native_status()
assert status.backend == "torch" and "FEATUP_NATIVE=off" in status.detail, status
assert ops.window_sum(torch.ones(1, 1, 5, 5), torch.ones(1, 9, 3, 3)).eq(9).all()
assert loading.loaded() is None
"""
    result = run(code, FEATUP_NATIVE="off")
    assert result.returncode == 0, result.stderr


def test_required_but_absent_is_an_error_that_says_so():
    code = """
from pathlib import Path
from featup_app.ops import loading, native_status
assert native_status().backend == "not loaded yet"
loading._FOLDER = Path("/nowhere")
import torch
from featup_app import ops
print(native_status())
ops.window_sum(torch.ones(1, 1, 5, 5), torch.ones(1, 9, 3, 3))
"""
    result = run(code, FEATUP_NATIVE="require")
    assert result.returncode == 1
    assert "RuntimeError: FEATUP_NATIVE=require, but the compiled operators cannot be used" in result.stderr
    assert "backend='unusable'" in result.stdout
    result = run(code, FEATUP_NATIVE="auto")
    assert result.returncode == 0, result.stderr
    assert "backend='torch'" in result.stdout


def test_an_unknown_mode_is_refused():
    result = run("from featup_app.ops import loading; loading.library()", FEATUP_NATIVE="perhaps")
    assert "FEATUP_NATIVE is 'perhaps'; expected auto, off or require" in result.stderr
