"""Set up featup-app in this folder, then open it or test it.

    python3 packaging/bootstrap.py run [IMAGE] [more featup-app arguments]
    python3 packaging/bootstrap.py run export IMAGE -o DIR [more arguments]
    python3 packaging/bootstrap.py test [--slow] [pytest arguments]

Both commands install featup-app and the libraries it needs into the folder .venv of this checkout when that is missing
or no longer fits (pyproject.toml, the native sources or the Python version changed). Otherwise they start at once.
On Debian and Ubuntu they also look for the system libraries that Qt needs and install them if you are root; if you are
not, they print the line to type. Nothing else on the computer is changed.

run   opens the window, or runs a featup-app command such as export or info when its name comes first.
test  runs ruff (rules and format), mypy, the import contracts and the tests. With arguments it runs only pytest, with
      those arguments. --slow runs the tests marked slow, which are left out otherwise.
Python 3.10 or newer is needed, and nothing but its standard library.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = (3, 10)
STAMP = "featup-app.json"
HASHED = ("pyproject.toml", "native/**/*")
"""Files that an installation depends on. A change in one of them installs again; a missing one is no error."""
NOT_SOURCES = re.compile(
    r"\..*|build|CMakeFiles|CMake(Cache|Init)\.txt|cmake_install\.cmake|__pycache__|.*\.(so|dylib|dll|lib|a|o|obj|ninja)"
)
"""Names of files and folders that a build leaves behind. They are ignored, because they must not start the next build."""
TEST_ENVIRONMENT = {"QT_QPA_PLATFORM": "offscreen", "FEATUP_NATIVE": "require"}
"""Added to the environment of the tests. Without a compiler the program falls back to plain torch; a test run must not do so
unnoticed."""
WITHOUT_WINDOW = ("export", "train", "fit", "evaluate", "bench", "info", "backbones", "--version")
IS_DEBIAN = Path("/etc/debian_version").exists() and shutil.which("apt-get") is not None
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
BREAKING = ("PYTHONHOME", "PYTHONPATH", "__PYVENV_LAUNCHER__", "PIP_TARGET", "PIP_PREFIX", "PIP_USER")
"""Environment variables that make a child Python look, or pip install, outside .venv."""
# System libraries and programs, and the Debian packages that contain them. Without the first, Qt does not load; without the
# second, no window opens on X11; without the third, some tests are skipped.
QT_LIBRARIES = {
    "libEGL.so.1": "libegl1", "libxkbcommon.so.0": "libxkbcommon0", "libfontconfig.so.1": "libfontconfig1",
    "libglib-2.0.so.0": "libglib2.0-0", "libdbus-1.so.3": "libdbus-1-3",
}  # fmt: skip
WINDOW_LIBRARIES = {
    "libGL.so.1": "libgl1", "libxkbcommon-x11.so.0": "libxkbcommon-x11-0", "libxcb-shape.so.0": "libxcb-shape0",
    "libxcb-cursor.so.0": "libxcb-cursor0", "libxcb-icccm.so.4": "libxcb-icccm4",
    "libxcb-keysyms.so.1": "libxcb-keysyms1",
}  # fmt: skip
TEST_PROGRAMS = {"Xvfb": "xvfb", "xauth": "xauth"}


class Problem(Exception):
    """Set-up cannot go on. The message says why and what to do."""

    code = 1


class Misuse(Problem):
    """The command line is wrong."""

    code = 2


def say(text: str) -> None:
    print(text, flush=True)


def child_environment(environ: Mapping[str, str], extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for child processes: without what breaks them, with `extra` on top."""
    kept = {name: value for name, value in environ.items() if name.upper() not in BREAKING}
    return {**kept, **(extra or {})}


def known_sonames() -> set[str] | None:
    """Names of the shared libraries that the dynamic linker finds, or None where they cannot be listed."""
    ldconfig = shutil.which("ldconfig", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin")))
    if ldconfig is None:
        return None
    listing = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, errors="replace", check=False).stdout
    trait = "x86-64" if platform.machine() == "x86_64" else ""  # there, 32-bit libraries may lie beside them
    return {name for name, traits in re.findall(r"(?m)^\s+(\S+) \((.*?)\) =>", listing) if trait in traits} or None


def missing_packages(purpose: str) -> tuple[list[str], list[str], list[str]]:
    """Debian packages that this computer lacks: for Qt itself, for its windows on X11, for the tests."""
    if purpose == "no window":
        return [], [], []
    sonames = known_sonames()

    def absent(libraries: Mapping[str, str]) -> list[str]:
        return [package for name, package in libraries.items() if sonames is not None and name not in sonames]

    programs = [package for name, package in TEST_PROGRAMS.items() if purpose == "test" and shutil.which(name) is None]
    return absent(QT_LIBRARIES), absent(WINDOW_LIBRARIES), programs


def apt_line(packages: Iterable[str], *, sudo: bool) -> list[str]:
    return [*(["sudo"] if sudo else []), "apt-get", "install", "-y", "--no-install-recommends", *packages]


def apt_install(packages: Sequence[str]) -> bool:
    """Install Debian packages as root; the package lists are fetched only if it fails without."""
    say(f"Installing system packages: {' '.join(packages)}")
    environment = child_environment(os.environ, {"DEBIAN_FRONTEND": "noninteractive"})
    install = apt_line(packages, sudo=False)
    for line in (install, ["apt-get", "update", "-qq"], install):
        done = subprocess.run(line, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace", check=False)  # fmt: skip
        if line is install and done.returncode == 0:
            return True
    say("\n".join(done.stdout.splitlines()[-8:]))
    return False


def ensure_system(purpose: str, *, new_venv: bool, environ: Mapping[str, str]) -> None:
    """Check (as root: install) the system packages on Debian and Ubuntu for a "window", a "test" or "no window".

    Raises:
        Problem: if a package is missing that this purpose needs.
    """
    if not IS_DEBIAN:
        return
    qt, window, programs = missing_packages(purpose)
    no_venv = new_venv and importlib.util.find_spec("ensurepip") is None
    venv_package = [f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"] if no_venv else []
    packages = [*qt, *window, *programs, *venv_package]
    if not packages or (IS_ROOT and apt_install(packages)):
        return
    x11 = purpose == "window" and bool(environ.get("DISPLAY")) and "QT_QPA_PLATFORM" not in environ
    line = " ".join(apt_line(packages, sudo=not IS_ROOT))
    if qt or no_venv or (window and x11):
        raise Problem(f"Some system packages are missing. Please install them, then run this again:\n    {line}")
    say(f"Some system packages are missing; going on without them. To install them:\n    {line}")


def in_venv(venv: Path, program: str) -> Path:
    """Path of a program inside a virtual environment."""
    return venv / "Scripts" / f"{program}.exe" if os.name == "nt" else venv / "bin" / program


def fingerprint(root: Path, version: Sequence[int] = sys.version_info[:2]) -> str:
    """Hash of everything that an installation depends on."""
    digest = hashlib.sha256(f"python {version[0]}.{version[1]}".encode())
    for path in sorted({path for pattern in HASHED for path in root.glob(pattern)}):
        name = path.relative_to(root)
        if path.is_file() and not any(NOT_SOURCES.fullmatch(part) for part in name.parts):
            digest.update(f"\0{name.as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def read_stamp(venv: Path) -> dict[str, str]:
    """The record of the last complete installation, or an empty mapping."""
    try:
        stamp = json.loads((venv / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(key): str(value) for key, value in stamp.items()} if isinstance(stamp, dict) else {}


def write_stamp(venv: Path, stamp: Mapping[str, str]) -> None:
    """Record a complete installation, in one step."""
    temporary = venv / f"{STAMP}.{os.getpid()}"
    temporary.write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")
    temporary.replace(venv / STAMP)


def is_usable(venv: Path, version: Sequence[int] = sys.version_info[:2]) -> bool:
    """Whether .venv has a Python of this version."""
    try:
        config = (venv / "pyvenv.cfg").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    made_with = re.search(r"^version(?:_info)?\s*=\s*(\d+)\.(\d+)", config, flags=re.MULTILINE)
    same = made_with is not None and (int(made_with[1]), int(made_with[2])) == tuple(version)
    return same and in_venv(venv, "python").exists()


class Plan(NamedTuple):
    """The action on .venv: "nothing", "install" into it, or "create" it anew and install."""

    action: str
    extra: str  # "" or "test"


def decide(root: Path, command: str, current_print: str) -> Plan:
    """Compare .venv with what the command needs."""
    venv = root / ".venv"
    stamp = read_stamp(venv)
    extra = "test" if command == "test" or stamp.get("extra") == "test" else ""
    if not is_usable(venv) or stamp.get("root", str(root)) != str(root):
        return Plan("create", extra)
    same = stamp.get("fingerprint") == current_print and stamp.get("extra") == extra
    return Plan("nothing" if same and in_venv(venv, "featup-app").exists() else "install", extra)


def run_showing(line: Sequence[str], *, cwd: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run a command with its own output, progress bars included; returns its code and its last error lines."""
    last: deque[str] = deque(maxlen=40)
    child = subprocess.Popen(line, cwd=cwd, env=environment, stderr=subprocess.PIPE, text=True, errors="replace")
    with child:
        for text in child.stderr or ():
            sys.stderr.write(text)
            sys.stderr.flush()
            last.append(text)
    return child.returncode, "".join(last)


def advice(output: str) -> str:
    """Advice on a failed installation, from the output of pip."""
    if re.search(r"No space left|Errno 28|not enough space", output, re.IGNORECASE):
        return "The disk is full: .venv needs about 7 GB of free space on Linux. Make room and run this again."
    if re.search(r"NewConnection|NameResolution|Temporary failure|Max retries|Connection ?(Error|refused|reset|broken)"
                 r"|Network is unreachable|Timeout|timed out|ProxyError|SSLError", output):  # fmt: skip
        return "The package index cannot be reached. Check the network (or the proxy) and run this again."
    if re.search(r"Requires-Python|No matching distribution|Could not find a version", output):
        python = f"Python {platform.python_version()}"
        return f"A library was not found: check the network, or try a Python other than {python} (3.10 or newer)."
    return "The lines above say why. Run this again once that is solved; deleting the folder .venv starts from nothing."


def set_up(root: Path, plan: Plan, current_print: str) -> None:
    """Create .venv and install into it, as planned.

    Raises:
        Problem: if that fails; the message includes advice.
    """
    venv = root / ".venv"
    python = str(in_venv(venv, "python"))
    environment = child_environment(os.environ, {"PIP_USER": "0"})
    (venv / STAMP).unlink(missing_ok=True)
    pip_there = [python, "-c", "import pip"]
    if plan.action == "install" and subprocess.run(pip_there, env=environment, capture_output=True).returncode != 0:
        plan = plan._replace(action="create")
    if plan.action == "create":
        size = "about 6 GB, " if sys.platform == "linux" else ""
        say(f"Installing featup-app and its libraries into .venv ({size}a few minutes the first time)…")
        line = [sys.executable, "-m", "venv", "--clear", str(venv)]
        code, output = run_showing(line, cwd=root, environment=environment)
        if code != 0:
            raise Problem(f"Making .venv failed. {advice(output)}")
    else:
        say("Bringing featup-app and its libraries in .venv up to date…")
    options = ["--no-input", "--disable-pip-version-check", "-e", f".[{plan.extra}]" if plan.extra else "."]
    code, output = run_showing([python, "-m", "pip", "install", *options], cwd=root, environment=environment)
    if code != 0:
        raise Problem(f"The installation failed. {advice(output)}")
    write_stamp(venv, {"fingerprint": current_print, "extra": plan.extra, "root": str(root)})


def lacks_display(environ: Mapping[str, str], system: str = sys.platform) -> bool:
    """Whether this computer has no display to open a window on."""
    named = any(environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"))
    return system.startswith("linux") and not named


def start(root: Path, arguments: Sequence[str]) -> int:
    """Become featup-app (on Windows: run it), in the current folder so that relative paths stay valid."""
    program = str(in_venv(root / ".venv", "featup-app"))
    environment = child_environment(os.environ)
    sys.stdout.flush()
    if os.name != "nt":
        os.execve(program, [program, *arguments], environment)
    return subprocess.call([program, *arguments], env=environment)


def pytest_arguments(root: Path, arguments: Sequence[str], current: Path) -> list[str]:
    """Arguments for pytest: selects or leaves out slow tests, and makes paths from another folder absolute."""
    chosen = ["-m", "slow" if "--slow" in arguments else "not slow"]
    for argument in arguments:
        path, separator, test = argument.partition("::")
        if current != root and not path.startswith("-") and (current / path).exists():
            argument = f"{current / path}{separator}{test}"
        if argument != "--slow":
            chosen.append(argument)
    return chosen


def run_tests(root: Path, arguments: Sequence[str]) -> int:
    """Run linters and type checker (only when no arguments are given), then pytest, whose last line ends the output."""
    python = str(in_venv(root / ".venv", "python"))
    environment = child_environment(os.environ, TEST_ENVIRONMENT)
    checks = {
        "ruff check": [python, "-m", "ruff", "check", "."],
        "ruff format": [python, "-m", "ruff", "format", "--check", "."],
        "mypy": [python, "-m", "mypy"],
        "import contracts": [str(in_venv(root / ".venv", "lint-imports"))],
    }
    failed: list[str] = []
    for name, line in {} if arguments else checks.items():
        say(f"\n== {name} ==")
        if subprocess.call(line, cwd=root, env=environment) != 0:
            failed.append(name)
    if failed:
        say(f"\nFAILED: {', '.join(failed)} (see above). The tests run all the same; the exit code will not be 0.")
    say("\n== pytest ==")
    line = [python, "-m", "pytest", *pytest_arguments(root, arguments, Path.cwd())]
    return subprocess.call(line, cwd=root, env=environment) or (1 if failed else 0)


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    if not arguments or arguments[0] in ("-h", "--help") or arguments[1:2] in (["-h"], ["--help"]):
        say(str(__doc__).strip())
        return 0 if arguments else 2
    command, rest = arguments[0], arguments[1:]
    if command not in ("run", "test"):
        raise Misuse(f"There is no command {command!r}: use run or test (--help explains both).")
    if sys.version_info[:2] < OLDEST_PYTHON:
        raise Problem(
            f"featup-app needs Python 3.10 or newer, and this is {platform.python_version()} ({sys.executable}). "
            "Use a newer one by its name, for example: python3.12 packaging/bootstrap.py run"
        )
    purpose = "test" if command == "test" else "no window" if rest and rest[0] in WITHOUT_WINDOW else "window"
    if purpose == "window" and lacks_display(os.environ):
        raise Misuse(
            "There is no display to open a window on (neither DISPLAY nor WAYLAND_DISPLAY is set).\n"
            "On a virtual one:          xvfb-run -a python3 packaging/bootstrap.py run\n"
            "Without a window:          .venv/bin/featup-app export IMAGE -o DIR\n"
            "The same, installs first:  python3 packaging/bootstrap.py run export IMAGE -o DIR"
        )
    current_print = fingerprint(root)
    plan = decide(root, command, current_print)
    ensure_system(purpose, new_venv=plan.action == "create", environ=os.environ)
    if plan.action != "nothing":
        set_up(root, plan, current_print)
    return start(root, rest) if command == "run" else run_tests(root, rest)


if __name__ == "__main__":
    try:
        code = main(sys.argv[1:])
    except (Problem, OSError) as problem:
        print(problem, file=sys.stderr)
        code = problem.code if isinstance(problem, Problem) else 1
    except KeyboardInterrupt:
        print("\nInterrupted. The next call goes on from here.", file=sys.stderr)
        code = 130
    sys.exit(code)
