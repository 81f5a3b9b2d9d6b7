"""Draws Resources/SegViz.png (128 x 128) and the module's icon: four sites, one abdomen. Run by hand after a change.

QT_QPA_PLATFORM=offscreen python Testing/draw_icon.py
"""

import sys
from pathlib import Path

from PySide6.QtCore import QPointF, Qt
from PySide6.QtGui import QColor, QGuiApplication, QImage, QPainter, QPen

ROOT = Path(__file__).resolve().parent.parent
SIZE = 128
ORGANS = (  # colour of labels.py, centre and half axes in the icon
    (QColor(221, 130, 101), (47, 54), (27, 20)),
    (QColor(157, 108, 162), (90, 56), (13, 18)),
    (QColor(185, 102, 83), (46, 89), (10, 14)),
    (QColor(185, 102, 83), (82, 89), (10, 14)),
    (QColor(249, 180, 111), (68, 74), (20, 6)),
)


def main() -> int:
    """Write both files."""
    QGuiApplication(sys.argv)
    image = QImage(SIZE, SIZE, QImage.Format.Format_ARGB32)
    image.fill(Qt.GlobalColor.transparent)
    painter = QPainter(image)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(QPen(QColor(70, 84, 104), 5))
    painter.setBrush(QColor(238, 242, 247))
    painter.drawEllipse(QPointF(64, 68), 56, 48)
    painter.setPen(Qt.PenStyle.NoPen)
    for color, center, axes in ORGANS:
        painter.setBrush(color)
        painter.drawEllipse(QPointF(*center), *axes)
    painter.setBrush(QColor(70, 84, 104))
    for center in ((14, 14), (114, 14), (14, 118), (114, 118)):
        painter.drawEllipse(QPointF(*center), 9, 9)
    painter.end()
    for path in (ROOT / "Resources" / "SegViz.png", ROOT / "SegVizSlicer" / "Resources" / "Icons" / "SegVizSlicer.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(str(path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
