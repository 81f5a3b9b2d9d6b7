"""What the SegViz module does, one file per concern; the module file only registers it."""
