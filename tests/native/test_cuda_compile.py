"""The CUDA library as nvcc compiles it: registers and spills of every kernel, what it exports, and that it loads anywhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from featup_app.ops import c_interface, loading
from featup_app.ops.loading import SharedLibrary

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "native" / "cuda"
ARCHITECTURES = {"sm_80", "sm_90", "sm_100", "sm_120"}
MOST_REGISTERS, MOST_REGISTERS_FLOAT64 = 168, 255
"""Three blocks of 128 threads have room on a multiprocessor, in float64 two."""
KERNELS = 124
"""Four storage types; seven operators, three kernel sizes and the kernel for any size; three more operators with one kernel."""


def nvcc() -> str | None:
    return shutil.which(os.environ.get("CUDACXX", "nvcc")) or shutil.which("/usr/local/cuda/bin/nvcc")


pytestmark = [
    pytest.mark.skipif(nvcc() is None, reason="needs nvcc"),
    pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake"),
]


@dataclass(frozen=True)
class Kernel:
    name: str
    architecture: str
    stack: int
    spilled: int
    registers: int


@dataclass(frozen=True)
class Build:
    library: Path
    kernels: list[Kernel]


def build(folder: Path, architectures: str | None) -> Build:
    """Configure and build native/cuda on its own, with the report of ptxas; what the host's side launches keeps its names."""
    options = [f"-DCMAKE_CUDA_COMPILER={nvcc()}", "-DCMAKE_CUDA_FLAGS=-Xptxas=-v -Xcompiler=-fno-inline"]
    if architectures is not None:
        options.append(f"-DCMAKE_CUDA_ARCHITECTURES={architectures}")
    report = ""
    for command in (
        ["cmake", "-S", str(SOURCES), "-B", str(folder), "-DCMAKE_BUILD_TYPE=Release", *options],
        ["cmake", "--build", str(folder), "--parallel", "2", "--verbose"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        report = done.stdout + done.stderr
    warnings = [line for line in report.splitlines() if re.search(r"\bwarning\b", line)]
    assert not warnings, "\n".join(warnings)
    # Two compilers write at once, but each its whole output in one piece.
    entries = re.findall(
        r"Compiling entry function '(\w+)' for '(sm_\d+)'\n.*\n\s*(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads\n.*Used (\d+) registers",
        report,
    )
    kernels = [
        Kernel(name, arch, int(stack), int(out) + int(back), int(used))
        for name, arch, stack, out, back, used in entries
        if "probe" not in name  # does nothing
    ]
    return Build(next(folder.glob("*featup_cuda.*")), kernels)


def is_float64(kernel: Kernel) -> bool:
    return re.search(r"(window_\w+?|double_cells|attention_\w+?)Id", kernel.name) is not None


def check_registers(kernels: list[Kernel], architectures: set[str]) -> None:
    assert {kernel.architecture for kernel in kernels} == architectures
    for architecture in architectures:
        of_this = [kernel for kernel in kernels if kernel.architecture == architecture]
        assert len(of_this) == KERNELS
        assert sum(map(is_float64, of_this)) == KERNELS // 4
        print(
            architecture,
            "float64",
            max(kernel.registers for kernel in of_this if is_float64(kernel)),
            "others",
            max(kernel.registers for kernel in of_this if not is_float64(kernel)),
        )
    assert [kernel for kernel in kernels if kernel.spilled or kernel.stack] == []
    over = [k for k in kernels if k.registers > (MOST_REGISTERS_FLOAT64 if is_float64(k) else MOST_REGISTERS)]
    assert over == []


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Build:
    return build(tmp_path_factory.mktemp("cuda"), "90-real")


def test_no_kernel_spills_registers(built):
    check_registers(built.kernels, {"sm_90"})


@pytest.mark.slow
def test_no_kernel_spills_registers_on_any_architecture(tmp_path):
    check_registers(build(tmp_path, None).kernels, ARCHITECTURES)


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("nm") is None, reason="needs nm")
def test_what_is_launched_are_the_kernels_that_there_are(built):
    """The two compilers of nvcc agree on the constants of every kernel: what only the host's knows cannot be launched."""
    objects = [str(path) for path in built.library.parent.rglob("*.o")]
    done = subprocess.run(["nm", *objects], capture_output=True, text=True, timeout=60, check=True)
    # On the host's side they are static, which their names tell.
    found = re.findall(
        r" (_ZN6featup)L?(\d+(?:window_pass|window_taps|double_cells|attention_(?:pass|weights|through|cells))\w+)",
        done.stdout,
    )
    kernels = {kernel.name for kernel in built.kernels}
    assert {"".join(parts) for parts in found} == kernels


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("nm") is None, reason="needs nm")
def test_only_the_interface_is_exported(built):
    done = subprocess.run(
        ["nm", "-D", "--defined-only", str(built.library)], capture_output=True, text=True, timeout=60, check=True
    )
    names = {line.split()[-1].partition("@")[0] for line in done.stdout.splitlines()}
    header = (ROOT / "native" / "include" / "featup_cuda.h").read_text()
    assert names == set(re.findall(r"\b(featup_cuda_\w+)\(", header))


def test_the_library_loads_without_a_driver_and_says_so(built):
    """In a process of its own, in which no driver and no torch has been loaded."""
    program = (
        "import sys; from pathlib import Path; from featup_app.ops import cuda; "
        f"cuda._library_path = lambda: Path({str(built.library)!r}); "
        "print(cuda.cuda_status(load=False)); "
        "print(cuda.available()); print(cuda.cuda_status()); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "FEATUP_NATIVE": "require"},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    before, available, status, torch_is_there = done.stdout.splitlines()
    assert before == "The CUDA operators are loaded with the first tensor on a CUDA device."
    assert torch_is_there == "False"
    if available == "True":
        assert re.fullmatch(r"\d+ CUDA devices?, the first is .+ \(compute capability \d+\.\d+\)\.", status)
    else:
        assert status.startswith(
            ("There is no CUDA driver on this machine", "There is a CUDA driver, but", "The CUDA d")
        )
        assert status.endswith(".")


def test_an_old_interface_is_refused(built, monkeypatch):
    needed = c_interface.ABI_VERSION + 1
    monkeypatch.setattr(loading, "ABI_VERSION", needed)
    library = SharedLibrary("CUDA library", "CUDA compiler", "featup_cuda_", lambda: built.library, lambda opened: None)
    assert library.get() is None
    assert library.failure == (
        f"the CUDA library has interface {needed - 1} and this program needs {needed}; please install again"
    )
