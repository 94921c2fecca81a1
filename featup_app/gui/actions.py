"""Every command of the window in one table, from which menus, tool bar, shortcuts and the help sheet are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import QWidget

from featup_app.gui import style
from featup_app.lenses import LENSES


@dataclass(frozen=True)
class Command:
    """One command: name in code, menu, title, shortcuts, tooltip, optional icon, whether a separator precedes it, and whether it
    is a switch."""

    name: str
    menu: str
    title: str
    shortcuts: tuple[str, ...]
    tip: str
    icon: str = ""
    separated: bool = False
    switch: bool = False


_FIXED: tuple[Command, ...] = (
    Command("open", "&File", "&Open…", ("Ctrl+O",), "Open one picture or several", "open"),
    Command("open_folder", "&File", "Open &folder…", ("Ctrl+Shift+O",), "Open all pictures of a folder"),
    Command("paste", "&File", "&Paste image", ("Ctrl+V",), "Open the picture on the clipboard"),
    Command("export", "&File", "&Export…", ("Ctrl+E",), "Save features and pictures to files", "export", True),
    Command("copy", "&File", "&Copy view", ("Ctrl+C",), "Copy the picture of the current view to the clipboard"),
    Command("load_upsampler", "&File", "Load &upsampler…", (), "Use weights of FeatUp JBU from a file", separated=True),
    Command(
        "builtin_upsampler", "&File", "Use &built-in upsampler", (), "Go back to the weights that come with FeatUp"
    ),
    Command("open_fit", "&File", "Open &fit…", (), "See this image through a fit from a file", separated=True),
    Command("save_fit", "&File", "&Save fit…", ("Ctrl+S",), "Save the fit that is shown to a file"),
    Command(
        "preferences", "&File", "Pre&ferences…", ("Ctrl+,",), "Choose how much memory the program may use", "", True
    ),
    Command("quit", "&File", "&Quit", ("Ctrl+Q",), "Close the program", "", True),
    Command(
        "compute", "&Compute", "&Compute", ("F5", "Ctrl+Return"), "Compute all views with these settings", "compute"
    ),
    Command("cancel", "&Compute", "C&ancel", ("Esc",), "Stop computing; the current pictures stay", "cancel"),
    Command(
        "refine",
        "&Compute",
        "&Refine while idle",
        (),
        "Fit the picture while you do nothing, and show the fit in its place; not on battery. Undo brings the picture back",
        separated=True,
        switch=True,
    ),
    Command("fit", "&View", "&Fit image", ("Home", "0"), "Show the whole image in all views", "fit"),
    Command("zoom_in", "&View", "Zoom &in", ("+", "="), "Enlarge"),
    Command("zoom_out", "&View", "Zoom &out", ("-",), "Reduce"),
    Command("zoom_pixels", "&View", "&100 %", ("Ctrl+0",), "One pixel of the screen for each pixel of the image"),
    Command("view_image", "&View", "&Image alone", ("1",), "Show the image alone, or all views", "", True),
    Command(
        "next", "&View", "&Next picture", ("PgDown",), "Show the next one of the open pictures", "", separated=True
    ),
    Command("previous", "&View", "P&revious picture", ("PgUp",), "Show the previous one of the open pictures"),
    Command("strip", "&View", "Fi&lm strip", (), "Show thumbnails where several pictures are open", switch=True),
    Command(
        "compare", "&Tools", "&Compare", ("Ctrl+M",), "Two to four methods or other settings side by side, or back"
    ),
    Command("train", "&Tools", "&Train upsampler…", (), "Train weights of FeatUp JBU on your own pictures"),
    Command("keys", "&Help", "&Keys and mouse", ("F1",), "Keyboard shortcuts and mouse actions"),
    Command("about", "&Help", "&About", (), "Versions, models and the native library"),
)


def commands() -> list[Command]:
    """All commands; those that show one lens alone follow the one for the image."""
    found = list(_FIXED)
    start = next(index for index, command in enumerate(found) if command.name == "view_image") + 1
    found[start:start] = [
        Command(
            f"view_{name}", "&View", f"&{lens.title} alone", (str(number),), f"Show {lens.title} alone, or all views"
        )
        for number, (name, lens) in enumerate(LENSES.items(), start=2)
    ]
    return found


MOUSE_AND_KEYS: tuple[tuple[str, str], ...] = (
    ("Click", "Compare every pixel with this one"),
    ("Shift + click or drag", "Compare with one more mark"),
    ("Alt or Ctrl + click or drag", "Add a mark that is not meant"),
    ("Delete", "Remove the chosen mark"),
    ("Space (hold)", "Let the similarity follow the pointer"),
    ("Arrow keys", "Move the query by one output pixel (Shift: ten)"),
    ("Wheel", "Zoom at the pointer, in all views"),
    ("Drag", "Move the image, in all views"),
    ("Double click", "One view alone, or all of them"),
    ("Tab", "Move the focus to the next control or view"),
    ("Drop files or a folder", "Open them"),
    ("Home, End in the film strip", "The first and the last picture; Left and Right: the ones beside"),
    ("Delete in the film strip", "Take the picture off the strip; its file stays"),
)
"""Mouse actions and keys of the image views, for the help sheet."""


def make_actions(parent: QWidget, handlers: Mapping[str, Callable[[], object]]) -> dict[str, QAction]:
    """Make an action of a window for each command; it calls the handler of that name."""
    actions = {}
    for command in commands():
        action = QAction(command.title, parent)
        action.setShortcuts([QKeySequence(keys) for keys in command.shortcuts])
        keys = (
            f" ({QKeySequence(command.shortcuts[0]).toString(QKeySequence.SequenceFormat.NativeText)})"
            if command.shortcuts
            else ""
        )
        action.setToolTip(command.tip + keys)
        action.setStatusTip(command.tip)
        action.setCheckable(command.switch)
        if command.icon:
            action.setIcon(style.icon(command.icon))
        handler = handlers[command.name]
        action.triggered.connect(lambda _=False, call=handler: call())
        parent.addAction(action)
        actions[command.name] = action
    return actions
