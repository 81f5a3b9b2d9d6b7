"""Phantoms, baselines and the published comparison; not shipped into Slicer, not sent to sites."""
