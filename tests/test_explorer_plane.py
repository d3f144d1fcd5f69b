"""The plane: squares show densities the right way round, on one scale, with the target where it lies."""

import numpy as np
import pytest

from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.plots import plane
from alignkd_lab.plots.style import PIPELINE_STYLE

SETTINGS = MogSettings()


def test_the_window_holds_the_whole_truth():
    left, right, bottom, top = plane.window(SETTINGS)
    field = plane.field(plane.truth(SETTINGS), SETTINGS)
    cell = (right - left) / (field.shape[1] - 1) * (top - bottom) / (field.shape[0] - 1)
    assert field.sum() * cell == pytest.approx(1, abs=1e-3)


def test_rows_run_upwards_and_columns_to_the_right():
    lower_right = {"weights": [1.0], "means": [[1.5, -1.5]], "sds": [[0.3, 0.3]]}
    field = plane.field(lower_right, SETTINGS)
    row, column = np.unravel_index(field.argmax(), field.shape)
    assert row < field.shape[0] / 2 < column


def test_one_scale_serves_all_squares_and_keeps_a_rare_mode_in_sight():
    norm = plane.one_scale([np.array([[0.2]]), np.array([[0.0, 0.8]])])
    assert norm(0.8) == pytest.approx(1)
    assert norm(0.05) == pytest.approx(0.25)


def test_every_order_and_control_has_a_sign_of_its_own():
    signs = [plane.signed(name)[0][0] for name in list(PIPELINE_STYLE)[:8]]
    assert len(set(signs)) == 8
    assert plane.signed("align_then_kd") == ("▲ A-K: align, then distil", "#D55E00")
