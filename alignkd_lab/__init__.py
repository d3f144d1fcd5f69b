"""Align before you distil? Both orders, on Gaussians and on SmolLM2."""

__version__ = "0.3.0"
