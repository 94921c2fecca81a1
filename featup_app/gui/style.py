"""Colours, fonts and icons of the window, in one place."""

from __future__ import annotations

from functools import lru_cache

from PySide6.QtCore import QByteArray, QSize, Qt
from PySide6.QtGui import QColor, QIcon, QPainter, QPalette, QPixmap
from PySide6.QtSvg import QSvgRenderer
from PySide6.QtWidgets import QApplication

from featup_app.base.resources import resource

BACKGROUND = "#1e2126"
SURFACE = "#272b32"
RAISED = "#323741"
BORDER = "#3d434f"
TEXT = "#e6e8ec"
MUTED = "#a3abb8"
DISABLED = "#6a7280"
ACCENT = "#4ea1ff"
ON_ACCENT = "#000000"
CHECKED = "#2b4a6d"
PRIMARY = "#2f6fb5"
ON_PRIMARY = "#ffffff"
WARNING = "#e0a93a"
ERROR = "#ff7b72"
CANVAS = "#15171b"
ERROR_SURFACE, WARNING_SURFACE, INFORMATION_SURFACE = "#3a2a2a", "#38301f", "#22303f"

COMPONENTS = ("#ff6b6b", "#5fd37a", "#6aa8ff")
"""The components that are shown as red, green and blue."""

CURVE_LEARNED, CURVE_BILINEAR, CURVE_CLASSICAL, CURVE_LOSS = ACCENT, "#ff8f70", "#c9a7ff", "#7d8796"
"""Held-out errors of what is learned, of bilinear interpolation and of the other baseline; and the loss."""

CROSSHAIR, QUERY_RING, QUERY_SHADOW = "#ffffff90", "#ffffff", "#000000b0"
"""Marks on a picture; the last two digits are the opacity (pyqtgraph's order)."""

MARK_NEGATIVE, MATCH_FILL = "#ffa94d", "#000000b0"
"""What is not meant, and the ground of the numbers of matches."""

PROFILES = (ACCENT, "#5fd37a", "#ffb454", "#c9a7ff")
"""Lines of the values of the views along a line."""

SPACING = 8

_SHEET = f"""
QMainWindow, QDialog {{ background: {BACKGROUND}; }}
QToolTip {{ background: {RAISED}; color: {TEXT}; border: 1px solid {BORDER}; padding: 4px; }}
QToolBar {{ background: {SURFACE}; border: 0; border-bottom: 1px solid {BORDER}; spacing: 6px; padding: 5px 8px; }}
QLabel#caption {{ color: {MUTED}; font-size: 11px; padding-left: 2px; }}
QToolBar::separator {{ background: {BORDER}; width: 1px; margin: 4px 4px; }}
QStatusBar {{ background: {SURFACE}; border-top: 1px solid {BORDER}; color: {MUTED}; }}
QStatusBar::item {{ border: 0; }}
QStatusBar QLabel {{ color: {MUTED}; padding: 0 6px; }}
QDockWidget {{ color: {MUTED}; }}
QDockWidget::title {{ background: {SURFACE}; padding: 6px 8px; border-bottom: 1px solid {BORDER}; }}
QTabWidget::pane {{ border: 0; border-top: 1px solid {BORDER}; }}
QTabBar::tab {{ background: transparent; color: {MUTED}; padding: 7px 12px; border-bottom: 2px solid transparent; }}
QTabBar::tab:selected {{ color: {TEXT}; border-bottom: 2px solid {ACCENT}; }}
QTabBar::tab:hover {{ color: {TEXT}; }}
QComboBox, QLineEdit, QSpinBox, QDoubleSpinBox {{
    background: {RAISED}; border: 1px solid {BORDER}; border-radius: 4px; padding: 3px 6px; min-height: 20px;
    selection-background-color: {ACCENT}; selection-color: {ON_ACCENT};
}}
QComboBox:focus, QLineEdit:focus, QSpinBox:focus, QDoubleSpinBox:focus {{ border-color: {ACCENT}; }}
QComboBox::drop-down {{ border: 0; width: 20px; }}
QComboBox::down-arrow {{ image: url("@chevron-down"); width: 12px; height: 12px; }}
QAbstractSpinBox::up-button, QAbstractSpinBox::down-button {{ border: 0; width: 18px; }}
QAbstractSpinBox::up-arrow {{ image: url("@chevron-up"); width: 10px; height: 10px; }}
QAbstractSpinBox::down-arrow {{ image: url("@chevron-down"); width: 10px; height: 10px; }}
QCheckBox::indicator {{ width: 14px; height: 14px; border: 1px solid {MUTED}; border-radius: 3px; background: {RAISED}; }}
QCheckBox::indicator:checked {{ background: {ACCENT}; border-color: {ACCENT}; image: url("@check"); }}
QCheckBox::indicator:focus {{ border-color: {TEXT}; }}
QGroupBox {{ border: 1px solid {BORDER}; border-radius: 5px; margin-top: 9px; padding: 8px 4px 4px 4px; }}
QGroupBox::title {{ subcontrol-origin: margin; left: 10px; padding: 0 4px; color: {MUTED}; }}
QTabBar {{ qproperty-drawBase: 0; }}
QComboBox QAbstractItemView {{ background: {RAISED}; border: 1px solid {BORDER}; selection-background-color: {ACCENT};
    selection-color: {ON_ACCENT}; }}
QPushButton, QToolButton {{ background: {RAISED}; border: 1px solid {BORDER}; border-radius: 4px; padding: 4px 10px; }}
QToolButton {{ padding: 4px 8px; }}
QPushButton:hover, QToolButton:hover {{ border-color: {MUTED}; }}
QPushButton:focus, QToolButton:focus {{ border-color: {ACCENT}; }}
QPushButton:pressed, QToolButton:pressed {{ background: {BORDER}; }}
QPushButton:checked, QToolButton:checked {{ background: {CHECKED}; border-color: {ACCENT}; }}
QPushButton:disabled, QToolButton:disabled {{ color: {DISABLED}; border-color: {RAISED}; }}
QPushButton[primary="true"] {{ background: {PRIMARY}; border-color: {PRIMARY}; color: {ON_PRIMARY}; }}
QPushButton[primary="true"]:hover {{ border-color: {ACCENT}; }}
QPushButton[primary="true"]:disabled {{ background: {RAISED}; color: {DISABLED}; border-color: {RAISED}; }}
QProgressBar {{ background: {RAISED}; border: 0; border-radius: 3px; max-height: 6px; }}
QProgressBar::chunk {{ background: {ACCENT}; border-radius: 3px; }}
QSlider::groove:horizontal {{ height: 4px; background: {BORDER}; border-radius: 2px; }}
QSlider::sub-page:horizontal {{ background: {ACCENT}; border-radius: 2px; }}
QSlider::handle:horizontal {{ width: 12px; margin: -4px 0; border-radius: 6px; background: {TEXT}; }}
QSlider::handle:horizontal:focus {{ background: {ACCENT}; }}
QTableWidget, QListWidget, QPlainTextEdit {{ background: {SURFACE}; border: 1px solid {BORDER}; border-radius: 4px; }}
QListView#filmStrip {{ background: {SURFACE}; border: 1px solid {BORDER}; border-radius: 4px; }}
QListView#filmStrip:focus {{ border-color: {ACCENT}; }}
QListView#filmStrip QScrollBar {{ background: {SURFACE}; height: 8px; }}
QListView#filmStrip QScrollBar::handle {{ background: {BORDER}; border-radius: 3px; min-width: 30px; margin: 1px; }}
QListView#filmStrip QScrollBar::handle:hover {{ background: {MUTED}; }}
QListView#filmStrip QScrollBar::add-line, QListView#filmStrip QScrollBar::sub-line {{ width: 0; }}
QMenu {{ background: {RAISED}; border: 1px solid {BORDER}; }}
QMenu::item:selected {{ background: {ACCENT}; color: {ON_ACCENT}; }}
QFrame#imageView {{ background: {SURFACE}; border: 1px solid {BORDER}; border-radius: 5px; }}
QFrame#imageView[focused="true"] {{ border-color: {ACCENT}; }}
QLabel#title {{ font-weight: 600; }}
QLabel#muted {{ color: {MUTED}; }}
QLabel#heading {{ font-weight: 600; padding-top: 4px; }}
QFrame#notice {{ background: {ERROR_SURFACE}; border: 1px solid {ERROR}; border-radius: 5px; }}
QFrame#notice[severity="information"] {{ background: {INFORMATION_SURFACE}; border-color: {ACCENT}; }}
QFrame#notice[severity="warning"] {{ background: {WARNING_SURFACE}; border-color: {WARNING}; }}
"""


def apply_style(app: QApplication) -> None:
    """Fusion in dark colours: pictures keep their contrast beside it, and it looks the same on every system."""
    app.setStyle("Fusion")
    palette = QPalette()
    for role, colour in (
        (QPalette.ColorRole.Window, BACKGROUND),
        (QPalette.ColorRole.WindowText, TEXT),
        (QPalette.ColorRole.Base, SURFACE),
        (QPalette.ColorRole.AlternateBase, RAISED),
        (QPalette.ColorRole.Text, TEXT),
        (QPalette.ColorRole.Button, RAISED),
        (QPalette.ColorRole.ButtonText, TEXT),
        (QPalette.ColorRole.ToolTipBase, RAISED),
        (QPalette.ColorRole.ToolTipText, TEXT),
        (QPalette.ColorRole.PlaceholderText, MUTED),
        (QPalette.ColorRole.Highlight, ACCENT),
        (QPalette.ColorRole.HighlightedText, ON_ACCENT),
        (QPalette.ColorRole.Link, ACCENT),
    ):
        palette.setColor(role, QColor(colour))
    for role in (QPalette.ColorRole.Text, QPalette.ColorRole.ButtonText, QPalette.ColorRole.WindowText):
        palette.setColor(QPalette.ColorGroup.Disabled, role, QColor(DISABLED))
    app.setPalette(palette)
    sheet = _SHEET
    for name in ("chevron-down", "chevron-up", "check"):
        sheet = sheet.replace(f"@{name}", resource("icons", f"{name}.svg").as_posix())
    app.setStyleSheet(sheet)


@lru_cache
def icon(name: str, colour: str = TEXT) -> QIcon:
    """A line icon of resources/icons in a colour of the window."""
    text = resource("icons", f"{name}.svg").read_text(encoding="utf-8").replace("currentColor", colour)
    result = QIcon()
    renderer = QSvgRenderer(QByteArray(text.encode()))
    for side in (16, 20, 24, 32, 48):
        pixmap = QPixmap(QSize(side, side))
        pixmap.fill(Qt.GlobalColor.transparent)
        painter = QPainter(pixmap)
        renderer.render(painter)
        painter.end()
        result.addPixmap(pixmap)
    return result
