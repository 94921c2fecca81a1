"""Weights from the model hub: from its cache, or downloaded with progress, cancelling and short timeouts.

Imports no torch.
"""

from __future__ import annotations

import inspect
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from featup_app.base.progress import Progress, silent

# The chunked protocol of the hub cannot be stopped from Python; plain HTTP can, between two pieces.
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")

FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of weight files in a repository of the hub, in the order of preference."""

CONNECT_SECONDS = 5.0
POLL_SECONDS = 0.1


class HubError(Exception):
    """The weights cannot be downloaded; the message gives the reason in a few words."""


def cached_weights(hub_id: str, files: Sequence[str] = FILES) -> Path | None:
    """The first of these files of a hub repository that lies in the cache of this computer; never uses the network."""
    from huggingface_hub import try_to_load_from_cache

    repository, revision = _split(hub_id)
    for name in files:
        found = try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(found, str):
            return Path(found)
    return None


def fetch_weights(hub_id: str, title: str, files: Sequence[str] = FILES, progress: Progress = silent) -> Path:
    """The weight file of a hub repository, from the cache or downloaded into it.

    Downloads in a thread of its own, so that ``progress`` is called, and may cancel, while the network is silent.

    Args:
        hub_id: owner/name, or owner/name@revision.
        title: name for the progress.
        files: file names in order of preference.
        progress: called with the bytes done and in total.

    Raises:
        HubError: if it is not there and cannot be downloaded.
    """
    found = cached_weights(hub_id, files)
    if found is not None:
        return found
    import huggingface_hub.constants as constants

    if constants.HF_HUB_OFFLINE:
        raise HubError("downloads are switched off by HF_HUB_OFFLINE")
    constants.HF_HUB_DISABLE_XET = True
    stage = f"downloading {title}"
    progress(stage, 0, 0)
    _wait(_Worker(lambda _: _reach(constants.ENDPOINT)), stage, progress, CONNECT_SECONDS + 1)
    return Path(_wait(_Worker(lambda worker: _download(hub_id, files, worker)), stage, progress, None))


class _Stopped(Exception):
    """Ends the download in its thread."""


class _Worker(threading.Thread):
    """A thread with a result or an error, and with counters of its progress."""

    def __init__(self, task: Any) -> None:
        super().__init__(name="featup-download", daemon=True)
        self.task = task
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = self.total = 0
        self.stop = threading.Event()
        self.start()

    def run(self) -> None:
        try:
            self.result = self.task(self)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            self.error = error


def _wait(worker: _Worker, stage: str, progress: Progress, seconds: float | None) -> Any:
    waited = 0.0
    try:
        while worker.is_alive():
            worker.join(POLL_SECONDS)
            waited += POLL_SECONDS
            progress(stage, worker.done, worker.total)
            if seconds is not None and waited > seconds and worker.is_alive():
                raise HubError("the hub does not answer")
    finally:
        worker.stop.set()
    if worker.error is not None:
        raise HubError(_reason(worker.error)) from worker.error
    return worker.result


def _reach(endpoint: str) -> None:
    """Fails within seconds where there is no network; the hub's own client tries again for half a minute."""
    request = urllib.request.Request(endpoint, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=CONNECT_SECONDS).close()
    except urllib.error.HTTPError:
        return  # it answered


def _download(hub_id: str, files: Sequence[str], worker: _Worker) -> str:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs["disable"] = True
            worker.total = int(kwargs.get("total") or 0)
            worker.done = int(kwargs.get("initial") or 0)
            super().__init__(*args, **kwargs)

        def update(self, n: float | None = 1) -> None:
            if worker.stop.is_set():
                raise _Stopped
            worker.done += int(n or 0)

    repository, revision = _split(hub_id)
    options: dict[str, Any] = {"revision": revision, "etag_timeout": CONNECT_SECONDS, "library_name": "timm"}
    if "tqdm_class" in inspect.signature(hf_hub_download).parameters:  # older clients do not report progress
        options["tqdm_class"] = Bar
    for position, name in enumerate(files):
        try:
            return str(hf_hub_download(repository, name, **options))
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            if position == len(files) - 1:
                raise
    raise AssertionError("no file names given")


def _split(hub_id: str) -> tuple[str, str | None]:
    repository, _, revision = hub_id.partition("@")
    return repository, revision or None


def _reason(error: BaseException) -> str:
    """A few words for what went wrong."""
    kind = {cls.__name__ for cls in type(error).__mro__}
    if "GatedRepoError" in kind:
        return "its owner grants access only to users who have accepted the licence on the hub and are logged in"
    if "RepositoryNotFoundError" in kind:
        return "the hub has no such repository, or it is private"
    if "LocalEntryNotFoundError" in kind or isinstance(error, urllib.error.URLError | TimeoutError | ConnectionError):
        return "the hub cannot be reached"
    if "EntryNotFoundError" in kind:
        return "its repository on the hub has no weight file that can be read"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return f"the download failed: {str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}"
