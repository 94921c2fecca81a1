"""Names of files are plain text, whatever they hold."""

from __future__ import annotations

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QTextDocument
from PySide6.QtWidgets import QLabel

from featup_app.gui.widgets import plain_tip
from featup_app.images import sample_images

NAME = "<b>x<i>&amp;.png"


def seen(tip: str) -> str:
    """What a tooltip shows."""
    document = QTextDocument()
    if "<" not in tip:
        return tip
    document.setHtml(tip)
    return document.toPlainText()


@pytest.mark.parametrize("text", [NAME, "plain", "<b>", "a\n<b>c</b>", "x &amp; y <br>", "<!DOCTYPE html>"])
def test_a_tooltip_shows_the_text_itself(text):
    assert seen(plain_tip(text)) == text


def test_a_file_with_tags_in_its_name(start, tmp_path):
    folder = tmp_path / "<b>folder<"  # with the next part, its path holds a closing tag
    folder.mkdir()
    path = folder / NAME
    path.write_bytes(sample_images()[0].read_bytes())
    driver = start(path)
    driver.wait_until_idle()
    view = driver.views["image"]
    assert view.subtitle.text() == NAME
    assert seen(view.subtitle.toolTip()) == str(path)
    window = driver.window
    window.opener._fill_recent()
    assert window.opener.recent_menu.actions()[0].text().replace("&&", "&") == str(path)
    assert window.opener.recent_menu.actions()[0].text().count("&&") == 1
    driver.studio.open(folder / "<u>missing<i>.png")
    driver.wait_for(window.notice.isVisible)
    assert "<u>missing<i>.png" in window.notice.text.text()
    guessing = [label for label in window.findChildren(QLabel) if label.textFormat() == Qt.TextFormat.AutoText]
    assert not [label for label in guessing if label.text()], "no label guesses what its text is"
