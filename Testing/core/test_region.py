"""What the network sees holds every organ that it would find in the whole volume, however strange the scan."""

from dataclasses import replace

import numpy as np
import pytest
from band_network import HU, BandNetwork, band_model

from segviz_core import region
from segviz_core.experiments.phantoms import make_phantom
from segviz_core.experiments.profiles import PROFILES
from segviz_core.experiments.scanners import SCANNERS
from segviz_core.inference import segment
from segviz_core.merging import merge
from segviz_core.preprocessing import network_grid, prepare, restore
from segviz_core.region import body_box, grown, reaches_a_cut
from segviz_core.volumes import Volume

MODEL = band_model((2.0, 2.0, 2.0))
SPACING = np.array([4.0, 4.0, 5.0])
ORGANS = {
    "liver": ((60, 10, 10), (60, 55, 55)),
    "spleen": ((-75, -25, 20), (25, 30, 40)),
    "kidneys": ((-45, -40, -40), (20, 20, 40)),
    "pancreas": ((-5, 20, -20), (40, 12, 12)),
}
"""Centre and half axes in mm (right, anterior, superior) of ellipsoids in one body."""


class Scan:
    """A CT to be painted: air, with bodies and other things, in mm from its middle along R, A and S."""

    def __init__(self, *size_mm: float, noise: float = 4.0) -> None:
        shape = [int(mm // spacing) for mm, spacing in zip(size_mm, SPACING, strict=True)]
        self.hu = np.random.default_rng(0).normal(0, noise, shape)
        self.mm = np.meshgrid(
            *((np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, SPACING, strict=True)), indexing="ij"
        )
        self.base = np.full(shape, -1000.0)

    def ellipsoid(self, hu, centre, axes) -> "Scan":
        inside = sum(((x - c) / a) ** 2 for x, c, a in zip(self.mm, centre, axes, strict=True)) < 1
        self.base[inside] = hu
        return self

    def body(self, *at: float, organs=tuple(ORGANS)) -> "Scan":
        """A trunk without end, fat outside, lungs above, and organs."""
        self.ellipsoid(-100, at, (150, 105, 1e4)).ellipsoid(40, at, (135, 90, 1e4))
        self.ellipsoid(-800, np.add(at, (0, 0, 160)), (110, 80, 75))
        for organ in organs:
            centre, axes = ORGANS[organ]
            self.ellipsoid(HU[organ], np.add(at, centre), axes)
        return self

    def cropped(self, *box: slice) -> "Scan":
        self.hu, self.base = self.hu[box], self.base[box]
        return self

    @property
    def ct(self) -> Volume:
        affine = np.diag([*SPACING, 1.0])
        affine[:3, 3] = -100, -200, 50
        return Volume(np.clip(self.hu + self.base, -1024, 3071).astype(np.int16), affine)


def turned(ct: Volume, degrees: float) -> Volume:
    angle, turn = np.radians(degrees), np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return Volume(ct.voxels, turn @ ct.affine)


SCANS = {
    "an ordinary abdomen": lambda: Scan(380, 280, 240).body(0, 0, 0).ct,
    "liver and spleen cut by the upper edge": lambda: Scan(380, 280, 240).body(0, 0, 100).ct,
    "kidneys cut by the lower edge": lambda: Scan(380, 280, 240).body(0, 0, -100).ct,
    "liver cut by the side of the field of view": lambda: Scan(380, 280, 240).body(140, 0, 0).ct,
    "two bodies side by side": lambda: Scan(680, 280, 160).body(-165, 0, 0).body(165, 0, 30).ct,
    "two bodies head to foot": lambda: (
        Scan(340, 240, 600).body(0, 0, 0, organs=()).body(0, 0, -180).ellipsoid(140, (-75, -25, 200), (25, 30, 40)).ct
    ),
    "patient on the side": lambda: turned(Scan(380, 280, 240).body(0, 0, 0).ct, 90),
    "patient turned halfway to the side": lambda: turned(Scan(380, 280, 240).body(0, 0, 0).ct, 40),
    "arms beside the body": lambda: (
        Scan(560, 280, 240)
        .body(0, 0, 0)
        .ellipsoid(50, (-220, 0, 0), (35, 35, 1e4))
        .ellipsoid(700, (220, 0, 0), (12, 12, 1e4))
        .ct
    ),
    "metal at 3,000 HU": lambda: (
        Scan(380, 280, 240)
        .body(0, 0, 0)
        .ellipsoid(3000, (0, -60, 0), (6, 6, 60))
        .ellipsoid(3000, (40, 30, -100), (15, 8, 8))
        .ct
    ),
    "cropped to the liver": lambda: (
        Scan(380, 280, 240).body(0, 0, 0).cropped(slice(50, 74), slice(25, 46), slice(14, 34)).ct
    ),
    "a chest that ends above the kidneys": lambda: Scan(380, 280, 200).body(0, 0, -120, organs=("liver", "spleen")).ct,
    "a clipped CT": lambda: (
        (ct := Scan(380, 280, 240).body(0, 0, 0).ct) and replace(ct, voxels=np.clip(ct.voxels, -175, 250))
    ),
}


@pytest.mark.parametrize("name", SCANS)
def test_no_organ_is_lost_that_the_full_volume_shows(name, monkeypatch):
    monkeypatch.setattr(region, "SMALL", 0)  # small as they are, the organs of these scans are located first
    ct, network = SCANS[name](), BandNetwork(MODEL)
    found = segment(MODEL, ct, network=network)
    prepared = prepare(ct, MODEL.contract)
    whole = merge(restore(network.margins(prepared.voxels), prepared.grid), MODEL.organs)
    for entry in MODEL.organs:
        a, b = found.labels == entry.value, whole == entry.value
        assert 2 * (a & b).sum() >= 0.99 * (a.sum() + b.sum()), entry.name
    assert whole.any()


@pytest.mark.parametrize("site", SCANNERS)
def test_phantoms_of_every_site_lose_no_voxel(site):
    ct, _ = make_phantom(site, 0, profile=PROFILES["smoke"])
    model = band_model((8.0, 9.0, 10.0))
    network = BandNetwork(model)
    prepared = prepare(ct, model.contract)
    whole = merge(restore(network.margins(prepared.voxels), prepared.grid), model.organs)
    np.testing.assert_array_equal(segment(model, ct, network=network).labels, whole)


class Shortsighted(BandNetwork):
    """Sees everything but what `miss` takes away from its first, coarse view."""

    def __init__(self, miss) -> None:
        super().__init__(MODEL)
        self.miss = miss

    def margins(self, voxels):
        margins = super().margins(voxels)
        if len(self.seen) == 1:
            self.miss(margins)
        return margins


def no_spleen(margins):
    margins[1] = -12


def half_a_liver(margins):
    margins[0, : margins.shape[1] * 2 // 3] = -12


def nothing_but_a_speck_of_each(margins):
    margins[:] = -12
    margins[:, 20, 20, 20] = 12


@pytest.mark.parametrize("miss", [no_spleen, half_a_liver, nothing_but_a_speck_of_each])
def test_what_the_coarse_view_misses_is_found_all_the_same(miss, monkeypatch):
    monkeypatch.setattr(region, "SMALL", 0)
    ct, network = SCANS["an ordinary abdomen"](), Shortsighted(miss)
    expected = segment(MODEL, ct, network=BandNetwork(MODEL)).labels
    np.testing.assert_array_equal(segment(MODEL, ct, network=network).labels, expected)


@pytest.mark.parametrize(
    "spacing, small, passes", [(2.0, 0, 2), (2.0, 10_000_000, 1), (2.5, 0, 1)], ids=["fine", "small", "too coarse"]
)
def test_organs_are_located_only_where_that_is_not_too_coarse_and_saves_something(spacing, small, passes, monkeypatch):
    monkeypatch.setattr(region, "SMALL", small)
    network = BandNetwork(band_model((spacing,) * 3))
    segment(network.model, SCANS["an ordinary abdomen"](), network=network)
    assert len(network.seen) == passes


def test_a_region_that_saves_little_is_the_whole_body(monkeypatch):
    monkeypatch.setattr(region, "SMALL", 0)
    scan, network = Scan(380, 280, 240).body(0, 0, 0), BandNetwork(MODEL)
    ct = scan.cropped(slice(15, 79), slice(17, 53), slice(9, 43)).ct
    found = segment(MODEL, ct, network=network)
    assert len(network.seen) == 2
    assert [stop - start for start, stop in found.region] == list(network_grid(ct, MODEL.contract).shape)


@pytest.mark.parametrize("floor", [-1024, -175, -57])
def test_the_body_is_found_in_a_clipped_ct_too(floor):
    ct = Scan(380, 280, 60).ellipsoid(40, (20, 0, 0), (100, 60, 1e4)).ct
    grid = network_grid(ct, MODEL.contract)
    box = body_box(replace(ct, voxels=ct.voxels.clip(floor, 300)), grid, window_hu=(max(floor, -175), 300))
    for part, (low, high) in zip(box, ((110, 310), (80, 200), (0, 60)), strict=True):  # mm from the rim
        assert low - 25 <= 2 * part.start <= low
        assert high <= 2 * part.stop <= high + 25


def test_a_box_grows_by_voxels_of_the_ct_on_both_sides_as_far_as_there_are_any():
    box = slice(10, 31), slice(0, 17), slice(2, 12)
    assert grown(box, 16, (100, 100, 13)) == (slice(5, 37), slice(0, 32), slice(0, 13))
    assert grown(box, 1, (100, 100, 13)) == box


def test_labels_at_a_side_where_the_region_ends_within_the_body_may_go_on():
    body, box = (slice(0, 50),) * 3, (slice(10, 50), slice(0, 50), slice(0, 40))
    assert not reaches_a_cut((slice(11, 50), slice(0, 50), slice(0, 39)), box, body)
    assert reaches_a_cut((slice(10, 50), slice(0, 50), slice(0, 39)), box, body)
    assert reaches_a_cut((slice(11, 50), slice(0, 50), slice(0, 40)), box, body)
    assert not reaches_a_cut(None, box, body)
