"""The commands around a model: segment, evaluate, info.

Start-up imports the standard library only; a command imports what it needs when it runs, `info` nothing more.
"""

import argparse
import json
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segviz_core.arguments import gigabytes, millimetres, names, threads
from segviz_core.console import aligned
from segviz_core.errors import InputError
from segviz_core.model_header import file_hash, read_header

if TYPE_CHECKING:
    from segviz_core.console import Console
    from segviz_core.evaluation import OrganScore
    from segviz_core.meta_model import MetaModel
    from segviz_core.networks import Network

Subparsers = Any  # argparse._SubParsersAction[ArgumentParser]: private in the standard library

MODELS_FOLDER = Path.home() / ".segviz" / "models"
"""Where `segment` looks when no model is named: it takes the newest file."""


def add_commands(subparsers: Subparsers) -> None:
    """Add the commands; each sets `run`, a function of (options, console)."""
    segment = subparsers.add_parser("segment", help="segment the organs of one CT")
    segment.add_argument("ct", type=Path, metavar="CT", help="NIfTI, NRRD, MHA or a DICOM folder")
    segment.add_argument("out", type=Path, metavar="OUT", help="label map to write: .nii.gz, .nii, .nrrd or .mha")
    segment.add_argument("--model", type=Path, metavar="FILE", help=f"default: the newest in {MODELS_FOLDER}")
    segment.add_argument("--organs", type=names, metavar="ORGANS", help="by comma (default: all of the model)")
    grid = segment.add_mutually_exclusive_group()
    grid.add_argument("--fast", action="store_true", help="twice the model's spacing: quicker, less exact")
    grid.add_argument("--spacing", type=millimetres, metavar="MM", help="a coarser grid than the model's")
    segment.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    segment.add_argument("--precision", choices=["auto", "fp32", "bf16", "int8"], default="auto", help="on a processor")
    segment.add_argument("--threads", type=threads, metavar="N", help="default: all physical cores")
    segment.add_argument(
        "--memory-gb", type=gigabytes, metavar="GB", help="a large CT is segmented in tiles (default: 4)"
    )
    segment.add_argument("--split-kidneys", action="store_true", help="left and right kidney instead of both in one")
    segment.set_defaults(run=_segment)

    evaluate = subparsers.add_parser("evaluate", help="compare label maps with the truth")
    evaluate.add_argument("prediction", type=Path, metavar="PRED", help="a label map, or a folder of them")
    evaluate.add_argument("truth", type=Path, metavar="TRUTH", help="a label map, or a folder with the same names")
    evaluate.add_argument("--tolerance", type=millimetres, default=2.0, metavar="MM", help="of NSD (default: 2)")
    evaluate.set_defaults(run=_evaluate)

    info = subparsers.add_parser("info", help="what a model file contains and how it was made")
    info.add_argument("model", type=Path, metavar="MODEL")
    info.set_defaults(run=_info)

    export = subparsers.add_parser("export", help="measure a model's ranges for int8 and what they cost in Dice")
    export.add_argument("model", type=Path, metavar="MODEL")
    export.add_argument("out", type=Path, metavar="OUT", help="the model with the ranges in its header")
    export.add_argument("--cases", type=Path, metavar="DIR", required=True, help="site folder or data list with CTs")
    export.set_defaults(run=_export)


def _segment(options: argparse.Namespace, console: "Console") -> None:
    started = time.perf_counter()
    from segviz_core.inference import segment
    from segviz_core.volumes import check_output, read_ct, write_labels

    check_output(options.out)
    console.progress("load", 0, 1)
    model, network, model_hash = _ready(
        options.model or _newest_model(), device=options.device, precision=options.precision, threads=options.threads
    )
    loaded = time.perf_counter()
    console.progress("read", 0, 1)
    ct = read_ct(options.ct)
    console.progress("read", 1, 1)
    read = time.perf_counter()
    try:
        found = segment(
            model,
            ct,
            network=network,
            organs=options.organs,
            spacing_mm=options.spacing,
            fast=options.fast,
            memory_mb=options.memory_gb and options.memory_gb * 1000,
            split_kidneys=options.split_kidneys,
            on_progress=console.progress,
        )
    finally:
        network.rest()
    console.progress("write", 0, 1)
    writing = time.perf_counter()
    write_labels(options.out, found.labels, like=ct)
    ended = time.perf_counter()
    seconds = round(ended - started, 2)
    stages = {"load": loaded - started, "read": read - loaded, **found.seconds, "write": ended - writing}

    titles = {entry.name: entry.title for entry in found.organs}
    organs = [
        {
            "name": entry.name,
            "title": entry.title,
            "value": entry.value,
            "color": entry.color,
            "terminology": entry.terminology,
            "ml": round(found.volumes_ml[entry.name], 2),
        }
        for entry in found.organs
        if entry.name in found.volumes_ml
    ]
    lines = [aligned([("organ", "ml"), *((titles[name], f"{ml:.1f}") for name, ml in found.volumes_ml.items())])]
    if found.region is None:
        lines.append("This CT shows nothing but air.")
    if found.not_found:
        lines.append(f"Not found: {', '.join(titles[name] for name in found.not_found)}.")
    lines.append(f"{options.out}, {seconds:.1f} s in {found.precision}, model {model_hash[:12]}")
    console.result(
        {
            "output": str(options.out),
            "organs": organs,
            "not_found": found.not_found,
            "seconds": seconds,
            "stages": {stage: round(value, 3) for stage, value in stages.items()},
            "precision": found.precision,
            "region": found.region,
            "model_hash": model_hash,
        },
        "\n".join(lines),
    )


def _ready(file: Path, *, device: str, precision: str, threads: int | None) -> tuple["MetaModel", "Network", str]:
    """The model in `file`, ready to run, and its hash; the warm worker has it from one click to the next."""
    try:
        state = file.stat()
    except OSError:
        return _load(file, None, device, precision, threads)  # which says what is wrong
    return _load(file, (state.st_ino, state.st_mtime_ns, state.st_size), device, precision, threads)


@lru_cache(maxsize=1)
def _load(
    file: Path, _state: Sequence[int] | None, device: str, precision: str, threads: int | None
) -> tuple["MetaModel", "Network", str]:
    from segviz_core.meta_model import MetaModel
    from segviz_core.networks import load

    model = MetaModel.load(file)
    return model, load(model, device=device, precision=precision, threads=threads), file_hash(file)


def _newest_model() -> Path:
    files = sorted(MODELS_FOLDER.glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise InputError(
            f"Expected a model in {MODELS_FOLDER}, found none.",
            hint="Name one with --model FILE, or copy a meta_model.safetensors file there.",
        )
    return files[-1]


def _evaluate(options: argparse.Namespace, console: "Console") -> None:
    pairs = _pairs(options.prediction, options.truth)
    scores: list[OrganScore] = []
    for done, (prediction, truth) in enumerate(pairs):
        console.progress("evaluate", done, len(pairs))
        scores += _scores(prediction, truth, options.tolerance)
    console.progress("evaluate", len(pairs), len(pairs))
    console.result(
        {"cases": [vars(score) for score in scores], "dice": _mean_dice(scores), "tolerance_mm": options.tolerance},
        _score_table(scores),
    )


def _scores(prediction_file: Path, truth_file: Path, tolerance_mm: float) -> "Sequence[OrganScore]":
    from segviz_core.volumes import read_labels, same_grid

    prediction, truth = read_labels(prediction_file), read_labels(truth_file)
    if not same_grid(prediction, truth):
        raise InputError(
            f"{prediction_file}: expected the grid of {truth_file}, found another.",
            hint="Segment the CT that the truth was drawn on.",
        )
    from segviz_core.evaluation import evaluate  # after the checks above: torch takes seconds to import

    return evaluate(
        prediction.voxels,
        truth.voxels,
        case=truth_file.name.split(".")[0],
        spacing_mm=truth.spacing_mm,
        tolerance_mm=tolerance_mm,
    )


def _pairs(prediction: Path, truth: Path) -> list[tuple[Path, Path]]:
    from segviz_core.volumes import READABLE

    if not truth.is_dir():
        return [(prediction, truth)]
    truths = sorted(path for path in truth.iterdir() if path.name.lower().endswith(READABLE))
    if not truths:
        raise InputError(f"{truth}: expected label maps, found none.", hint="Check the path.")
    missing = [path.name for path in truths if not (prediction / path.name).exists()]
    if missing:
        raise InputError(
            f"{prediction}: expected a label map of the same name for each of {truth}, found none for {missing[0]}.",
            hint="Segment the missing CTs first.",
        )
    return [(prediction / path.name, path) for path in truths]


def _mean_dice(scores: Sequence["OrganScore"]) -> dict[str, float]:
    """Mean Dice per organ over the cases whose truth shows it."""
    shown: dict[str, list[float]] = {}
    for score in scores:
        if score.truth_ml > 0:
            shown.setdefault(score.organ, []).append(score.dice)
    return {organ: sum(dice) / len(dice) for organ, dice in shown.items()}


def _score_table(scores: Sequence["OrganScore"]) -> str:
    rows = [("case", "organ", "Dice", "NSD", "HD95 mm", "true ml", "error ml", "false positive ml")]
    for s in scores:
        numbers = f"{s.dice:.3f} {s.nsd:.3f} {s.hd95_mm:.1f} {s.truth_ml:.1f} {s.volume_error_ml:+.1f}"
        rows.append((s.case, s.organ, *numbers.split(), f"{s.false_positive_ml:.1f}"))  # type: ignore[arg-type]
    means = [f"{organ} {dice:.3f}" for organ, dice in _mean_dice(scores).items()]
    return f"{aligned(rows)}\n\nMean Dice where the truth has the organ: {', '.join(means) or '-'}"


def _info(options: argparse.Namespace, console: "Console") -> None:
    header = read_header(options.model)
    digest = file_hash(options.model)
    contract = header["contract"]
    spacing, window = contract["spacing_mm"], contract["window_hu"]
    organs = [("value", "organ", "group", "temperature", "threshold")]
    organs += [
        (str(o["value"]), o["title"], o["group"], f"{o['temperature']:.2f}", f"{o['threshold']:.2f}")
        for o in header["organs"]
    ]
    lines = [
        f"{options.model}: {header['format']}, {digest[:12]}",
        f"grid {' x '.join(f'{mm:g}' for mm in spacing)} mm, window {window[0]:g} to {window[1]:g} HU, "
        f"patch {' x '.join(str(n) for n in header['patch_size'])}",
        "",
        aligned(organs),
        "",
        *(
            f"{key}: {value if isinstance(value, str) else json.dumps(value)}"
            for key, value in header["provenance"].items()
        ),
    ]
    if "quantization" in header:
        lines.append(f"int8, Dice to fp32: {json.dumps(header['quantization']['dice'])}")
    console.result({"hash": digest, **{k: v for k, v in header.items() if k != "tensors"}}, "\n".join(lines))


def _export(options: argparse.Namespace, console: "Console") -> None:
    from segviz_core.atomic import check_writable
    from segviz_core.layouts import find_cases
    from segviz_core.meta_model import INT8_DICE, MetaModel
    from segviz_core.quantization import quantize

    check_writable(options.out)
    images = [case.image for case in find_cases(options.cases).cases]
    model = quantize(MetaModel.load(options.model), images, on_progress=console.progress)
    model.save(options.out)
    assert model.quantization is not None
    dice, accepted = model.quantization.dice, model.quantization.accepted
    verdict = "int8 is used by default" if accepted else f"int8 is used only when asked for: Dice below {INT8_DICE}"
    console.result(
        {"output": str(options.out), "dice_to_fp32": dice, "accepted": accepted, "model_hash": model.hash},
        aligned([("organ", "Dice of int8 to fp32"), *((name, f"{value:.4f}") for name, value in dice.items())])
        + f"\n{options.out}: {verdict}.",
    )
