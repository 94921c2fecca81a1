"""The command line as shells, scripts and other people's folders use it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as pillow

from featup_app.base.errors import SizeError
from featup_app.sizes import resolve_input_size, resolve_output_size

QUICK = ("--method", "lowres", "--size", "56", "--output-size", "grid")


def picture(path: Path, *, shade: int = 90) -> Path:
    """A small picture with something on it, made and written."""
    pixels = np.full((48, 64, 3), shade, np.uint8)
    pixels[10:30, 20:50] = (220, 60, 30)
    path.parent.mkdir(parents=True, exist_ok=True)
    pillow.fromarray(pixels).save(path)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- batches -------------------------------------------------------------------------------------------------------------


def test_a_batch_passes_over_what_it_cannot_read(tmp_path, command):
    good = [picture(tmp_path / "a.png"), picture(tmp_path / "z.png", shade=20)]
    (tmp_path / "broken.png").write_bytes(good[0].read_bytes()[:60])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    bad = [tmp_path / name for name in ("broken.png", "empty.png", "folder", "missing.png", "a.png#page=0")]
    code, out, err = command("export", good[0], *bad, good[1], "-o", tmp_path / "out", *QUICK)
    assert code == 1
    assert [Path(line).name for line in out.splitlines()] == ["a.features.npz", "z.features.npz"]
    lines = err.splitlines()
    assert len(lines) == len(bad) + 1
    assert all(any(name in line for line in lines) for name in ("broken.png", "empty.png", "missing.png", '"0"'))
    assert lines[-1] == "featup-app: 5 of 7 images were passed over."


def test_a_folder_means_the_pictures_in_it(tmp_path, command):
    photos = tmp_path / "photos"
    for name in ("b.png", "a.PNG", ".hidden.png", "inside/c.png"):
        picture(photos / name)
    (photos / "notes.txt").write_text("no picture")
    code, out, err = command("export", photos, photos / "b.png", "-o", tmp_path / "out", *QUICK)
    assert (code, err) == (0, "")
    assert [Path(line).name for line in out.splitlines()] == ["a.features.npz", "b.features.npz"]


def test_one_image_that_cannot_be_read_is_bad_input(tmp_path, command):
    (tmp_path / "photos").mkdir()
    code, out, err = command("export", tmp_path / "photos", "-o", tmp_path / "out", "--json", *QUICK)
    assert (code, json.loads(out)["exports"][0]["files"]) == (2, [])
    assert "holds no pictures" in err
    assert names(tmp_path) == ["photos"]


# -- names of outputs ------------------------------------------------------------------------------------------------------


def test_no_output_overwrites_an_input(tmp_path, command):
    image, other = picture(tmp_path / "cat.png"), picture(tmp_path / "cat.pca.png", shade=5)
    before = other.read_bytes()
    arguments = ("--views", "pca", "--no-features", "--overwrite", "-o", tmp_path, *QUICK)
    code, out, err = command("export", image, other, *arguments)
    assert (code, [Path(line).name for line in out.splitlines()]) == (1, ["cat.pca.pca.png"])
    assert 'cat.pca.png": it is an input of this command' in err
    assert other.read_bytes() == before


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_an_input_is_known_under_its_other_names(tmp_path, command, link):
    image = picture(tmp_path / "cat.png")
    target = tmp_path / "out" / "cat.pca.png"
    target.parent.mkdir()
    getattr(target, link)(image)
    code, _, err = command(
        "export", image, "--views", "pca", "--no-features", "--overwrite", "-o", target.parent, *QUICK
    )
    assert code == 2
    assert "it is an input of this command" in err
    assert target.samefile(image)


def test_weights_are_inputs_too(tmp_path, command):
    weights = tmp_path / "cat.features.safetensors"
    weights.write_bytes(b"weights")
    image = picture(tmp_path / "cat.png")
    code, _, err = command("fit", image, "--checkpoint", weights, "-o", weights, "--steps", "1")
    assert (code, weights.read_bytes()) == (2, b"weights")
    assert "it is an input of this command" in err


def test_a_training_does_not_draw_its_curve_over_a_picture(tmp_path, command):
    for name in ("run.png", "b.png", "c.png"):
        picture(tmp_path / name)
    before = (tmp_path / "run.png").read_bytes()
    code, _, err = command("train", tmp_path, "-o", tmp_path / "run.safetensors", "--steps", "1")
    assert (code, (tmp_path / "run.png").read_bytes()) == (2, before)
    assert 'run.png": it is an input of this command' in err


def test_views_of_one_name_are_found_before_anything_is_computed(tmp_path, command, monkeypatch):
    monkeypatch.setattr("featup_app.engine.session.Session.look", lambda *_, **__: pytest.fail("computed"))
    image = picture(tmp_path / "cat.png")
    views = ("--views", "similarity@20,20,similarity@20.0000001,20")
    code, out, err = command("export", image, *views, "-o", tmp_path / "out", *QUICK)
    assert (code, out) == (2, "")
    assert "Two of the views would be written to the same file" in err
    (tmp_path / "cat.pca.png").write_text("mine")
    code, out, err = command("export", image, "--views", "pca", "--no-features", "-o", tmp_path, *QUICK)
    assert (code, out) == (2, "")
    assert "already there" in err


def test_classes_of_one_name_get_files_of_their_own(tmp_path, command):
    image = picture(tmp_path / "cat.png")
    options = ("--views", "cam:134,cam:517", "--no-features")
    code, out, err = command("export", image, *options, "-o", tmp_path / "out", *QUICK)
    assert (code, err) == (0, "")
    assert len(set(out.splitlines())) == 2


# -- standard output and standard error --------------------------------------------------------------------------------------

PROGRAM = (sys.executable, "-m", "featup_app")
unix = pytest.mark.skipif(sys.platform == "win32", reason="needs the terminals and devices of Unix")


def in_terminal(arguments: list[str], *, piped: bool, columns: int = 40) -> tuple[int, str, str]:
    """Runs the program in a pseudo terminal: (exit code, what the terminal got, what a pipe at stdout got)."""
    import fcntl
    import pty
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm"}
    environment.pop("COLUMNS", None)
    process = subprocess.Popen(
        [*PROGRAM, *arguments],
        stdin=slave,
        stdout=subprocess.PIPE if piped else slave,
        stderr=slave,
        env=environment,
    )
    os.close(slave)
    seen = bytearray()
    try:
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:  # Linux says so when the last process has closed the terminal
                break
            if not part:
                break
            seen += part
        out = process.stdout.read() if process.stdout else b""
        return process.wait(60), seen.decode(errors="replace"), out.decode()
    finally:
        process.kill()
        process.wait()
        os.close(master)


@unix
@pytest.mark.parametrize("piped", [False, True])
def test_results_go_to_stdout_in_a_terminal(tmp_path, piped):
    long = "a name that is much wider than the terminal of this test [bold] [/wrong] :cat:"
    photos = [picture(tmp_path / f"{long} {number}.png") for number in (1, 2)]
    code, seen, out = in_terminal(["export", *map(str, photos), "-o", str(tmp_path / "out"), *QUICK], piped=piped)
    files = [str(tmp_path / "out" / f"{photo.stem}.features.npz") for photo in photos]
    assert code == 0
    assert "Traceback" not in seen
    if piped:
        assert out.splitlines() == files
        assert not any(file in seen for file in files)
    else:
        assert all(f"{file}\r\n" in seen for file in files)


@unix
def test_with_stdout_and_stderr_closed_the_work_is_done(tmp_path):
    photo = picture(tmp_path / "a.png")
    command = [*PROGRAM, "export", str(photo), "-o", str(tmp_path / "out"), *QUICK]
    result = subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], timeout=120)
    assert result.returncode == 0
    with np.load(tmp_path / "out" / "a.features.npz") as stored:
        assert stored["features"].ndim == 3
    assert (
        subprocess.run(["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *PROGRAM, "info", "extra"], timeout=60).returncode == 2
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["backbones"], ["backbones", "--json"]])
def test_a_full_device_gets_a_sentence(arguments):
    with open("/dev/full", "w") as full:
        result = subprocess.run([*PROGRAM, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
        quiet = subprocess.run([*PROGRAM, "info", "extra"], stdout=full, stderr=full, timeout=60)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "Cannot write the results to the standard output: no space left on device" in result.stderr
    assert quiet.returncode == 2


@unix
@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_names_that_cannot_be_encoded_are_escaped(tmp_path, encoding):
    picture(tmp_path / "a.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 \xe2\x98\x95.png"))
    arguments = ["export", str(tmp_path), "missing-\u2615.png", "-o", str(tmp_path / "out"), *QUICK]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    result = subprocess.run([*PROGRAM, *arguments], env=environment, capture_output=True, timeout=120)
    assert result.returncode == 1, result.stderr
    assert b"Traceback" not in result.stderr
    assert b"caf\\udce9" in result.stdout
    assert (b"\\u2615" in result.stdout) == (encoding == "ascii")


# -- without a display ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="Windows and macOS always have a display")
@pytest.mark.parametrize("variables", [{}, {"DISPLAY": ":4711"}, {"WAYLAND_DISPLAY": "wayland-4711"}])
def test_without_a_display_the_window_names_export(tmp_path, variables):
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
    environment = {name: value for name, value in os.environ.items() if name not in hidden} | variables
    result = subprocess.run([*PROGRAM], env=environment, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("featup-app: Cannot open the window: ")
    assert result.stderr.count("\n") == 1
    assert "featup-app export" in result.stderr


# -- ends of the program ---------------------------------------------------------------------------------------------------


@unix
def test_partial_files_of_a_killed_program_are_swept(tmp_path, command):
    photo, out = picture(tmp_path / "a.png"), tmp_path / "out"
    script = (
        "import os, signal; from pathlib import Path; from featup_app.export import Staging\n"
        f"files = Staging().__enter__(); files.add(Path({str(out / 'a.npz')!r})).write_bytes(b'half')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == -signal.SIGKILL
    (left,) = names(out)
    alive = left.replace(left.rsplit("-", 2)[-2], str(os.getppid()))
    foreign = ".a.npz.0123456z-999999-1.part"
    for name in (alive, foreign):
        (out / name).write_bytes(b"of someone else")
    assert command("export", photo, "-o", out, *QUICK)[0] == 0
    assert names(out) == sorted([alive, foreign, "a.features.npz"])


@unix
@pytest.mark.parametrize("module", ["typer", "featup_app.cli.train", "torch", "timm"])
def test_an_early_interrupt_ends_quietly(tmp_path, module):
    photo = picture(tmp_path / "a.png")
    script = (
        "import os, runpy, signal, sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "runpy.run_module('featup_app', run_name='__main__')\n"
    )
    arguments = ["export", str(photo), "-o", str(tmp_path / "out"), *QUICK]
    result = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60)
    assert result.returncode == 130, result.stderr
    assert result.stderr == "featup-app: Cancelled; nothing was written.\n"
    assert not (tmp_path / "out").exists()


# -- arguments -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("a.png", "-o", ""), ("",), ("a.png", "--checkpoint", "")])
def test_an_empty_name_is_no_folder(command, arguments):
    code, out, err = command("export", *arguments)
    assert (code, out) == (2, "")
    assert "is empty" in err


@unix
def test_dangling_links_are_named(tmp_path, command):
    for name in ("link.png", "out"):
        (tmp_path / name).symlink_to(tmp_path / f"gone-{name}")
    code, _, err = command("export", tmp_path / "link.png", "-o", tmp_path / "new", *QUICK)
    assert code == 2
    assert "gone-link.png" in err
    code, _, err = command("export", picture(tmp_path / "a.png"), "-o", tmp_path / "out", *QUICK)
    assert code == 2
    assert "gone-out" in err


def test_a_device_without_values_is_none(tmp_path, command):
    code, _, err = command("export", picture(tmp_path / "a.png"), "-o", tmp_path / "out", "--device", "meta", *QUICK)
    assert code == 2
    assert 'no device "meta"' in err


@pytest.mark.parametrize("size", [(224,), (1, 2, 3), (), ("a", "b"), (float("nan"), 4)])
def test_a_size_is_a_pair(size):
    with pytest.raises(SizeError, match="no pair of numbers"):
        resolve_output_size(size, image_hw=(4, 4), grid_hw=(2, 2))
    with pytest.raises(SizeError, match="no pair of numbers"):
        resolve_input_size(size, image_hw=(4, 4), stride=2, default=4)
