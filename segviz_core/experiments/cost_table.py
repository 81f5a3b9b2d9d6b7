"""Further scores and costs of every row and variant: distances, volumes, calibration, minutes and arithmetic."""

from collections.abc import Sequence

from segviz_core.experiments.summaries import Entry, on_a_card

_COLUMNS = {  # title, decimals
    "nsd": ("NSD", 3),
    "hd95_mm": ("HD95 (mm)", 1),
    "volume_error_ml": ("Volume off by (ml)", 1),
    "ece": ("ECE", 4),
    "brier": ("Brier", 4),
    "false_positive_ml": ("False positive (ml)", 1),
    "claimed_twice_ml": ("Claimed twice (ml)", 1),
    "training_cpu_minutes": ("Minutes on one core", 1),
    "training_gpu_minutes": ("Minutes on one card", 1),
    "tflop": ("TFLOP", 1),
}


def explained_costs(entries: Sequence[Entry]) -> str:
    """What the columns mean, and which cards the minutes were taken on."""
    machines = [result["machine"] for entry in entries for result in entry.results if on_a_card(result)]
    text = "Means over the test cases. Minutes: training of all sites, processor time on one core"
    if not machines:
        return f"{text}."
    cards = " or ".join(dict.fromkeys(machine["device"] for machine in machines))
    together = max(machine.get("runs_at_once", 1) for machine in machines)
    return f"{text}; by the clock on one card ({cards}{f', {together} runs at once' if together > 1 else ''})."


def cost_table(entries: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows; what a row does not have is "-"."""
    rows = []
    for entry in entries:
        details = entry.details()
        values = [(details[name], decimals) for name, (_, decimals) in _COLUMNS.items()]
        cells = ["-" if value is None else f"{value:.{decimals}f}" for value, decimals in values]
        rows.append([entry.label, str(entry.nodes), *cells])
    return ["Row", "Nodes", *(title for title, _ in _COLUMNS.values())], rows
