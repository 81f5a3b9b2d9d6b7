"""The demo's report: one HTML file that needs nothing else, to read on a screen or to print."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from segviz_core.atomic import replacing
from segviz_core.experiments.figures import ShownCase, learning_curves, organ_planes
from segviz_core.experiments.page import data_uri, page, table
from segviz_core.labels import ORGANS

_NBSP = "\N{NO-BREAK SPACE}"


def write_report(
    folder: Path, summary: Mapping[str, Any], history: Sequence[Mapping[str, Any]], case: ShownCase
) -> Path:
    """Write folder/report.html and folder/report.png (the CT of `case` with outlines); the path of the HTML file.

    Args:
        folder: where to write; must exist.
        summary: the content of summary.json, of which the report shows `dice` {organ: mean over all unseen CTs,
            "mean": their mean}, `test_cases` (how many CTs that were), `cases` (rows of evaluation.OrganScore),
            `seconds` {stage: seconds} and `versions` {package: version}.
        history: the rows of the study's history.jsonl (`Study.history`); sites, rounds and bytes come from here.
        case: the unseen CT to show.

    Raises:
        InputError: the folder is missing, not writable or full.
    """
    planes = organ_planes(case)
    body = [
        _headline(summary, history),
        _planes_section(case, planes),
        _organ_table(summary, case.name),
        _curves_section(history),
        _site_table(history),
        _time_table(summary),
        _footer(summary),
    ]
    for name, content in (("report.png", planes), ("report.html", page("SegViz demo: report", "".join(body)).encode())):
        with replacing(folder / name) as temporary:
            temporary.write_bytes(content)
    return folder / "report.html"


def _headline(summary: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> str:
    sites, mean = _sites(history), summary["dice"]["mean"]
    traffic = sum(site["sent"] + site["received"] for site in sites.values())
    figures = [
        (f"{mean:.2f}", f"mean Dice on {summary['test_cases']} unseen CTs"),
        (str(len(sites)), "sites"),
        (str(_rounds(history)), "rounds"),
        (_megabytes(traffic), "travelled between sites and coordinator"),
        (_duration(sum(summary["seconds"].values())), "from start to end"),
    ]
    tiles = "".join(
        f"<div><strong>{escape(value)}</strong><span>{escape(what)}</span></div>" for value, what in figures
    )
    organs = sorted({organ for site in sites.values() for organ in site["cases"]}, key=_value)
    return f"""
<h1>SegViz demo</h1>
<p class="lead">{len(sites)} sites, each with its own annotated organs, trained one model for {escape(_listed(organs))}
without sharing an image. The model then segmented CTs that no site had seen.</p>
<p class="note">All CTs are synthetic phantoms. A model trained on them does not find organs reliably in a patient.</p>
<div class="tiles">{tiles}</div>"""


def _planes_section(case: ShownCase, planes: bytes) -> str:
    text = f"Axial, coronal and sagittal plane of {case.name} with outlined organs: meta-model above, truth below."
    return f"""
<h2>An unseen CT</h2>
<figure><img src="{data_uri(planes)}" alt="{escape(text)}">
<figcaption>{escape(case.name)}: what the meta-model found (above) and the truth (below). Window -160 to 240 HU; the
patient's right is at the left.</figcaption></figure>"""


def _organ_table(summary: Mapping[str, Any], case: str) -> str:
    rows = []
    for score in summary["cases"]:
        if score["case"] != case:
            continue
        truth_ml, found_ml = score["truth_ml"], score["truth_ml"] + score["volume_error_ml"]
        difference = f"{found_ml / truth_ml - 1:+.0%}".replace("-", "\N{MINUS SIGN}") if truth_ml else "-"
        rows.append(
            [
                _swatch(score["organ"]),
                _decimal(summary["dice"][score["organ"]]),
                _decimal(score["dice"]) if truth_ml or found_ml else "-",
                f"{found_ml:.0f}{_NBSP}ml" if found_ml else "not found",
                f"{truth_ml:.0f}{_NBSP}ml" if truth_ml else "absent",
                difference,
            ]
        )
    rows.append(["Mean", _decimal(summary["dice"]["mean"]), "", "", "", ""])
    all_cases = f"Dice, {summary['test_cases']} unseen CTs"
    heads = ["Organ", all_cases, "Dice, this CT", "Volume found", "True volume", "Off by"]
    caption = (
        "Agreement with the truth: Dice is 1 for equal outlines, 0 for no overlap. The mean over the unseen CTs counts "
        "those that show the organ."
    )
    return f"<h2>Organs</h2>{table(caption, heads, rows)}"


def _curves_section(history: Sequence[Mapping[str, Any]]) -> str:
    text = "Loss of every site and Dice of every organ against the round."
    return f"""
<h2>Learning</h2>
<figure><img src="{data_uri(learning_curves(history))}" alt="{escape(text)}">
<figcaption>First every site trains alone, on its own organ (an expert). Then the experts label what the other sites did
not annotate, and all sites train one model together; from there on the loss counts the experts' labels too.
</figcaption></figure>"""


def _site_table(history: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for name, site in _sites(history).items():
        organs = ", ".join(f"{_title(organ)} ({count:.0f})" for organ, count in site["cases"].items())
        rejected = "; ".join(site["rejected"]) or "none"
        traffic = [_megabytes(site["sent"]), _megabytes(site["received"])]
        rows.append([escape(name), escape(organs), *traffic, escape(rejected)])
    heads = ["Site", "Annotates (training cases)", "Sent", "Received", "Rejected replies"]
    return f"<h2>Sites</h2>{table('What each site holds and sent. Images and labels never travelled.', heads, rows)}"


def _time_table(summary: Mapping[str, Any]) -> str:
    total = sum(summary["seconds"].values()) or 1.0
    rows = [
        [escape(stage), f'<span class="bar" style="width:{12 * seconds / total:.2f}em"></span>', _duration(seconds)]
        for stage, seconds in summary["seconds"].items()
    ]
    return f"<h2>Time</h2>{table('What took how long on this machine.', ['Stage', '', 'Time'], rows)}"


def _footer(summary: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    return f'<p class="note">Research software, not a medical device. Made with {escape(versions)}.</p>'


def _sites(history: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Per site: `cases` per organ, bytes `sent` and `received` by the site, reasons of `rejected` replies."""
    sites: dict[str, dict[str, Any]] = {}
    for row in history:
        for name, values in row["sites"].items():
            site = sites.setdefault(name, {"cases": {}, "sent": 0, "received": 0, "rejected": []})
            site["received"] += values["bytes_sent"]  # the row is the coordinator's: what it sent, the site received
            site["sent"] += values["bytes_received"]
            counts = {
                k.removeprefix("cases/"): v for k, v in values.get("metrics", {}).items() if k.startswith("cases/")
            }
            site["cases"] |= counts
        for name, reason in row["rejected"].items():
            if name in sites:
                sites[name]["rejected"].append(f"round {row['round']}: {reason}")
    return dict(sorted(sites.items()))


def _rounds(history: Sequence[Mapping[str, Any]]) -> int:
    return sum(bool(row["complete"]) for row in history)


def _swatch(organ: str) -> str:
    red, green, blue = ORGANS[organ].color if organ in ORGANS else (128, 128, 128)
    return f'<span class="swatch" style="background:rgb({red},{green},{blue})"></span>{escape(_title(organ))}'


def _listed(organs: Sequence[str]) -> str:
    names = [_title(organ).lower() for organ in organs]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _title(organ: str) -> str:
    return ORGANS[organ].title if organ in ORGANS else organ


def _value(organ: str) -> tuple[float, str]:
    return (ORGANS[organ].value if organ in ORGANS else float("inf")), organ


def _decimal(value: float) -> str:
    return f"{value:.2f}"


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.0f}{_NBSP}MB" if count >= 1e7 else f"{count / 1e6:.1f}{_NBSP}MB"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}{_NBSP}min {rest}{_NBSP}s" if minutes else f"{seconds:.1f}{_NBSP}s"
