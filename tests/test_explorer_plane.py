"""The plane: a picture shows the density the right way round, and every order and control has its sign."""

from alignkd_lab.plots import plane
from alignkd_lab.plots.style import PIPELINE_STYLE


def test_every_order_and_control_has_a_sign_of_its_own():
    assert len({plane.signed(name)[0] for name in list(PIPELINE_STYLE)[:8]}) == 8
    assert plane.signed("align_then_kd") == "▲ A-K: align, then distil"
