"""Options and surroundings that every test shares."""

import os

# Set before torch is imported: with one worker a core, more threads each would only get in one another's way.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import pytest


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", choices=("cpu", "cuda"), help="where tests put their tensors")


@pytest.fixture(scope="session")
def device(request) -> str:
    return request.config.getoption("--device")


@pytest.fixture(scope="session", autouse=True)
def float32_products():
    """Also where training multiplies in bfloat16, so that rounding stays out of comparisons."""
    import torch

    from alignkd_lab.lm import trainer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "faster_dtype", lambda kind: torch.float32)
        yield
