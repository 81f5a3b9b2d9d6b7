"""Slicer's surroundings for tests: `qt`, `ctk` and `slicer` on PySide6 and slicer-core, stricter than the application.

    import slicer_harness
    slicer_harness.start()              # once per process; afterwards `import qt, ctk, slicer` work
    module = slicer_harness.load_module(Path("SegVizSlicer/SegVizSlicer.py"))
    panel = module.widgetRepresentation()

It checks names, states and what reaches the scene, not looks; the manual checklist of the README covers the rest.
"""

from slicer_harness.application import start
from slicer_harness.faults import swallowed
from slicer_harness.modules import load_module, unload_module

__all__ = ["load_module", "start", "swallowed", "unload_module"]
