"""The Python side of the CUDA operators against plain torch in float64: on a GPU, and with the sources under the emulation.

The emulation takes CPU tensors, so that everything but the device itself is tested on any machine.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from featup_app.ops import cuda, cuda_attention, reference

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-11, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def no_gpu() -> str | None:
    """Why the tests on a GPU cannot run."""
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    return None if cuda.available() else cuda.cuda_status()


@pytest.fixture(params=["emulated", "gpu"])
def device(request) -> torch.device:
    """Where the tensors have to be."""
    if request.param == "gpu":
        if reason := no_gpu():
            pytest.skip(reason)
        return torch.device("cuda")
    request.getfixturevalue("emulated")
    return torch.device("cpu")


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def windows(padded: torch.Tensor, kernel_size: int, height: int, width: int) -> torch.Tensor:
    """(B, C, k * k, H, W) in float64."""
    taps = F.unfold(padded.double(), kernel_size)
    return taps.view(padded.shape[0], padded.shape[1], kernel_size**2, height, width)


def close(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    assert found.dtype == dtype
    assert found.is_contiguous()
    torch.testing.assert_close(found.cpu().double(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("batch", "channels", "height", "width", "kernel_size"),
    [(1, 3, 5, 7, 7), (2, 9, 9, 33, 5), (2, 2, 4, 6, 3), (1, 2, 3, 4, 9), (1, 1, 1, 1, 1)],
)
def test_window_sum_and_its_gradients(device, batch, channels, height, width, kernel_size, dtype):
    edge = kernel_size - 1
    padded = random(batch, channels, height + edge, width + edge, seed=1, dtype=dtype)
    weights = random(batch, kernel_size**2, height, width, seed=2, dtype=dtype)
    grad = random(batch, channels, height, width, seed=3, dtype=dtype)
    a, b = padded.double().requires_grad_(), weights.double().requires_grad_()
    expected = torch.einsum("bcthw,bthw->bchw", windows(a, kernel_size, height, width), b)
    expected.backward(grad.double())
    here = padded.to(device), weights.to(device), grad.to(device)
    close(cuda.window_sum(here[0], here[1]), expected.detach(), dtype)
    close(cuda.window_sum_grad_input(here[2], here[1]), a.grad, dtype)
    close(cuda.window_sum_grad_weights(here[0], here[2], kernel_size), b.grad, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel_size", [3, 7, 9])
def test_weights_of_the_window(device, kernel_size, dtype):
    height, width, radius = 5, 34, kernel_size // 2
    padded = random(2, 3, height + 2 * radius, width + 2 * radius, seed=4, dtype=dtype)
    taps = windows(padded, kernel_size, height, width)
    centre = padded.double()[:, :, None, radius : radius + height, radius : radius + width]
    logits, bias = 0.7 * (taps * centre).sum(1), random(kernel_size**2, seed=5)
    here = padded.to(device)
    close(cuda.range_softmax(here, 0.7, kernel_size), logits.softmax(1), dtype)
    temperature = torch.tensor(0.7, dtype=torch.float64, device=device)
    biased = (logits + bias[:, None, None]).softmax(1)
    close(cuda.range_softmax(here, temperature, kernel_size, bias.to(device)), biased, dtype)
    line = torch.linspace(-1, 1, kernel_size, dtype=torch.float64)
    spatial = -(line[:, None] ** 2 + line**2).flatten() / (2 * 0.5**2)
    classical = spatial[:, None, None] - ((taps - centre) ** 2).sum(1) / (2 * 0.8**2)
    close(cuda.bilateral_weights(here, 0.5, 0.8, kernel_size), classical.softmax(1), dtype)


def doubled(source: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The guided doubling in three steps, in float64."""
    fine = F.interpolate(source.double(), scale_factor=2, mode="bicubic", align_corners=False)
    height, width = fine.shape[2:]
    return torch.einsum(
        "bcthw,bthw->bchw", windows(F.pad(fine, (3,) * 4, mode="reflect"), 7, height, width), weights.double()
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "channels", "height", "width"), [(2, 9, 3, 35), (1, 70, 2, 2), (1, 2, 7, 5)])
def test_guided_doubling(device, batch, channels, height, width, dtype):
    source = random(batch, channels, height, width, seed=8, dtype=dtype)
    weights = random(batch, 49, 2 * height, 2 * width, seed=9, dtype=dtype) / 7
    found = cuda.guided_double(source.to(device), weights.to(device))
    close(found, doubled(source, weights), dtype)
    last = source.to(memory_format=torch.channels_last).to(device)
    assert torch.equal(cuda.guided_double(last, weights.to(device)), found)


@pytest.mark.parametrize(("top", "left", "height", "width"), [(0, 0, 5, 6), (7, 9, 4, 11), (14, 20, 6, 4)])
def test_parts_of_a_guided_doubling_are_those_of_the_whole(device, top, left, height, width):
    source, weights = random(1, 3, 10, 12, seed=10).to(device), random(1, 49, 20, 24, seed=11).to(device)
    first = max(top // 2 - 3, 0), max(left // 2 - 3, 0)
    held = source[:, :, first[0] : (top + height - 1) // 2 + 4, first[1] : (left + width - 1) // 2 + 4]
    part = (..., slice(top, top + height), slice(left, left + width))
    place = {"coarse_size": (10, 12), "source_origin": first, "origin": (top, left)}
    found = cuda.guided_double(held, weights[part], **place)
    close(found, cuda.guided_double(source, weights)[part].cpu(), torch.float64)
    with pytest.raises(RuntimeError, match=r"^source holds the coarse lines"):
        cuda.guided_double(held[:, :, :-1], weights[part], **place)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["plain", "channels last"])
@pytest.mark.parametrize(("window", "channels"), [(3, 70), (5, 3), (7, 9), (9, 2), (1, 4)])
def test_attention_to_cells_and_its_gradients(device, window, channels, layout, dtype):
    (rows, columns), (height, width) = (2, 3), (9, 35)
    operands = [
        random(*shape, seed=seed, dtype=dtype)
        for seed, shape in enumerate(
            [
                (2, 4, height, width),
                (2, 4, rows, columns),
                (2, channels, rows, columns),
                (height, window),
                (width, window),
            ]
        )
    ]
    cells = torch.arange(height) * rows // height, torch.arange(width) * columns // width
    grad = random(2, channels, height, width, seed=7, dtype=dtype)
    exact = [operand.double().requires_grad_() for operand in operands]
    expected = reference.cell_attention(*exact, *cells)
    gradients = torch.autograd.grad(expected, exact, grad.double())
    weights = reference.cell_attention_weights(*exact[:2], *exact[3:], *cells)
    if layout == "channels last":
        operands[:3] = (operand.to(memory_format=torch.channels_last) for operand in operands[:3])
    here = [operand.to(device) for operand in (*operands, *cells)]
    close(cuda_attention.cell_attention(*here), expected.detach(), dtype)
    close(cuda_attention.cell_attention_weights(*here[:2], *here[3:]), weights.detach(), dtype)
    every = cuda_attention.cell_attention_backward(grad.to(device), *here, wants_values=True)
    some = cuda_attention.cell_attention_backward(grad.to(device), *here, wants_values=False)
    assert some[2].numel() == 0
    assert all(torch.equal(some[index], every[index]) for index in (0, 1, 3, 4))
    for found, wanted in zip(every, gradients, strict=True):
        scale = max(1.0, float(wanted.abs().max()))
        close(found / scale, wanted / scale, dtype)


@pytest.mark.parametrize("compact", [torch.float16, torch.bfloat16])
def test_weights_may_have_another_type(device, compact):
    padded, weights = random(1, 3, 8, 9, seed=1, dtype=torch.float32), random(1, 9, 6, 7, seed=2, dtype=compact)
    grad, here = random(1, 3, 6, 7, seed=3, dtype=torch.float32), weights.to(device)
    expected = torch.einsum("bcthw,bthw->bchw", windows(padded, 3, 6, 7), weights.double())
    close(cuda.window_sum(padded.to(device), here), expected, torch.float32)
    assert cuda.window_sum(padded.to(device, torch.float16), here).dtype == torch.float16
    assert cuda.window_sum_grad_input(grad.to(device), here).dtype == torch.float32
    assert cuda.window_sum_grad_weights(padded.to(device, compact), grad.to(device), 3).dtype == compact
    source, many = random(1, 3, 4, 5, seed=4, dtype=torch.float32), random(1, 49, 8, 10, seed=5, dtype=compact)
    close(cuda.guided_double(source.to(device), many.to(device)), doubled(source, many), torch.float32)


@pytest.mark.parametrize("layout", ["channels last", "transposed", "expanded"])
def test_any_strides_are_read_in_place(device, layout):
    shape = (2, 10, 9, 12)
    padded, weights = random(*shape, seed=6), random(2, 9, 7, 10, seed=7)
    if layout == "channels last":
        padded, weights = (x.to(memory_format=torch.channels_last) for x in (padded, weights))
    elif layout == "transposed":
        padded, weights = (x.transpose(2, 3).contiguous().transpose(2, 3) for x in (padded, weights))
    else:
        padded = random(1, 1, 9, 12, seed=6).expand(shape)
    expected = torch.einsum("bcthw,bthw->bchw", windows(padded, 3, 7, 10), weights)
    here = padded.to(device) if layout != "expanded" else padded[:1, :1].to(device).expand(shape)
    close(cuda.window_sum(here, weights.to(device)), expected, torch.float64)


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (1, 0, 3, 4), (1, 2, 0, 4), (1, 2, 3, 0)])
def test_empty_tensors(device, shape):
    batch, channels, height, width = shape
    padded = torch.ones(batch, channels, height + 2, width + 2, device=device)
    weights, grad = torch.ones(batch, 9, height, width, device=device), torch.ones(shape, device=device)
    assert cuda.window_sum(padded, weights).shape == shape
    assert cuda.window_sum_grad_input(grad, weights).eq(0).all()
    assert cuda.window_sum_grad_weights(padded, grad, 3).eq(0).all()


def test_what_does_not_fit_is_named(device):
    padded, weights = torch.zeros(1, 2, 6, 7, device=device), torch.zeros(1, 9, 4, 5, device=device)
    for match, call in {
        "^weights has 8 taps": lambda: cuda.window_sum(padded, weights[:, :8]),
        "^weights has shape": lambda: cuda.window_sum(padded, weights[0]),
        "^padded has shape": lambda: cuda.window_sum(padded[..., 1:], weights),
        "^padded has dtype": lambda: cuda.window_sum(padded.double(), weights),
        "^weights has dtype": lambda: cuda.window_sum(padded, weights.int()),
        "^padded is on meta": lambda: cuda.window_sum(padded.to("meta"), weights),
        "^weights has shape .*1, 9, 4, 4": lambda: cuda.window_sum_grad_input(padded[..., 2:, 3:], weights),
        "^kernel_size is 4": lambda: cuda.range_softmax(padded, 1.0, 4),
        "^keys has shape": lambda: cuda.range_softmax(padded, 1.0, 9),
        "^temperature has shape": lambda: cuda.range_softmax(padded, torch.ones(2, device=device), 3),
        "^bias has shape": lambda: cuda.range_softmax(padded, 1.0, 3, torch.ones(2, device=device)),
        "^sigma_spatial is 0": lambda: cuda.bilateral_weights(padded, 0.0, 1.0, 3),
        "^weights has shape .*49, 12, 14": lambda: cuda.guided_double(padded, torch.zeros(1, 49, 6, 7, device=device)),
        "^weights has shape .*49, 4, 5": lambda: cuda.guided_double(padded, weights, origin=(0, 0)),
        "^output covers lines 9 to 13": lambda: cuda.guided_double(
            padded, torch.zeros(1, 49, 4, 5, device=device), origin=(9, 0)
        ),
        "^sigma_range is nan": lambda: cuda.bilateral_weights(padded, 1.0, math.nan, 3),
    }.items():
        with pytest.raises(RuntimeError, match=match):
            call()


def test_tensors_on_the_processor_are_refused():
    with pytest.raises(RuntimeError, match=r"^padded_guidance is on cpu; expected a CUDA device"):
        cuda.bilateral_weights(torch.zeros(1, 3, 9, 9), 1.0, 1.0)


needs_gpu = pytest.mark.skipif(no_gpu() is not None, reason=no_gpu() or "")


@needs_gpu
def test_the_current_stream_is_used():
    stream = torch.cuda.Stream()
    padded = torch.zeros(1, 64, 262, 262, device="cuda")
    weights = torch.ones(1, 49, 256, 256, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # on another stream the sum would run before this is filled
        padded.fill_(1)
        found = cuda.window_sum(padded, weights)
    stream.synchronize()
    assert found.eq(49).all()


@needs_gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_another_device_than_the_current_one():
    padded, weights = random(1, 2, 8, 9, seed=1).to("cuda:1"), random(1, 9, 6, 7, seed=2).to("cuda:1")
    expected = torch.einsum("bcthw,bthw->bchw", windows(padded.cpu(), 3, 6, 7), weights.cpu())
    with torch.cuda.device(0):
        found = cuda.window_sum(padded, weights)
        assert torch.cuda.current_device() == 0
    assert found.device == torch.device("cuda:1")
    close(found, expected, torch.float64)


@needs_gpu
def test_more_planes_than_a_grid_has_in_its_third_dimension():
    padded, weights = torch.ones(70_000, 1, 3, 3, device="cuda"), torch.ones(70_000, 9, 1, 1, device="cuda")
    assert cuda.window_sum(padded, weights).eq(9).all()
    assert cuda.range_softmax(padded, 1.0, 3).sum(1).sub(1).abs().max() < 1e-5
