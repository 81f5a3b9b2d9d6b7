"""SegViz core: train one multi-organ CT model at sites that each annotate one organ, and segment with it."""

__version__ = "1.0.0"
