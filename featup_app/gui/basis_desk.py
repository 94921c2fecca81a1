"""Principal components that are kept for other pictures, for the window: locking, files, and messages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject
from PySide6.QtWidgets import QWidget

from featup_app.base.progress import Progress
from featup_app.gui.engine_bridge import EngineBridge
from featup_app.gui.file_dialogs import ask_where_to_save, ask_which_to_open, folder_of
from featup_app.gui.notices import Notify
from featup_app.gui.studio import Studio
from featup_app.gui.views.inspector import Inspector
from featup_app.gui.views.pca_tab import PCATab
from featup_app.lenses import PCARequest, SimilarityRequest
from featup_app.lenses.lens import Mask

if TYPE_CHECKING:
    from featup_app.engine.session import Session
    from featup_app.lenses import LockedBasis

_FILES = "Principal components (*.safetensors)"


class BasisDesk(QObject):
    """Keeps the locked components of the window.

    Args:
        engine: computes, reads and writes.
        studio: has the image, the settings and the requests.
        inspector: has the tab.
        notify: shows messages.
        window: the parent of the dialogs.
    """

    def __init__(
        self, engine: EngineBridge, studio: Studio, inspector: Inspector, notify: Notify, window: QWidget
    ) -> None:
        super().__init__(window)
        self._engine, self._studio, self._notify, self._window = engine, studio, notify, window
        self._locked: LockedBasis | None = None  # its reference works while it is kept
        tab = inspector.lenses[PCARequest.lens]
        assert isinstance(tab, PCATab)
        tab.lock_asked.connect(self.lock)
        tab.save_asked.connect(self.save)
        tab.load_asked.connect(self.load)

    def lock(self, on_mask: bool) -> None:
        """Keep the components of this picture, or of the similarity's mask in it."""
        image, settings = self._studio.image, self._studio.field_settings
        if image is None:
            self._notify("warning", "Open a picture first.")
            return
        mask: Mask | None = None
        if on_mask:
            view = self._studio.current_view(SimilarityRequest.lens)
            found = view.mask() if view is not None else None
            if found is None:
                self._notify(
                    "warning", "There is no mask; switch “Mask from a threshold” on in the tab Similarity first."
                )
                return
            mask = found.inside

        def fit(session: Session, progress: Progress) -> LockedBasis:
            from featup_app.engine.bases import fit_basis

            return fit_basis(session, [(image, mask)], settings, progress)

        self._engine.compute("lock components", fit, self._use)

    def _use(self, locked: LockedBasis) -> None:
        from featup_app.lenses.pca_bases import hold

        self._locked = locked
        self._ask(hold(locked))

    def _ask(self, reference: str) -> None:
        request = self._studio.requests.get(PCARequest.lens)
        if isinstance(request, PCARequest):
            self._studio.ask(replace(request, basis=reference))

    def save(self) -> None:
        """Ask where to write the locked components, and write them."""
        locked = self._locked
        if locked is None:
            return
        proposed = folder_of(self._studio.image) / "components.safetensors"
        path = ask_where_to_save(self._window, "Save components", proposed, _FILES)
        if path is None:
            return

        def write(progress: Progress) -> Path:
            from featup_app.lenses import write_basis

            write_basis(path, locked)
            return path

        self._engine.files(
            "save components",
            write,
            lambda written: self._notify("information", f"Saved the components as {written.name} in {written.parent}."),
        )

    def load(self) -> None:
        """Ask for a file with components, and use them."""
        path = ask_which_to_open(self._window, "Load components", folder_of(self._studio.image), _FILES)
        if path is None:
            return

        def read(progress: Progress) -> LockedBasis:
            from featup_app.lenses import read_basis

            return read_basis(path)

        self._engine.files("load components", read, self._use)
