"""Deployment: the OpenVINO graph without torch; test_deployment_torch.py compares it with torch."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from untrained_model import untrained_model

from segviz_core import deployment as deployment_module
from segviz_core.deployment import deploy
from segviz_core.errors import InputError
from segviz_core.meta_model import Quantization, activations
from segviz_core.openvino_graph import build_graph, openvino

MODEL = untrained_model()
DEEP = untrained_model(head_stages=2)

BLOCKED_RESOLVER = """
import socket
asked = []
def refuse(*arguments, **options):
    asked.append(arguments)
    raise OSError("no name look-ups in this test")
for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "create_connection"):
    setattr(socket, name, refuse)
socket.socket.connect = refuse

import numpy as np
from untrained_model import untrained_model
from segviz_core import deployment as deployment_module
from segviz_core.deployment import deploy

assert deploy(untrained_model()).margins(np.zeros((8, 8, 8), np.float32)).shape == (2, 8, 8, 8)
import sys
print(asked, sorted(name for name in sys.modules if name.startswith("openvino_telemetry.")))
"""


def voxels(shape=(16, 12, 20), *, seed=0):
    return np.random.default_rng(seed).random(shape, np.float32)


@cache
def ranges(head_stages=1):
    """Symmetric, by name, as they are on `voxels()`."""
    model = DEEP if head_stages == 2 else MODEL
    graph = build_graph(model)  # first, as it keeps openvino's telemetry out
    import openvino

    nodes = [node for node in graph.get_ordered_ops() if node.get_friendly_name() in activations(model.weights)]
    values = run(openvino.Model(nodes, graph.get_parameters()))
    largest = {node.get_friendly_name(): float(np.abs(values[i]).max()) for i, node in enumerate(nodes)}
    return {name: (-value * 128 / 127, value) for name, value in largest.items()}


def quantized(dice):
    return replace(MODEL, quantization=Quantization(ranges(), dict.fromkeys(("liver", "spleen"), dice), 3))


def test_any_size_gives_its_own_size_as_if_air_followed():
    deployment = deploy(MODEL, precision="fp32")
    odd = voxels((9, 12, 15))
    padded = np.pad(odd, [(0, 3), (0, 0), (0, 1)])
    margins = deployment.margins(odd)
    assert margins.shape == (2, 9, 12, 15)
    assert margins.dtype == np.float32
    np.testing.assert_array_equal(margins, deployment.margins(padded)[:, :9, :, :15])


def test_a_result_survives_later_calls_of_the_same_and_of_another_shape():
    deployment = deploy(MODEL, precision="fp32")
    first = deployment.margins(voxels())
    kept = first.copy()
    deployment.margins(voxels(seed=1))
    deployment.margins(voxels((8, 8, 8)))
    deployment.rest()
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(deployment.margins(voxels()), kept)


def test_the_last_shapes_are_compiled_once_and_survive_a_rest(monkeypatch):
    graph, compiled = openvino(), []

    class Counting:
        def compile_model(self, model, *arguments):
            compiled.append(tuple(model.input(0).shape)[2:])
            return graph.Core().compile_model(model, *arguments)

    counted = SimpleNamespace(Core=Counting, Tensor=graph.Tensor)
    deployment = deploy(MODEL, precision="fp32")
    monkeypatch.setattr(deployment_module, "openvino", lambda: counted)
    shapes = [(16, 16, 16), (16, 16, 24), (16, 16, 32)]
    first = [deployment.margins(voxels(shape)) for shape in shapes]
    deployment.rest()
    for shape, before in zip(shapes, first, strict=True):
        np.testing.assert_array_equal(deployment.margins(voxels(shape)), before)
    assert compiled == shapes
    deployment.margins(voxels((8, 8, 8)))
    deployment.margins(voxels(shapes[0]))  # made room for it
    assert compiled == [*shapes, (8, 8, 8), shapes[0]]


def test_a_view_of_a_larger_volume_is_read_right():
    deployment = deploy(MODEL, precision="fp32")
    volume = voxels((24, 24, 24))
    view = volume[4:20, ::-1, 2:22].transpose(2, 0, 1)
    np.testing.assert_array_equal(deployment.margins(view), deployment.margins(view.copy()))


def test_one_thread_gives_what_two_give():
    one, two = (deploy(MODEL, precision="fp32", threads=n).margins(voxels()) for n in (1, 2))
    np.testing.assert_allclose(one, two, atol=1e-5)


@pytest.mark.parametrize("head_stages", [1, 2])
@pytest.mark.parametrize("organs", [("liver",), ("liver", "spleen", "kidneys", "pancreas")])
def test_heads_at_half_resolution_give_the_same_margins(organs, head_stages):
    model = untrained_model(organs=organs, head_stages=head_stages)
    full, half = (run(build_graph(model, half_resolution=half))[0] for half in (False, True))
    np.testing.assert_allclose(half, full, atol=1e-4)


def test_bf16_is_close_to_fp32_and_says_what_it_really_is():
    deployment = deploy(MODEL, precision="bf16")
    assert deployment.precision in ("bf16", "fp32")
    assert_close(deployment.margins(voxels()), 0.03)


def test_int8_is_close_to_fp32():
    deployment = deploy(quantized(0.5), precision="int8")
    assert deployment.precision == "int8"
    margins = deployment.margins(voxels())
    assert_close(margins, 0.1)
    assert not np.array_equal(margins, deploy(MODEL, precision="fp32").margins(voxels()))


def test_int8_of_heads_of_two_stages_rounds_their_own_activations():
    assert {"heads.liver", "heads.liver.stage.0", "heads.spleen.stage.1"} < ranges(2).keys()
    assert ranges(2).keys() == activations(DEEP.weights)
    rounded = replace(DEEP, quantization=Quantization(ranges(2), {"liver": 0.5, "spleen": 0.5}, 3))
    margins = deploy(rounded, precision="int8").margins(voxels())
    assert_close(margins, 0.1, model=DEEP)
    assert not np.array_equal(margins, deploy(DEEP, precision="fp32").margins(voxels()))


@pytest.mark.parametrize("dice, expected", [(0.99, {"int8"}), (0.989, {"bf16", "fp32"})])
def test_auto_takes_int8_only_where_the_header_says_that_it_was_accepted(dice, expected):
    assert deploy(quantized(dice)).precision in expected


def test_int8_without_ranges_says_how_to_measure_them():
    with pytest.raises(InputError, match=r"no ranges for int8\. Measure them: .* export MODEL OUT --cases DIR"):
        deploy(MODEL, precision="int8")


@pytest.mark.parametrize(
    "network, words",
    [({"strides": [2, 2, 2]}, "missing representation"), ({"strides": [2], "channels": [4, 8]}, "missing|unexpected")],
)
def test_weights_that_do_not_fit_the_settings_are_refused(network, words):
    model = replace(MODEL, network={**MODEL.network, **network})
    with pytest.raises(InputError, match=f"do not fit its network settings: ({words}).* get it again"):
        deploy(model)


def test_a_weight_of_another_shape_and_one_too_many_are_refused():
    key = "representation.1.submodule.0.conv.unit0.conv.weight"
    with pytest.raises(InputError, match="do not fit its network settings"):
        deploy(replace(MODEL, weights={**MODEL.weights, key: MODEL.weights[key][:, 1:]}))
    with pytest.raises(InputError, match=r"unexpected heads\.liver\.more"):
        deploy(replace(MODEL, weights={**MODEL.weights, "heads.liver.more": np.zeros(2, np.float32)}))


def test_no_name_is_looked_up_and_nothing_written_to_the_home(tmp_path):
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "USERPROFILE": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    for variable in ("CI", "TF_BUILD", "JENKINS_URL"):  # openvino's telemetry holds back in these
        environment.pop(variable, None)
    child = subprocess.run(
        [sys.executable, "-c", BLOCKED_RESOLVER], env=environment, capture_output=True, text=True, check=False
    )
    assert child.stdout.strip() == "[] []", child.stderr
    assert list(tmp_path.iterdir()) == []


def run(graph):
    import openvino

    return openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([voxels()[None, None]])


def assert_close(margins, share, *, model=MODEL):
    """Root mean square difference to fp32, as a share of the margins' own spread."""
    exact = deploy(model, precision="fp32").margins(voxels())
    assert np.sqrt(np.mean((margins - exact) ** 2)) < share * exact.std()
