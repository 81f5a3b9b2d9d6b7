"""The command line as people and the window use it: real processes, exit codes, one sentence per error."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from random_model import random_ct, random_model

from segviz_core import model_commands
from segviz_core.volumes import Volume, read_labels, same_grid, write_labels

ROOT = Path(__file__).parents[2]
EXIT = {"done": 0, "other": 1, "usage": 2, "input": 3, "cancelled": 4}


def command(*arguments, flags=()):
    return [sys.executable, *flags, "-m", "segviz_core", *map(str, arguments)]


def run(*arguments, flags=(), **options):
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | options.pop("env", {})
    options = {"capture_output": True, "text": True, "timeout": 300, "env": environment} | options
    return subprocess.run(command(*arguments, flags=flags), check=False, **options)


def assert_one_sentence(done, exit_code, words):
    """The process ended with `exit_code`; all it says is progress, one sentence with `words`, and a hint below it."""
    assert done.returncode == exit_code, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    *progress, sentence, hint = [*done.stderr.splitlines(), *([] if "\n  " in done.stderr else [""])]
    assert words in sentence
    assert sentence.endswith(".")
    assert hint == "" or hint.startswith("  ")
    assert all("/" in line for line in progress), done.stderr  # such as `network 3/12`


def write_ct(path, ct):
    image = SimpleITK.GetImageFromArray(ct.voxels.transpose(2, 1, 0))
    image.SetSpacing(ct.spacing_mm)
    SimpleITK.WriteImage(image, str(path))


def events(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with model.safetensors, ct.nii.gz and a CT that takes a while, large.nii.gz."""
    folder = tmp_path_factory.mktemp("command line")
    random_model().save(folder / "model.safetensors")
    for name, ct in (("ct", random_ct()), ("large", random_ct((170, 170, 170)))):
        nibabel.save(nibabel.Nifti1Image(ct.voxels, ct.affine), folder / f"{name}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def segmented(folder):
    """One run of `segment --json` without --model: the newest one of the models folder is taken."""
    home = folder / "home"
    (home / ".segviz" / "models").mkdir(parents=True)
    old, new = home / ".segviz" / "models" / "old.safetensors", home / ".segviz" / "models" / "new.safetensors"
    random_model(seed=1).save(old)
    new.write_bytes((folder / "model.safetensors").read_bytes())
    os.utime(old, (1, 1))
    out = folder / "organs.nii.gz"
    done = run("segment", folder / "ct.nii.gz", out, "--split-kidneys", "--json", env={"HOME": str(home)})
    assert done.returncode == EXIT["done"], done.stderr
    return done, out


def test_help_and_version_need_no_package():
    for argument, words in (("--help", "segment"), ("--version", "SegViz 1")):
        done = run(argument, flags=("-S",))
        assert done.returncode == EXIT["done"], done.stderr
        assert words in done.stdout


def test_every_command_explains_itself():
    listed = re.findall(r"^ {4}([a-z]\S*)", run("--help").stdout, flags=re.MULTILINE)
    assert {"phantoms", "demo", "check", "segment", "evaluate", "info", "coordinator", "site"} <= set(listed)
    for name in listed:
        done = run(name, "--help")
        assert done.returncode == EXIT["done"], done.stderr
        assert "usage" in done.stdout


@pytest.mark.parametrize("arguments", [(), ("segment",), ("nonsense",), ("segment", "a", "b", "--spacing", "-1")])
def test_wrong_usage_ends_with_2(arguments):
    done = run(*arguments)
    assert done.returncode == EXIT["usage"]
    assert "Traceback" not in done.stderr
    assert "usage" in done.stderr


def test_segment_writes_labels_on_the_grid_of_the_ct(folder, segmented):
    _, out = segmented
    ct, found = random_ct(), read_labels(out)
    assert same_grid(found, ct)
    np.testing.assert_allclose(found.affine, ct.affine, atol=1e-4)
    assert found.voxels.dtype == np.uint8
    assert set(np.unique(found.voxels)) == {0, 1, 2, 4, 5, 6}


def test_the_model_of_the_last_command_stays_ready_until_its_file_is_another(folder, tmp_path):
    """In one process: the worker runs command after command."""
    shutil.copyfile(folder / "model.safetensors", tmp_path / "model.safetensors")

    def ready():
        return model_commands._ready(tmp_path / "model.safetensors", device="cpu", precision="fp32", threads=1)

    first = ready()
    assert ready() is first
    random_model(seed=1).save(tmp_path / "model.safetensors")
    assert ready()[2] != first[2]


def test_json_tells_process_progress_and_result_with_the_newest_model(folder, segmented):
    done, out = segmented
    first, *between, last = events(done.stdout)
    assert first["event"] == "started"
    assert first["pid"] > 0
    assert {event["event"] for event in between} == {"progress"}
    assert {"read", "prepare", "network", "restore", "write"} <= {event["stage"] for event in between}
    assert last["event"] == "result"
    assert last["output"] == str(out)
    assert last["model_hash"] == random_model().hash
    assert [organ["title"] for organ in last["organs"]] == [
        "Liver", "Spleen", "Left kidney", "Right kidney", "Pancreas",
    ]  # fmt: skip
    voxel_ml = 6 * 6 * 7 / 1000
    counts = np.bincount(read_labels(out).voxels.ravel())
    for organ in last["organs"]:
        assert organ["ml"] == pytest.approx(counts[organ["value"]] * voxel_ml, abs=0.01)
        assert organ["terminology"].startswith("Segmentation category and type")
    assert last["not_found"] == []
    assert last["precision"] in ("fp32", "bf16")
    assert [start < stop for start, stop in last["region"]] == [True] * 3
    assert list(last["stages"]) == ["load", "read", "locate", "prepare", "network", "restore", "write"]
    assert sum(last["stages"].values()) < last["seconds"] + 0.02


def test_a_person_reads_volumes_and_the_time(folder):
    files = folder / "ct.nii.gz", folder / "few.nrrd"
    done = run("segment", *files, "--model", folder / "model.safetensors", "--organs", "spleen")
    assert done.returncode == EXIT["done"], done.stderr
    heading, spleen, file = done.stdout.splitlines()
    assert heading.split() == ["organ", "ml"]
    assert spleen.split()[0] == "Spleen"
    assert float(spleen.split()[1]) > 1
    assert file.startswith(str(folder / "few.nrrd"))
    assert set(np.unique(read_labels(folder / "few.nrrd").voxels)) == {0, 2}


def test_a_ct_of_nothing_but_air_is_answered_with_a_sentence(folder):
    air = np.random.default_rng(0).normal(-1000, 10, (20, 20, 20)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(air, np.diag([5, 5, 5, 1])), folder / "air.nii.gz")
    done = run("segment", folder / "air.nii.gz", folder / "none.nii.gz", "--model", folder / "model.safetensors")
    assert done.returncode == EXIT["done"], done.stderr
    _, sentence, organs, _ = done.stdout.splitlines()
    assert sentence == "This CT shows nothing but air."
    assert organs == "Not found: Liver, Spleen, Kidneys, Pancreas."
    assert not read_labels(folder / "none.nii.gz").voxels.any()


def test_segmenting_on_a_processor_needs_no_torch(folder):
    """Nor monai, Flower, rich or nibabel: a radiologist's computer has numpy, SimpleITK, openvino and safetensors."""
    write_ct(folder / "ct.nrrd", random_ct())
    code = (
        "import sys\n"
        "for name in ('torch', 'monai', 'flwr', 'rich', 'nibabel'): sys.modules[name] = None\n"
        "from segviz_core.__main__ import main\n"
        "ended = main(sys.argv[1:])\n"
        "sys.exit(ended or len({'scipy', 'torch'} & {name for name, module in sys.modules.items() if module}))\n"
    )
    arguments = ("segment", folder / "ct.nrrd", folder / "light.nrrd", "--model", folder / "model.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments), "--device", "cpu"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == EXIT["done"], done.stderr
    assert set(np.unique(read_labels(folder / "light.nrrd").voxels)) == {0, 1, 2, 3, 4}


def test_info_needs_no_package_and_shows_organs_and_provenance(folder):
    done = run("info", folder / "model.safetensors", flags=("-S",))
    assert done.returncode == EXIT["done"], done.stderr
    for words in ("segviz-meta-model/1", random_model().hash[:12], "Pancreas", "8 x 8 x 8 mm", "mode: segviz+"):
        assert words in done.stdout
    (_, result) = events(run("info", folder / "model.safetensors", "--json").stdout)
    assert result["hash"] == random_model().hash
    assert [organ["value"] for organ in result["organs"]] == [1, 2, 3, 4]
    assert "tensors" not in result


def test_a_package_that_is_missing_is_named(folder):
    done = run(
        "segment", folder / "ct.nii.gz", folder / "x.nii.gz", "--model", folder / "model.safetensors", flags=("-S",)
    )
    assert_one_sentence(done, EXIT["other"], "needs the package numpy, which is not installed")


def bad_calls(folder):
    ct, out, model = folder / "ct.nii.gz", folder / "bad.nii.gz", ("--model", folder / "model.safetensors")
    return {
        "no model": (("segment", ct, out), "Expected a model in"),
        "not a model": (("segment", ct, out, "--model", ct), "is not a SegViz meta-model"),
        "info of no model": (("info", folder / "absent"), "Cannot read the model"),
        "no ct": (("segment", folder / "absent.nii.gz", out, *model), "absent.nii.gz"),
        "another suffix": (("segment", ct, folder / "out.png", *model), "out.png: expected one of"),
        "no folder": (("segment", ct, folder / "absent" / "out.nii.gz", *model), "the folder does not exist"),
        "no profile": (("phantoms", "tiny", folder / "p"), "Expected a profile of smoke, small, medium, found tiny"),
        "no cases": (("check", folder / "absent"), "absent"),
        "no truth": (("evaluate", ct, folder / "absent.nii.gz"), "absent.nii.gz"),
    }


@pytest.mark.parametrize("name", list(bad_calls(Path())))
def test_bad_input_is_one_sentence_and_exit_code_3(folder, name):
    arguments, words = bad_calls(folder)[name]
    assert_one_sentence(run(*arguments, env={"HOME": str(folder / "nobody")}), EXIT["input"], words)
    assert not (folder / "bad.nii.gz").exists()


def test_an_error_in_json_is_an_object_with_kind_message_and_hint(folder):
    done = run("info", folder / "absent", "--json")
    assert done.returncode == EXIT["input"]
    assert done.stderr == ""
    error = events(done.stdout)[-1]
    assert (error["event"], error["kind"]) == ("error", "input")
    assert error["message"].startswith("Cannot read the model")
    assert error["hint"]


def test_debug_shows_the_traceback_too(folder):
    done = run("--debug", "info", folder / "absent")
    assert done.returncode == EXIT["input"]
    assert "Traceback" in done.stderr


def test_anything_unexpected_is_one_sentence_and_exit_code_1():
    code = (
        "import sys; from segviz_core import __main__, model_commands\n"
        "def fail(options, console): raise ZeroDivisionError('division by zero')\n"
        "model_commands._info = fail\n"
        "sys.exit(__main__.main(['info', 'x']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert_one_sentence(done, EXIT["other"], "Unexpected ZeroDivisionError: division by zero")
    assert "--debug" in done.stderr


@pytest.mark.usefixtures("unmeasured_children")
def test_a_full_disk_leaves_the_old_output(folder):
    full = folder / "full"
    full.mkdir()
    out = full / "organs.nii.gz"
    out.write_bytes(b"old")
    done = run(
        *("segment", folder / "ct.nii.gz", out, "--model", folder / "model.safetensors"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500)),
        env={"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert_one_sentence(done, EXIT["input"], f"Cannot write {out}")
    assert out.read_bytes() == b"old"
    assert list(full.iterdir()) == [out]


def start_and_wait_for_the_network(folder, *options):
    """Start `segment` of the large CT and return the process once it is between windows."""
    arguments = ("segment", folder / "large.nii.gz", folder / "stopped" / "out.nii.gz")
    (folder / "stopped").mkdir(exist_ok=True)
    process = subprocess.Popen(
        command(*arguments, "--model", folder / "model.safetensors", *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "network" in line:
            return process
    raise AssertionError(f"ended with {process.wait()} before the network started")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_ctrl_c_and_a_request_to_end_say_cancelled_and_leave_nothing(folder, name):
    process = start_and_wait_for_the_network(folder)
    process.send_signal(getattr(signal, name))
    rest = process.communicate(timeout=60)[0]
    assert process.returncode == EXIT["cancelled"]
    assert rest.splitlines()[-1] == "Cancelled."
    assert "Traceback" not in rest
    assert list((folder / "stopped").iterdir()) == []


def test_the_cancel_file_ends_a_process_of_its_own_group_and_leaves_nothing(folder):
    cancel = folder / "cancel"
    process = start_and_wait_for_the_network(folder, "--json", "--cancel-file", cancel)
    assert os.getpgid(process.pid) == process.pid  # the window stops the tree by this group
    cancel.touch()
    rest = process.communicate(timeout=60)[0]
    assert process.returncode == EXIT["cancelled"]
    assert events(rest)[-1] == {"event": "error", "kind": "cancelled", "message": "Cancelled.", "hint": ""}
    assert list((folder / "stopped").iterdir()) == []


def a_site(folder, *, with_bad_case):
    for name in ("one", "two"):
        ct = random_ct((12, 12, 12))
        labels = np.zeros(ct.voxels.shape, np.uint8)
        labels[4:8, 4:8, 4:8] = 6 if name == "one" or not with_bad_case else 9
        for kind in ("images", "labels"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(ct.voxels, ct.affine), folder / "images" / f"{name}.nii.gz")
        write_labels(folder / "labels" / f"{name}.nii.gz", labels, like=ct)
    return folder


def test_check_shows_a_table_and_ends_well_when_all_cases_are_fit(tmp_path):
    done = run("check", a_site(tmp_path, with_bad_case=False), "--label-set", "liver", "--label-values", "liver=6")
    assert done.returncode == EXIT["done"], done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["case", "one", "two"]
    assert all(line.endswith("ok") for line in done.stdout.splitlines())


def test_check_ends_with_3_and_says_why_a_case_is_not_fit(tmp_path):
    folder = a_site(tmp_path, with_bad_case=True)
    done = run("check", folder, "--label-set", "liver", "--label-values", "liver=6", "--json")
    assert done.returncode == EXIT["input"], done.stderr
    result, error = events(done.stdout)[-2:]
    assert result["bad"] == 1
    assert [(case["name"], case["ok"]) for case in result["cases"]] == [("one", True), ("two", False)]
    assert "expected the label values of liver (6), found 0, 9" in result["cases"][1]["why"]
    assert error["message"] == "1 of 2 cases cannot be used for training."


def test_phantoms_are_written_and_then_checked(tmp_path):
    done = run("phantoms", "smoke", tmp_path, "--seed", "3")
    assert done.returncode == EXIT["done"], done.stderr
    done = run("check", tmp_path / "liver", "--label-set", "liver")
    assert done.returncode == EXIT["done"], done.stderr
    assert len(done.stdout.splitlines()) == 3


def test_evaluate_scores_files_and_folders(folder, tmp_path):
    grid = random_ct()
    truth = np.zeros(grid.voxels.shape, np.uint8)
    truth[5:15, 5:15, 5:15] = 1
    for name, labels in (("truth", truth), ("found", np.roll(truth, 1, axis=0))):
        (tmp_path / name).mkdir()
        write_labels(tmp_path / name / "case.nii.gz", labels, like=grid)
    done = run("evaluate", tmp_path / "found", tmp_path / "truth", "--json", "--tolerance", "7")
    assert done.returncode == EXIT["done"], done.stderr
    result = events(done.stdout)[-1]
    assert result["dice"] == {"liver": pytest.approx(0.9)}
    liver, spleen = result["cases"][:2]
    assert (liver["case"], liver["organ"], liver["nsd"], liver["hd95_mm"]) == ("case", "liver", 1.0, pytest.approx(6))
    assert (spleen["dice"], spleen["truth_ml"]) == (1.0, 0.0)

    done = run("evaluate", tmp_path / "found" / "case.nii.gz", tmp_path / "truth" / "case.nii.gz")
    assert done.returncode == EXIT["done"], done.stderr
    assert done.stdout.splitlines()[-1] == "Mean Dice where the truth has the organ: liver 0.900"

    shifted = grid.affine.copy()
    shifted[0, 3] += 9
    write_labels(tmp_path / "found" / "case.nii.gz", truth, like=Volume(grid.voxels, shifted))
    done = run("evaluate", tmp_path / "found", tmp_path / "truth")
    assert_one_sentence(done, EXIT["input"], "expected the grid of")

    (tmp_path / "found" / "case.nii.gz").unlink()
    done = run("evaluate", tmp_path / "found", tmp_path / "truth")
    assert_one_sentence(done, EXIT["input"], "found none for case.nii.gz")
