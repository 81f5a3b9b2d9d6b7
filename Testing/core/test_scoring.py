"""Scores of known maps, computed by hand."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from segviz_core.contract import DataContract
from segviz_core.experiments.datasets import Test
from segviz_core.experiments.predictors import Heads, Softmax
from segviz_core.experiments.scoring import score
from segviz_core.layouts import CaseFiles
from segviz_core.network import NetworkConfig, SegVizNet
from segviz_core.preprocessing import prepare
from segviz_core.volumes import Volume

SHAPE = (20, 20, 20)


@dataclass(frozen=True)
class Painted(Heads):
    """Heads that answer with given margins."""

    given: np.ndarray = None

    def maps(self, voxels):
        return self.given


def test_case(truth: np.ndarray) -> Test:
    ct = Volume(np.zeros(SHAPE, np.int16), np.diag([10.0, 10.0, 10.0, 1.0]))
    prepared = prepare(ct, DataContract((10.0, 10.0, 10.0)))
    files = CaseFiles("a", Path("a.nii.gz"), None)
    return Test(files, np.zeros(SHAPE, np.uint8), prepared.grid, truth)


test_case.__test__ = False


@pytest.fixture
def painted():
    """Liver 10x10x10 at a corner, found one plane too far; spleen claims one plane of it with less confidence."""
    truth = np.zeros(SHAPE, np.uint8)
    truth[5:15, 5:15, 5:15] = 1
    margins = np.full((2, *SHAPE), -20.0, np.float32)
    margins[0, 6:16, 5:15, 5:15] = 20.0
    margins[1, 15:17, 5:15, 5:15] = 1.0
    network = SegVizNet(NetworkConfig((4, 8), (2,), 1), ["liver", "spleen"])
    heads = Painted([(network, ("liver", "spleen"))], (16, 16, 16), given=margins)
    return {row["organ"]: row for row in score(heads, test_case(truth), tolerance_mm=10).rows}


def test_overlap_volume_and_distance_of_a_map_one_voxel_off(painted) -> None:
    liver = painted["liver"]
    assert liver["dice"] == pytest.approx(0.9)
    assert liver["truth_ml"] == pytest.approx(1000)
    assert liver["volume_error_ml"] == 0
    assert liver["false_positive_ml"] == pytest.approx(100)
    assert liver["hd95_mm"] == pytest.approx(10)
    assert liver["nsd"] == pytest.approx(1, abs=1e-6)


def test_calibration_is_taken_in_the_organs_box_and_20_mm(painted) -> None:
    # Box of 14 voxels a side: 100 voxels are sure and wrong on one side, 100 on the other.
    assert painted["liver"]["brier"] == pytest.approx(200 / 14**3, rel=1e-3)
    assert painted["liver"]["ece"] == pytest.approx(0.0, abs=0.08)  # both mistakes are of equal number
    assert painted["spleen"]["brier"] is None


def test_voxels_that_two_heads_claim_are_counted_before_they_compete(painted) -> None:
    assert painted["liver"]["claimed_twice_ml"] == pytest.approx(100)
    assert painted["spleen"]["claimed_twice_ml"] == pytest.approx(100)
    assert painted["spleen"]["false_positive_ml"] == pytest.approx(100)  # the second plane, which no one else claims


def test_heads_of_own_networks_do_not_compete() -> None:
    margins = np.full((2, 4, 4, 4), 1.0, np.float32)
    networks = [(SegVizNet(NetworkConfig((4, 8), (2,), 1), [organ]), (organ,)) for organ in ("liver", "spleen")]
    personal = Heads(networks, (4, 4, 4), exclusive=False).masks(margins)
    assembled = Heads(networks, (4, 4, 4)).masks(margins)
    assert personal["liver"].all()
    assert personal["spleen"].all()
    assert not (assembled["liver"] & assembled["spleen"]).any()


def test_softmax_takes_the_most_probable_channel_even_below_one_half() -> None:
    maps = np.zeros((3, 2, 2, 2), np.float32)
    maps[1] = 0.3
    predictor = Softmax(None, ("liver", "spleen"), (2, 2, 2))
    assert predictor.masks(maps)["liver"].all()
    assert not predictor.masks(maps)["spleen"].any()
    assert predictor.probabilities(maps)["liver"].max() < 0.5
