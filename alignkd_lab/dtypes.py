"""The number type of matrix products: a setting with a default per device, and part of what a record names."""

from __future__ import annotations

from alignkd_lab.errors import BadInput

DTYPES = ("float32", "bfloat16")
USUAL_DTYPE = {"cpu": "float32", "cuda": "bfloat16"}


def resolve_dtype(dtype: str, device: str) -> str:
    """`float32` or `bfloat16`: what a run's `dtype` means on a device.

    The default is bfloat16 on a GPU, and float32 on a CPU, where bfloat16 is slower on some machines and on every one
    other samples: the same seed in another dtype is another draw.

    Raises:
        BadInput: a kind of device that nothing here was tried on, as Apple's `mps`.
    """
    kind = device.partition(":")[0]
    if kind not in USUAL_DTYPE:
        raise BadInput(f"device: {kind} is untried here; use one of {', '.join(USUAL_DTYPE)}")
    return USUAL_DTYPE[kind] if dtype == "default" else dtype


def device_label(device: str, dtype: str | None) -> str:
    """`cpu`, or `cpu, bfloat16` where that is not the type in which this device usually multiplies."""
    name = (dtype or "").removeprefix("torch.")
    return f"{device}, {name}" if name and name != USUAL_DTYPE.get(device, name) else device
