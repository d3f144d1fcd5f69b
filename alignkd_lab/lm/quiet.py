"""Silence while a trainer of TRL runs, to compare with."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No telemetry, no warnings and nothing below an error from the libraries' loggers; all as before afterwards."""
    from huggingface_hub import constants

    loggers = [logging.getLogger(name) for name in ("trl", "transformers", "accelerate")]
    levels, telemetry = [logger.level for logger in loggers], constants.HF_HUB_DISABLE_TELEMETRY
    # The variable of the same name is read when the library is imported, which is long past.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = telemetry
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
