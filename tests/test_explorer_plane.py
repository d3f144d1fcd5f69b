"""The plane: a picture shows the density the right way round, and every order and control has its sign."""

import numpy as np
import torch
from matplotlib.figure import Figure

from alignkd_lab.mog.mixture import GaussianMixture
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.plots import plane
from alignkd_lab.plots.style import PIPELINE_STYLE


def test_rows_run_upwards_columns_to_the_right_and_the_window_holds_the_whole_truth():
    settings = MogSettings()
    weights, means = torch.tensor([settings.truth_weights]), torch.tensor([settings.truth_means]).double()
    mixture = GaussianMixture(weights.double().log(), means, torch.full_like(means, settings.truth_sd).log())
    left, right, bottom, top = window = plane.window(settings)
    plane.paint(axis := Figure().subplots(), mixture, window)
    field = axis.images[0].get_array()
    cell = (right - left) / (field.shape[1] - 1) * (top - bottom) / (field.shape[0] - 1)
    assert abs(field.sum() * cell - 1) < 1e-3
    halves = [half.sum() for row in np.array_split(field, 2) for half in np.array_split(row, 2, axis=1)]
    rare = settings.truth_means[settings.targets[0]]
    assert np.argmin(halves) == (rare[0] > 0) + 2 * (rare[1] > 0)
    assert axis.images[0].origin == "lower"


def test_every_order_and_control_has_a_sign_of_its_own():
    assert len({plane.signed(name)[0] for name in list(PIPELINE_STYLE)[:8]}) == 8
    assert plane.signed("align_then_kd") == "▲ A-K: align, then distil"
