"""The learned stack against the published one: outputs, gradients, names, checkpoints; and that it never unfolds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from featup_app.fields import JBUStack
from featup_app.fields.window_kernels import BilateralKernel
from featup_app.ops.doubling import KERNEL_SIZE, RADIUS
from featup_app.ops.reference import spatial_logarithm

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[2]
GOLDEN, SHARED = ROOT / "tests" / "data" / "golden", ROOT.parent / "shared" / "golden"
OUTPUT = {"atol": 2e-5, "rtol": 1e-4}
GRADIENT = {"atol": 1e-6, "rtol": 1e-3}
STAGES = ("up1", "up2", "up3", "up4")


def shared(name: str) -> Path:
    if not (SHARED / name).is_file():
        pytest.skip(f"needs {name} of the complete reference tensors in ../shared/golden, which is not there")
    return SHARED / name


def arrays(path: Path) -> dict[str, torch.Tensor]:
    with np.load(path, allow_pickle=False) as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored.files}


def under(known: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in known.items() if key.startswith(prefix)}


def case(name: str) -> dict[str, torch.Tensor]:
    """A run of the published stack; "compact" is the one that this repository holds."""
    if name != "compact":
        return arrays(shared(f"jbu_stack_{name}.npz"))
    known = arrays(GOLDEN / "jbu_stack_square.npz") | arrays(GOLDEN / "jbu_stack_square_gradients.npz")
    generator = torch.Generator().manual_seed(int(known["loss/seed"]))
    weight = torch.randn(1, 12, 96, 96, generator=generator, dtype=torch.float64).float()
    torch.testing.assert_close(weight.flatten()[:64], known["loss/weight_start"], msg="torch's random numbers changed")
    return known | {"loss/weight": weight}


def loaded(known: dict[str, torch.Tensor]) -> JBUStack:
    stack = JBUStack(known["input/source"].shape[1])
    stack.load_state_dict(under(known, "state/upsampler."), strict=True)
    return stack.eval()


CASES = ["compact", "square", "wide"]


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_the_published_ones(name):
    known = case(name)
    with torch.no_grad():
        output = loaded(known)(known["input/source"], known["input/guidance"])
    height, width = known["input/source"].shape[2:]
    assert output.shape[2:] == (16 * height, 16 * width)
    if name == "compact":
        torch.testing.assert_close(output[..., ::3, ::3], known["output/every_third_pixel"], **OUTPUT)
    else:
        torch.testing.assert_close(output, known["output/features"], **OUTPUT)


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_inputs_and_of_every_parameter_are_the_published_ones(name):
    known = case(name)
    stack = loaded(known)
    source, guidance = known["input/source"].requires_grad_(), known["input/guidance"].requires_grad_()
    (stack(source, guidance) * known["loss/weight"]).mean().backward()
    expected = under(known, "grad/upsampler.")
    found = {key: parameter.grad for key, parameter in stack.named_parameters()}
    assert set(found) == set(expected)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, **GRADIENT, msg=lambda text, key=key: f"{key}: {text}")
    torch.testing.assert_close(source.grad, known["grad/source"], **GRADIENT)
    torch.testing.assert_close(guidance.grad, known["grad/guidance"], **GRADIENT)
    # The tolerance must not be what makes them equal: with zeros in place of a gradient this test would fail.
    zeros = [key for key, value in expected.items() if torch.allclose(torch.zeros_like(value), value, **GRADIENT)]
    assert zeros == []


@pytest.mark.parametrize("name", CASES)
def test_the_first_stage_is_the_published_one_step_by_step(name):
    known = case(name)
    stack = loaded(known)
    small = known["stage1/guidance"]
    torch.testing.assert_close(F.adaptive_avg_pool2d(known["input/guidance"], small.shape[2:]), small, **OUTPUT)
    with torch.no_grad():
        padded = F.pad(small, (RADIUS,) * 4, mode="reflect")
        torch.testing.assert_close(stack.up1.range_kernel(padded), known["stage1/range_kernel"], **OUTPUT)
        sigma = stack.up1.sigma_spatial
        spatial = spatial_logarithm(sigma, KERNEL_SIZE, sigma).exp()
        torch.testing.assert_close(spatial, known["stage1/spatial_kernel"].flatten(), **OUTPUT)
        output = stack.upsample(known["input/source"], known["input/guidance"], stack.up1)
    torch.testing.assert_close(output, known["stage1/output"], **OUTPUT)


def test_parameters_have_the_published_names_and_shapes():
    channels = 7
    expected = {"fixup_proj.1.weight": (channels, channels, 1, 1), "fixup_proj.1.bias": (channels,)}
    for stage in STAGES:
        expected |= {
            f"{stage}.range_temp": (),
            f"{stage}.sigma_spatial": (),
            f"{stage}.range_proj.0.weight": (32, 3, 1, 1),
            f"{stage}.range_proj.0.bias": (32,),
            f"{stage}.range_proj.3.weight": (32, 32, 1, 1),
            f"{stage}.range_proj.3.bias": (32,),
            f"{stage}.fixup_proj.0.weight": (49, 52, 1, 1),
            f"{stage}.fixup_proj.0.bias": (49,),
            f"{stage}.fixup_proj.3.weight": (49, 49, 1, 1),
            f"{stage}.fixup_proj.3.bias": (49,),
        }
    assert {key: tuple(value.shape) for key, value in JBUStack(channels).state_dict().items()} == expected


def test_a_checkpoint_of_the_published_layout_loads():
    checkpoint = torch.load(shared("lightning_jbu.ckpt"), weights_only=True, map_location="cpu")
    stack = JBUStack(12)
    stack.load_state_dict(under(checkpoint["state_dict"], "upsampler."), strict=True)
    expected = under(case("compact"), "state/upsampler.")
    for key, value in stack.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=0)


def test_dropout_acts_in_training_only():
    known = case("compact")
    stack = loaded(known)
    inputs = known["input/source"], known["input/guidance"]
    with torch.no_grad():
        still = stack(*inputs)
        assert torch.equal(still, stack(*inputs))
        torch.manual_seed(0)
        assert not torch.allclose(still, stack.train()(*inputs), atol=1e-3)


class LargestResult(TorchDispatchMode):
    """Remembers the largest number of elements of any tensor that is computed (views of larger storages are not)."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.elements = max(self.elements, leaf.untyped_storage().nbytes() // leaf.element_size())
        return result


def test_a_stage_makes_no_copy_for_each_tap_forward_or_backward():
    channels, side = 64, 128
    stack = JBUStack(channels).eval()
    source = torch.randn(1, channels, side // 2, side // 2, requires_grad=True)
    guidance = torch.randn(1, 3, side, side)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with LargestResult() as largest, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = stack.upsample(source, guidance, stack.up1)
        output.sum().backward()
    features = channels * side * side
    # The padded features are the largest tensor; unfolding would make 49 times as much, for the keys alone 24 times.
    assert features <= largest.elements < 1.2 * features
    # What training keeps until its backward pass: measured 9 times the features, unfolding would keep 75 times.
    assert sum(kept.values()) < 12 * features * 4
    assert source.grad is not None


@pytest.mark.parametrize("rows", [1, 3, 16])
def test_classical_weights_are_the_same_to_the_last_bit_in_whatever_strip_they_are_made(rows):
    """Views, exports and tiles meet the same pixels in different strips, and promise the same bytes."""
    guidance = torch.rand(1, 3, 40 + 2 * RADIUS, 101 + 2 * RADIUS, generator=torch.Generator().manual_seed(0))
    kernel = BilateralKernel(sigma_spatial=0.7, sigma_range=0.08)
    whole = kernel.window_weights(guidance)
    strips = [kernel.window_weights(guidance[:, :, top : top + rows + 2 * RADIUS]) for top in range(0, 40, rows)]
    assert torch.equal(torch.cat(strips, dim=2), whole)
    part = kernel.window_weights(guidance[..., 13 : 13 + 50 + 2 * RADIUS])
    assert torch.equal(part, whole[..., 13:63])
    torch.testing.assert_close(whole.sum(dim=1), torch.ones(1, 40, 101))
    assert whole.min() >= 0
