"""What each module of segviz_core may import: the one table behind test_boundaries and the torch-free job on 3.12."""

STANDARD_LIBRARY = {
    "",
    "__main__",
    "atomic",
    "commands",
    "console",
    "contract",
    "errors",
    "experiments",
    "experiments.profiles",
    "federation",
    "federation.commands",
    "federation.settings",
    "labels",
    "model_header",
}
"""Import nothing but the standard library: the start of the command line, and what Slicer's process reads."""

WITHOUT_TORCH = {
    "cases",
    "dicom_series",
    "experiments.anatomy",
    "experiments.painting",
    "experiments.phantoms",
    "experiments.report",
    "experiments.runner",
    "experiments.scanners",
    "experiments.shapes",
    "federation.aggregation",
    "federation.guard",
    "federation.packets",
    "federation.pseudo_labels",
    "federation.schedule",
    "federation.state",
    "federation.study",
    "federation.synchronization",
    "kidneys",
    "layouts",
    "meta_model",
    "preprocessing",
    "volumes",
}
"""Neither torch nor Flower; they also run on Slicer's Python 3.12."""

TORCH = {
    "batches",
    "evaluation",
    "federation.session",
    "federation.trainer",
    "federation.weights",
    "inference",
    "losses",
    "network",
    "training",
    "tuning",
}
"""torch and MONAI, never Flower."""

FLOWER = {
    "federation.client_app",
    "federation.coordinator",
    "federation.server_app",
    "federation.site",
    "federation.strategy",
}
"""Flower, never torch: the two share no process."""

TESTS_THAT_NEED_TORCH: set[str] = set()
"""Test files, beyond those of the modules in TORCH and FLOWER, that the torch-free job cannot run."""
