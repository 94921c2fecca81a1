"""The option ``--upsampler``: weights of a file, the untrained filter, and files that cannot be used."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch

from featup_app.export import load_export
from featup_app.fields import JBUStack, save_upsampler
from featup_app.images import sample_images

CAT, COFFEE, _ = sample_images()
SMALL = ("--size", "112", "--output-size", "2x")


def write(path: Path, channels: int = 384, **provenance: object) -> Path:
    generator = torch.Generator().manual_seed(0)
    stack = JBUStack(channels)
    with torch.no_grad():
        for key, parameter in stack.named_parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator) + float("sigma" in key))
    return save_upsampler(path, stack, provenance=provenance)


def test_weights_from_a_file_and_the_untrained_filter(tmp_path, command):
    path = write(tmp_path / "mine.safetensors", title="Mine", backbone="dinov2-s14-imgfocus")
    found = {}
    for choice in (path, "classical"):
        folder = tmp_path / f"out {Path(choice).stem}"
        assert command("export", CAT, "-o", folder, "--upsampler", choice, *SMALL)[0] == 0
        found[choice] = load_export(folder / "cat.features.npz")
    settings = found[path].provenance["upsampler"]["settings"]
    assert settings["upsampler"]["title"] == "Mine"
    assert settings["upsampler"]["file"] == "mine.safetensors"
    assert settings["upsampler"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found["classical"].provenance["upsampler"]["settings"]["kernel"] == "classical"
    assert not np.allclose(found[path].features, found["classical"].features, atol=1e-2)


def test_a_file_that_cannot_be_used_gets_one_sentence_for_all_images(tmp_path, command):
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(write(tmp_path / "whole.safetensors").read_bytes()[:5000])
    small = write(tmp_path / "small.safetensors", 32)
    for options, words in (
        (("--upsampler", text), "does not look like weights"),
        (("--upsampler", cut), "copy or download it again"),
        (("--upsampler", tmp_path / "absent.ckpt"), "There is no file"),
        (("--upsampler", tmp_path), "is a folder"),
        (("--upsampler", small), '"small" is for 32 channels, but the features of dinov2-s14-imgfocus'),
        (("--upsampler", small, "--method", "bilinear"), "The method bilinear has no weights to choose"),
    ):
        code, out, err = command("export", CAT, COFFEE, "-o", tmp_path / "out", *options, *SMALL)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        assert words in err
        assert not (tmp_path / "out").exists()
