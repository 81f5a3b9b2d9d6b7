"""The meta-model file: what comes back, and every file that is refused."""

import gzip
import hashlib
import json
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segviz_core.contract import DataContract
from segviz_core.errors import InputError
from segviz_core.labels import ORGANS
from segviz_core.meta_model import MetaModel, OrganEntry, Quantization, activations
from segviz_core.model_header import FORMAT, METADATA_KEY, QUANTIZED_FORMAT, file_hash, read_header

NETWORK = {"channels": [4, 8, 16], "strides": [2, 2], "num_res_units": 1}
TUMOUR = OrganEntry("tumour", 7, "Liver tumour", (200, 0, 0), "SCT^108369006^Neoplasm", "tumours", 1.5, 0.4)


def a_model():
    organs = OrganEntry.of(ORGANS["liver"], temperature=2.0), TUMOUR
    rng = np.random.default_rng(0)
    weights = {f"heads.{organ.name}.up.weight": rng.normal(size=(8, 2)).astype(np.float32) for organ in organs}
    weights["representation.0.N.num_batches_tracked"] = np.array(12)
    return MetaModel(DataContract((5, 5, 5)), NETWORK, (16, 16, 8), organs, weights, {"sites": ["a", "b"], "rounds": 3})


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    a_model().save(path)
    return path


def header_of(path: Path) -> dict:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length])


def with_header(path: Path, header: dict) -> None:
    """Replace the safetensors header of `path`, leaving the tensors' bytes as they are."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def edited(path: Path, **changes: object) -> None:
    header = header_of(path)
    model = json.loads(header["__metadata__"][METADATA_KEY])
    header["__metadata__"][METADATA_KEY] = json.dumps(model | changes)
    with_header(path, header)


def test_a_saved_model_comes_back_as_it_was(saved):
    model, loaded = a_model(), MetaModel.load(saved)
    assert loaded.weights.keys() == model.weights.keys()
    for key, value in model.weights.items():
        np.testing.assert_array_equal(loaded.weights[key], value, strict=True)
    assert loaded.organs == model.organs
    assert loaded.organs == model.organs
    assert (loaded.contract, loaded.network, loaded.patch_size) == (model.contract, model.network, model.patch_size)
    assert loaded.provenance == {"sites": ["a", "b"], "rounds": 3}


@pytest.mark.parametrize("stages", [0, 3, 2.0, True, "2"])
def test_model_whose_heads_are_unknown_is_refused(stages):
    model = a_model()
    with pytest.raises(InputError, match=f"network head_stages: expected 1, or 2 .*, found {stages!r} with 3"):
        replace(model, network={**model.network, "head_stages": stages})


def test_the_same_model_gives_the_same_bytes_and_hash(saved, tmp_path):
    again = tmp_path / "again.safetensors"
    MetaModel.load(saved).save(again)
    assert again.read_bytes() == saved.read_bytes()
    assert a_model().hash == MetaModel.load(saved).hash == file_hash(saved)
    assert file_hash(saved) == hashlib.sha256(saved.read_bytes()).hexdigest()


def test_views_of_larger_arrays_are_stored_as_they_look(tmp_path):
    model = a_model()
    key = "heads.liver.up.weight"
    model = replace(model, weights=dict(model.weights) | {key: model.weights[key].T})
    model.save(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(MetaModel.load(tmp_path / "m.safetensors").weights[key], model.weights[key])


def test_the_header_is_read_by_a_python_without_any_package(saved):
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path; from segviz_core.model_header import read_header\n"
        "header = read_header(Path(sys.argv[1])); print(header['format'], [o['name'] for o in header['organs']])\n"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, saved, root], capture_output=True, text=True)
    assert done.stdout.strip() == f"{FORMAT} ['liver', 'tumour']", done.stderr


def test_the_header_tells_what_the_window_shows(saved):
    header = read_header(saved)
    assert header["contract_hash"] == DataContract((5, 5, 5)).hash
    assert header["organs"][1] == {
        "name": "tumour", "value": 7, "title": "Liver tumour", "color": [200, 0, 0], "group": "tumours",
        "terminology": "SCT^108369006^Neoplasm", "temperature": 1.5, "threshold": 0.4,
    }  # fmt: skip
    assert header["tensors"]["heads.tumour.up.weight"] == ["float32", [8, 2]]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"Cannot read the model .*absent: no such file"):
        MetaModel.load(tmp_path / "absent")
    with pytest.raises(InputError, match="Cannot read the model"):
        MetaModel.load(tmp_path)


@given(st.binary(max_size=64))
def test_any_other_file_is_not_a_model(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "any.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"not a SegViz meta-model|truncated"):
        MetaModel.load(path)


def test_a_compressed_ct_is_not_taken_for_a_truncated_model(tmp_path):
    path = tmp_path / "ct.nii.gz"
    path.write_bytes(gzip.compress(b"voxels", mtime=0))  # its first 8 bytes could be the length of a header
    with pytest.raises(InputError, match="not a SegViz meta-model: it is not a safetensors file"):
        MetaModel.load(path)


def test_weights_of_another_program_are_not_a_model(saved):
    header = header_of(saved)
    header["__metadata__"] = {"format": "pt"}
    with_header(saved, header)
    with pytest.raises(InputError, match="not a SegViz meta-model: it has no SegViz header"):
        MetaModel.load(saved)


def test_another_format_version_is_refused_with_what_to_do(saved):
    edited(saved, format="segviz-meta-model/3")
    with pytest.raises(
        InputError, match=r"format segviz-meta-model/3, but this SegViz reads .*/1 and .*/2\. Update SegViz"
    ):
        MetaModel.load(saved)


def test_a_header_with_another_field_is_refused(saved):
    edited(saved, teacher="x")
    with pytest.raises(InputError, match="teacher"):
        MetaModel.load(saved)


@pytest.mark.parametrize("part", ["contract", "contract_hash"])
def test_a_changed_contract_does_not_match_its_hash(saved, part):
    other = DataContract((4, 4, 4))
    edited(saved, **{part: other.to_dict() if part == "contract" else other.hash})
    with pytest.raises(InputError, match="contract that does not match its hash"):
        MetaModel.load(saved)


@pytest.mark.parametrize("bytes_kept", [-1, 200])
def test_a_truncated_file_is_refused_with_both_sizes(saved, bytes_kept):
    data = saved.read_bytes()
    saved.write_bytes(data[:bytes_kept])
    with pytest.raises(InputError, match=r"truncated: expected [\d,]+ bytes, found [\d,]+\. Copy or download"):
        MetaModel.load(saved)


@pytest.mark.parametrize(
    "template,words",
    [
        ({"heads.liver.up.bias": ["float32", [2]]}, r"heads.liver.up.bias missing, expected float32 \(2,\)"),
        ({"heads.liver.up.weight": None}, r"heads.liver.up.weight float32 \(8, 2\), expected missing"),
        ({"heads.liver.up.weight": ["float32", [2, 8]]}, r"float32 \(8, 2\), expected float32 \(2, 8\)"),
        ({"heads.liver.up.weight": ["float16", [8, 2]]}, r"float32 \(8, 2\), expected float16 \(8, 2\)"),
    ],
    ids=["missing key", "extra key", "wrong shape", "wrong dtype"],
)
def test_tensors_that_differ_from_the_header_are_refused_by_key(saved, template, words):
    tensors = read_header(saved)["tensors"] | template
    edited(saved, tensors={key: value for key, value in tensors.items() if value is not None})
    with pytest.raises(InputError, match=words):
        MetaModel.load(saved)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_at_load_and_before_save(saved, value):
    data = bytearray(saved.read_bytes())
    data[-4:] = np.float32(value).tobytes()
    saved.write_bytes(data)
    with pytest.raises(InputError, match=r"heads\.tumour\.up\.weight hold values that are not finite"):
        MetaModel.load(saved)
    model = a_model()
    bad = dict(model.weights) | {"heads.liver.up.weight": np.full((8, 2), value, np.float32)}
    with pytest.raises(InputError, match="not finite"):
        replace(model, weights=bad)


def test_a_header_of_the_right_shape_with_wrong_content_is_refused(saved):
    edited(saved, organs=[{"name": "liver"}])
    with pytest.raises(InputError, match="header that this SegViz cannot use"):
        MetaModel.load(saved)


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"organs": ()}, "at least one organ"),
        ({"organs": (OrganEntry.of(ORGANS["liver"]),) * 2}, "one organ per name"),
        ({"organs": (TUMOUR, replace(TUMOUR, name="cyst"))}, "one organ per value"),
        ({"organs": (OrganEntry.of(ORGANS["spleen"]),)}, "spleen have no head"),
        ({"patch_size": (16, 16)}, "three multiples of 4"),
        ({"patch_size": (16, 16, 6)}, "three multiples of 4"),
    ],
)
def test_a_model_that_cannot_segment_is_not_made(changes, words):
    with pytest.raises(InputError, match=words):
        replace(a_model(), **changes)


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"value": 5}, "from 7 to 255, found 5"),
        ({"value": 256}, "from 7 to 255, found 256"),
        ({"name": "liver"}, "liver: expected label value 1, found 7"),
        ({"temperature": 0.0}, "temperature > 0"),
        ({"temperature": float("nan")}, "temperature > 0"),
        ({"threshold": 1.0}, r"threshold in \(0, 1\)"),
    ],
)
def test_an_organ_entry_that_no_label_file_can_hold_is_refused(changes, words):
    with pytest.raises(InputError, match=words):
        replace(TUMOUR, **changes)


def test_a_failed_save_leaves_the_old_file(saved, tmp_path):
    before = saved.read_bytes()
    with pytest.raises(InputError, match="the folder does not exist"):
        a_model().save(tmp_path / "absent" / "model.safetensors")
    model = replace(a_model(), provenance={"dice": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        model.save(saved)
    assert saved.read_bytes() == before
    assert list(tmp_path.iterdir()) == [saved]


def a_quantized_model(dice=1.0):
    model = a_model()
    ranges = dict.fromkeys(activations(model.weights), (-4.0, 5.0))
    return replace(model, quantization=Quantization(ranges, {"liver": dice, "tumour": 1.0}, 4))


def test_int8_ranges_come_back_under_a_format_of_their_own(tmp_path, saved):
    path = tmp_path / "quantized.safetensors"
    a_quantized_model().save(path)
    loaded = MetaModel.load(path)
    assert loaded.quantization == a_quantized_model().quantization
    assert loaded.quantization.accepted
    assert loaded.hash == file_hash(path)
    assert read_header(path)["format"] == QUANTIZED_FORMAT
    assert read_header(saved)["format"] == FORMAT
    assert MetaModel.load(saved).quantization is None


def test_int8_is_accepted_only_when_every_organ_keeps_its_dice():
    assert a_quantized_model(0.99).quantization.accepted
    assert not a_quantized_model(0.9899).quantization.accepted


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"ranges": {}}, r"int8 ranges: expected one each for 1 names, found 0; heads is missing"),
        ({"ranges": {"heads": [0, 1], "tail": [0, 1]}}, "tail is unknown"),
        ({"ranges": {"heads": [0, float("inf")]}}, "range heads: expected two finite rising numbers"),
        ({"ranges": {"heads": [1, 1]}}, "range heads: expected two finite rising numbers"),
        ({"ranges": {"heads": [0]}}, "range heads: expected two finite rising numbers"),
        ({"ranges": {"heads": 3}}, "header that this SegViz cannot use"),
        ({"ranges": [1, 2]}, "header that this SegViz cannot use"),
        ({"dice": {"liver": 1.0}}, "int8 Dice: expected one each for 2 names, found 1; tumour is missing"),
        ({"dice": {"liver": 1.0, "tumour": float("nan")}}, "int8 Dice of tumour: expected a number from 0 to 1"),
        ({"cases": 0}, "int8 cases: expected a whole number from 1"),
        ({"more": 1}, "header that this SegViz cannot use"),
    ],
)
def test_int8_ranges_that_cannot_be_right_are_refused(tmp_path, changes, words):
    path = tmp_path / "quantized.safetensors"
    a_quantized_model().save(path)
    edited(path, quantization=read_header(path)["quantization"] | changes)
    with pytest.raises(InputError, match=words):
        MetaModel.load(path)
