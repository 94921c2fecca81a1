"""That torch finds the CUDA operators: registration, choice, gradients and words, on machines without a device.

Two stand-ins: fake tensors, which say that they are on a CUDA device and hold no numbers, and CPU tensors whose kernels are
exchanged for those of CUDA over the emulated library.
"""

from __future__ import annotations

import json

import pytest
import torch
from adaptive_conv_golden import NAMES, agrees, golden
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from featup_app import ops
from featup_app.ops import attention, cuda, loading, native_operators, operators, reference
from featup_app.ops.status import native_status

KERNELS = {
    "window_sum": native_operators._window_sum_cuda,
    "window_sum_grad_input": native_operators._window_sum_grad_input_cuda,
    "window_sum_grad_weights": native_operators._window_sum_grad_weights_cuda,
    "range_weights": native_operators._range_weights_cuda,
    "bilateral_weights": native_operators._bilateral_weights_cuda,
}
ATTENTION = {
    "cell_attention": (attention.cell_attention_compiled, attention._cell_attention_cuda),
    "cell_attention_weights": (attention.cell_attention_weights_compiled, attention._cell_attention_weights_cuda),
    "cell_attention_backward": (attention.cell_attention_backward, attention._cell_attention_backward_cuda),
}
NO_LIBRARY = "this installation was made without a CUDA compiler, so it has no CUDA library"


@pytest.fixture
def absent(unloaded, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(cuda, "_library_path", lambda: tmp_path / "libfeatup_cuda.so")


@pytest.fixture
def exchanged(emulated, monkeypatch) -> None:
    """The operators of CPU tensors run the kernels that are registered for CUDA."""
    for module in (operators, attention):
        monkeypatch.setattr(module, "handles", lambda *tensors: True)
    for operator, kernel in ATTENTION.values():
        monkeypatch.setitem(operator._backend_fns, "cpu", kernel)
    for name, kernel in KERNELS.items():
        monkeypatch.setitem(getattr(native_operators, name)._backend_fns, "cpu", kernel)


class Recorder(TorchDispatchMode):
    """Which of our operators torch calls."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if function.namespace == "featup":
            self.names.append(function._opname)
        return function(*arguments, **(options or {}))


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("name", [*KERNELS, *ATTENTION])
def test_every_operator_has_a_kernel_for_cuda(name):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"featup::{name}", "CUDA")
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"featup::{name}", "CPU")


def called_for_cuda_tensors() -> list[str]:
    with FakeTensorMode(), Recorder() as recorder:
        padded = torch.empty(2, 12, 8, 9, device="cuda")
        weights = torch.empty(2, 9, 6, 7, device="cuda")
        for result, shape in (
            (ops.window_sum(padded, weights), (2, 12, 6, 7)),
            (ops.jbu_weights(padded, 1.0, 0.5, 3), weights.shape),
        ):
            assert result.device.type == "cuda"
            assert result.shape == shape
    return recorder.names


def test_cuda_tensors_take_the_library_where_it_can_be_used(emulated):
    assert called_for_cuda_tensors() == ["window_sum", "range_weights"]
    with FakeTensorMode():
        assert ops.bilateral_weights(torch.empty(2, 3, 8, 9, device="cuda"), 1.0, 0.5, 3).shape == (2, 9, 6, 7)


def attention_operands(channels: int, device: str = "cpu", dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    shapes = (1, 2, 4, 7), (1, 2, 2, 3), (1, channels, 2, 3), (4, 3), (7, 3)
    operands = [random(*shape, seed=seed, dtype=dtype) for seed, shape in enumerate(shapes)]
    cells = [torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 0, 1, 1, 2, 2])]
    return [operand.to(device) for operand in (*operands, *cells)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_attention_to_cells_takes_the_library_on_cuda(emulated, dtype):
    with FakeTensorMode(), Recorder() as recorder:
        operands = attention_operands(12, "cuda", dtype)
        result = ops.cell_attention(*operands)
        assert result.shape == (1, 12, 4, 7)
        assert result.is_contiguous()
        assert result.dtype == dtype
        gradients = attention.cell_attention_backward(result, *operands, wants_values=True)
        assert [gradient.shape for gradient in gradients] == [operand.shape for operand in operands[:5]]
        assert all(gradient.is_contiguous() for gradient in gradients)
        assert ops.cell_attention_weights(*operands[:2], *operands[3:]).shape == (1, 9, 4, 7)
    assert recorder.names == ["cell_attention", "cell_attention_backward", "cell_attention_weights"]


def test_attention_to_cells_and_its_gradients_through_torch(exchanged):
    for channels in (2, 9):
        operands = attention_operands(channels)
        leaves = [operand.requires_grad_() for operand in operands[:5]]
        found, expected = ops.cell_attention(*operands), reference.cell_attention(*operands)
        torch.testing.assert_close(found, expected)
        seed = random(*expected.shape, seed=9)
        for one, two in zip(
            torch.autograd.grad(found, leaves, seed, retain_graph=True),
            torch.autograd.grad(expected, leaves, seed),
            strict=True,
        ):
            torch.testing.assert_close(one, two)
        some = [leaves[index] for index in (0, 1, 3, 4)]
        without = ops.cell_attention(*operands[:2], operands[2].detach(), *operands[3:])
        for one, two in zip(
            torch.autograd.grad(without, some, seed), torch.autograd.grad(found, some, seed), strict=True
        ):
            assert torch.equal(one, two)
        weights = [operand.detach() for operand in (*operands[:2], *operands[3:])]
        torch.testing.assert_close(ops.cell_attention_weights(*weights), reference.cell_attention_weights(*weights))


def test_cells_outside_of_the_grid_are_refused_on_cuda(exchanged):
    operands = attention_operands(2)
    operands[6] = operands[6] + 1
    with pytest.raises(RuntimeError, match=r"^column_cells has numbers from 1 to 3; expected 0 to 2$"):
        ops.cell_attention(*operands)
    operands = attention_operands(2)
    operands[5] = operands[5].flip(0)
    with pytest.raises(RuntimeError, match=r"^row_cells has decreasing numbers"):
        ops.cell_attention_weights(*operands[:2], *operands[3:])


def test_an_attention_without_channels_has_gradients_of_zero(exchanged):
    operands = attention_operands(0)
    leaves = [operand.requires_grad_() for operand in operands[:5]]
    for gradient in torch.autograd.grad(ops.cell_attention(*operands).sum(), leaves):
        assert not gradient.any()


def test_results_on_cuda_are_expected_contiguous_whatever_the_layout_of_the_input():
    with FakeTensorMode():
        padded = torch.empty(2, 12, 8, 9, device="cuda").to(memory_format=torch.channels_last)
        weights, gradient = torch.empty(2, 9, 6, 7, device="cuda"), padded[..., 1:-1, 1:-1]
        for result, shape in (
            (native_operators.window_sum(padded, weights, 3), gradient.shape),
            (native_operators.window_sum_grad_input(gradient, weights, 3), padded.shape),
            (native_operators.window_sum_grad_weights(padded, gradient, 3), weights.shape),
        ):
            assert result.shape == shape
            assert result.is_contiguous()


def test_cuda_tensors_take_plain_torch_where_there_is_no_library(absent):
    assert called_for_cuda_tensors() == []


def test_switched_off_the_library_is_never_used(emulated, monkeypatch):
    monkeypatch.setenv("FEATUP_NATIVE", "off")
    assert called_for_cuda_tensors() == []
    assert not cuda.available()
    assert cuda.cuda_status() == "The CUDA operators are not used: FEATUP_NATIVE=off switches them off."
    with pytest.raises(RuntimeError, match="FEATUP_NATIVE=off"):
        cuda.window_sum(torch.ones(1, 1, 3, 3), torch.ones(1, 9, 1, 1))


def test_a_device_that_the_library_has_no_code_for_takes_plain_torch(emulated, monkeypatch):
    assert cuda.takes(torch.device("cuda:0"))
    assert not cuda.takes(torch.device("cuda:1"))
    monkeypatch.setenv("FEATUP_NATIVE", "require")
    assert cuda.takes(torch.device("cuda:0"))
    with pytest.raises(
        RuntimeError,
        match=r"^FEATUP_NATIVE=require, but the CUDA operators cannot be used on cuda:1: the emulation has one device$",
    ):
        cuda.takes(torch.device("cuda:1"))


def test_required_but_absent_is_an_error_for_cuda_tensors_alone(absent, monkeypatch):
    monkeypatch.setenv("FEATUP_NATIVE", "require")
    with FakeTensorMode():
        tensors = torch.empty(1, 2, 5, 5, device="cuda"), torch.empty(1, 9, 3, 3, device="cuda")
        with pytest.raises(RuntimeError) as caught:
            ops.window_sum(*tensors)
    assert str(caught.value) == f"FEATUP_NATIVE=require, but the CUDA operators cannot be used on cuda:0: {NO_LIBRARY}"
    assert not cuda.available()
    assert cuda.cuda_status() == f"The CUDA operators are not used: {NO_LIBRARY}."
    if loading.loaded() is not None:
        assert ops.window_sum(torch.ones(1, 1, 3, 3), torch.ones(1, 9, 1, 1)).item() == 9


def test_an_unknown_mode_is_an_error_of_operators_but_not_of_the_status(emulated, monkeypatch):
    monkeypatch.setenv("FEATUP_NATIVE", "perhaps")
    assert cuda.cuda_status() == (
        "The CUDA operators are not used: FEATUP_NATIVE is 'perhaps'; expected auto, off or require."
    )
    with pytest.raises(RuntimeError, match=r"^FEATUP_NATIVE is 'perhaps'"):
        cuda.takes(torch.device("cuda:0"))


def test_asking_for_the_status_loads_nothing(absent):
    expected = "The CUDA operators are loaded with the first tensor on a CUDA device."
    assert native_status().cuda_operators == expected
    assert "CUDA" not in native_status().detail
    assert not cuda.runs()
    assert cuda._library.failure is None
    assert cuda.cuda_status() == native_status().cuda_operators == f"The CUDA operators are not used: {NO_LIBRARY}."


def test_the_status_tells_what_is_loaded(emulated):
    status = native_status()
    assert status.cuda_operators == "An emulation on the host."
    assert status.detail.endswith("On CUDA tensors they run in the CUDA library: An emulation on the host.")


def test_a_file_that_is_no_library_is_a_sentence(unloaded, monkeypatch, tmp_path):
    path = tmp_path / "libfeatup_cuda.so"
    path.write_bytes(b"not a library")
    monkeypatch.setattr(cuda, "_library_path", lambda: path)
    assert not cuda.available()
    assert cuda.cuda_status().startswith("The CUDA operators are not used: ")
    assert cuda._library.get() is None


@pytest.mark.parametrize("name", NAMES)
def test_golden_files_through_torch_and_its_gradients(exchanged, name):
    known = golden(name)
    with Recorder() as recorder:
        output = ops.adaptive_conv(known["input"], known["filters"])
        output.backward(known["grad_output"])
    assert recorder.names == ["window_sum", "window_sum_grad_input", "window_sum_grad_weights"]
    agrees(known, output)


def test_gradients_of_the_weights_agree_with_plain_torch(exchanged):
    keys, temperature, sigma = random(1, 2, 6, 7), torch.tensor(0.7).double(), torch.tensor(0.9).double()
    seed = random(1, 9, 4, 5, seed=1)

    def gradients(function) -> tuple[torch.Tensor, ...]:
        leaves = [tensor.clone().requires_grad_() for tensor in (keys, temperature, sigma)]
        value = function(*leaves)
        return value.detach(), *torch.autograd.grad(value, leaves, seed)

    found = gradients(lambda k, t, s: ops.jbu_weights(k, t, s, 3))
    expected = gradients(lambda k, t, s: reference.range_weights(k, t, reference.spatial_logarithm(s, 3, k), 3))
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two)
    torch.testing.assert_close(ops.bilateral_weights(keys, 0.8, 0.6, 3), reference.bilateral_weights(keys, 0.8, 0.6, 3))


@pytest.mark.parametrize("compact", [torch.float16, torch.bfloat16])
def test_weights_of_another_type_and_their_gradients(exchanged, compact):
    padded, weights = random(1, 3, 8, 9, dtype=torch.float32), random(1, 9, 6, 7, seed=1, dtype=compact)
    exact = reference.window_sum(padded.double(), weights.double(), 3)
    leaves = padded.requires_grad_(), weights.requires_grad_()
    result = ops.window_sum(*leaves)
    torch.testing.assert_close(result.double(), exact, atol=2e-5, rtol=2e-5)
    to_padded, to_weights = torch.autograd.grad(result.sum(), leaves)
    assert to_padded.dtype == torch.float32
    assert to_weights.dtype == compact


def test_torch_accepts_the_operators(exchanged):
    padded, weights, gradient = random(1, 2, 5, 6), random(1, 9, 3, 4, seed=1), random(1, 2, 3, 4, seed=2)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    leaves = [tensor.requires_grad_() for tensor in (padded, weights, gradient)]
    torch.library.opcheck(native_operators.window_sum, (*leaves[:2], 3), test_utils=checks)
    torch.library.opcheck(native_operators.window_sum_grad_input, (leaves[2], leaves[1], 3), test_utils=checks)
    torch.library.opcheck(native_operators.window_sum_grad_weights, (leaves[0], leaves[2], 3), test_utils=checks)
    temperature, bias = torch.tensor(0.5).double().requires_grad_(), random(9, seed=4).requires_grad_()
    torch.library.opcheck(native_operators.range_weights, (leaves[0], temperature, bias, 3), test_utils=checks)
    torch.library.opcheck(native_operators.bilateral_weights, (padded.detach(), 0.7, 0.2, 3), test_utils=checks)
    operands = attention_operands(2)
    pixels = random(1, 2, 4, 7, seed=5)
    torch.library.opcheck(attention.cell_attention_weights_compiled, (*operands[:2], *operands[3:]), test_utils=checks)
    for wanted in (True, False):
        keywords = {"wants_values": wanted}
        torch.library.opcheck(attention.cell_attention_backward, (pixels, *operands), keywords, test_utils=checks)
    operands[:5] = (operand.requires_grad_() for operand in operands[:5])
    torch.library.opcheck(attention.cell_attention_compiled, operands, test_utils=checks)


def test_info_tells_of_cuda(absent, capsys):
    from featup_app.cli.info import info

    info(as_json=True)
    assert json.loads(capsys.readouterr().out)["cuda_operators"] == f"The CUDA operators are not used: {NO_LIBRARY}."
    info(as_json=False)
    assert "cuda operators:    The CUDA operators are not used: " in capsys.readouterr().out
