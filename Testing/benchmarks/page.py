"""The table and the plot of the README from build/bench/*.json; run it after `make bench`.

The JSON files are kept in results/bench, the plot is docs/pictures/bench.png, the table stands between two marks.
"""

import json
import shutil
from typing import Any

import matplotlib as mpl
from measure import ROOT

mpl.use("Agg")
from matplotlib import pyplot as plt

BENCH, KEPT = ROOT / "build" / "bench", ROOT / "results" / "bench"
PICTURE, README = ROOT / "docs" / "pictures" / "bench.png", ROOT / "README.md"
BEGIN, END = "<!-- bench: made by `make bench-page` -->", "<!-- bench end -->"

NAMES = {
    "stock": "stock MONAI pipeline",
    "ours": "SegViz",
    "ours-fp32": "SegViz, fp32",
    "ours-bf16": "SegViz, bf16",
    "ours-int8": "SegViz, int8",
    "ours-fast": "SegViz, Fast",
    "ours-warm": "SegViz, second click",
    "ours-fast-warm": "SegViz, Fast, second click",
}
MAIN_CT = "512x512x128"
SEGMENTING = ("locate", "prepare", "network", "restore")


def main() -> None:
    """Renew what the README shows."""
    KEPT.mkdir(parents=True, exist_ok=True)
    for file in BENCH.glob("*.json"):
        shutil.copyfile(file, KEPT / file.name)
    rows = json.loads((KEPT / "inference.json").read_text(encoding="utf-8"))
    machine = json.loads((KEPT / "machine.json").read_text(encoding="utf-8"))
    _plot([row for row in rows if row["ct"] == MAIN_CT])
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"README.md: expected the marks {BEGIN} and {END}, found none.")
    README.write_text(f"{before}{BEGIN}\n{_table(rows, machine)}\n{END}{after}", encoding="utf-8")


def _table(rows: list[dict[str, Any]], machine: dict[str, Any]) -> str:
    dice = {row["pipeline"]: row for row in rows if row["ct"].endswith("phantoms")}
    lines = [
        "| pipeline | CT | wall s | CPU s | peak MB | Dice (liver, spleen, kidneys, pancreas) |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row["ct"] != MAIN_CT, "random" in row["pipeline"])):
        if row["ct"].endswith("phantoms"):
            continue
        name = NAMES.get(row["pipeline"], row["pipeline"])
        scores = dice.get(row["pipeline"]) if row["ct"] == MAIN_CT else None
        text = f"{scores['dice_mean']:.3f} ({', '.join(f'{d:.3f}' for d in scores['dice'].values())})" if scores else ""
        lines.append(
            f"| {name} | {row['ct']} | {row['wall_s']:.1f} | {row['cpu_s']:.1f} | {row['peak_mb']:,} | {text} |"
        )
    units = f" ({', '.join(machine['units'])})" if machine["units"] else ""
    lines += ["", f"Whole processes, medians; {machine['cores']} cores of {machine['processor']}{units}."]
    clicks = {row["pipeline"]: row["stages"] for row in rows if row["ct"] == MAIN_CT and "stages" in row}
    if {"ours-warm", "ours-fast-warm"} <= set(clicks):
        files, normal, fast = (
            sum(clicks[pipeline][stage] for stage in stages)
            for pipeline, stages in (
                ("ours-warm", ("read", "write")),
                ("ours-warm", SEGMENTING),
                ("ours-fast-warm", SEGMENTING),
            )
        )
        lines[-1] += (
            " A second click is Slicer's: the same CT again, from and to an uncompressed file. Files take"
            f" {files:.2f} s of it, segmenting {normal:.2f} s, with Fast {fast:.2f} s."
        )
    return "\n".join(lines)


def _plot(rows: list[dict[str, Any]]) -> None:
    rows = sorted(rows, key=lambda row: row["cpu_s"])
    names = [NAMES.get(row["pipeline"], row["pipeline"].replace(" (", "\n(")) for row in rows]
    colors = [
        "#c8553d" if row["pipeline"] == "stock" else "#2a6f97" if "ours" in row["pipeline"] else "#888888"
        for row in rows
    ]
    figure, axes = plt.subplots(1, 2, figsize=(10, 0.45 * len(rows) + 1.2), sharey=True, layout="constrained")
    for axis, key, title in ((axes[0], "cpu_s", "CPU seconds (log scale)"), (axes[1], "peak_mb", "peak memory, MB")):
        bars = axis.barh(names, [row[key] for row in rows], color=colors)
        axis.bar_label(bars, fmt="{:,.1f}" if key == "cpu_s" else "{:,.0f}", padding=3, fontsize=9)
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.15)
    axes[0].set_xscale("log")
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
