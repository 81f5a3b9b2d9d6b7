"""What each module of segviz_core may import: the one table behind test_boundaries and the torch-free job on 3.12."""

STANDARD_LIBRARY = {
    "",
    "__main__",
    "arguments",
    "atomic",
    "commands",
    "console",
    "contract",
    "errors",
    "experiments",
    "experiments.page",
    "experiments.profiles",
    "federation",
    "federation.commands",
    "federation.settings",
    "labels",
    "model_commands",
    "model_header",
}
"""Import nothing but the standard library: the start of the command line, and what Slicer's process reads."""

WITHOUT_TORCH = {
    "cases",
    "dicom_series",
    "experiments.figures",
    "experiments.loopback",
    "experiments.organs",
    "experiments.painting",
    "experiments.patients",
    "experiments.phantoms",
    "experiments.report",
    "experiments.runner",
    "experiments.scanners",
    "experiments.shapes",
    "experiments.structures",
    "experiments.surroundings",
    "federation.aggregation",
    "federation.certificates",
    "federation.child",
    "federation.consent",
    "federation.dashboard",
    "federation.dashboard_server",
    "federation.dashboard_terminal",
    "federation.export",
    "federation.guard",
    "federation.journal",
    "federation.kit",
    "federation.node_log",
    "federation.packets",
    "federation.presence",
    "federation.running",
    "federation.schedule",
    "federation.site_folder",
    "federation.state",
    "federation.study",
    "federation.synchronization",
    "federation.time_left",
    "federation.trainer_socket",
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
    "experiments.acceptance",
    "experiments.baselines",
    "experiments.demo",
    "federation.pseudo_labels",
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
    "federation.flower_process",
    "federation.gate",
    "federation.records",
    "federation.server_app",
    "federation.serving",
    "federation.site",
    "federation.strategy",
    "federation.supervisor",
}
"""Flower, or processes of it, never torch: the two share no process."""

TESTS_THAT_NEED_TORCH = {
    "test_command_line.py",
    "test_federation_commands.py",
    "test_federation_guard.py",
    "test_must_not.py",
}
"""Test files, beyond those of the modules in TORCH and FLOWER, that the torch-free job cannot run."""
