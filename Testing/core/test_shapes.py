import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segviz_core.experiments.shapes import Ellipsoid, SmoothField, tube

LENGTH = st.floats(1, 100)


@given(radii=st.tuples(LENGTH, LENGTH, LENGTH), turn=st.floats(-90, 90), seed=st.integers(0, 100))
def test_inner_points_lie_inside_the_ellipsoid_and_its_bounds(
    radii: tuple[float, float, float], turn: float, seed: int
) -> None:
    shape = Ellipsoid((10, -20, 30), radii, turn)
    point = np.array(shape.inner_point(np.random.default_rng(seed)))
    assert shape.level(*point.astype(np.float32).reshape(3, 1, 1, 1)).item() < 0.86**2
    low, high = shape.bounds()
    assert (low <= point).all()
    assert (point <= high).all()


def test_turning_by_90_degrees_swaps_the_radii_in_the_axial_plane() -> None:
    rng = np.random.default_rng(0)
    x, y, z = (rng.uniform(-30, 30, (5, 5, 5)).astype(np.float32) for _ in range(3))
    turned, swapped = Ellipsoid((0, 0, 0), (10, 20, 30), 90), Ellipsoid((0, 0, 0), (20, 10, 30))
    np.testing.assert_allclose(turned.level(x, y, z), swapped.level(x, y, z), rtol=1e-4)


def test_tube_meets_its_control_points_and_tapers() -> None:
    points = np.array([(0.0, 0, 0), (40, 10, 0), (80, 0, 20)])
    balls = tube(points, [15, 10])
    centers = np.array([ball.center for ball in balls])
    for point in points:
        assert np.linalg.norm(centers - point, axis=1).min() < 2.1
    assert balls[0].radii[0] == pytest.approx(15)
    assert balls[-1].radii[0] == pytest.approx(10)
    assert np.linalg.norm(np.diff(centers, axis=0), axis=1).max() < 6


def test_smooth_fields_have_mean_0_and_sd_1() -> None:
    axes = [np.arange(-160.0, 161, 8)] * 3
    values = np.stack([SmoothField.draw(np.random.default_rng(seed), 40).sample(axes) for seed in range(20)])
    assert abs(values.mean()) < 0.05
    assert values.std() == pytest.approx(1, abs=0.05)


def test_smooth_field_has_one_value_at_a_place_whatever_the_grid() -> None:
    field = SmoothField.draw(np.random.default_rng(3), 30)
    coarse, fine = np.arange(-100.0, 101, 10), np.arange(-100.0, 101, 2.5)
    np.testing.assert_allclose(field.sample([coarse] * 3), field.sample([fine] * 3)[::4, ::4, ::4], atol=1e-5)


def test_smooth_field_goes_on_with_its_border_value_outside() -> None:
    field = SmoothField.draw(np.random.default_rng(3), 30)
    inside, outside = field.sample([np.array([210.0])] * 3), field.sample([np.array([500.0])] * 3)
    assert outside.shape == (1, 1, 1)
    assert field.sample([np.array([500.0]), np.array([0.0]), np.array([0.0])]) == pytest.approx(
        field.sample([np.array([210.0]), np.array([0.0]), np.array([0.0])])
    )
    assert inside == pytest.approx(outside)
