"""Explorers: sliders over a picture, each built to test one belief. Pure compute, controls, thin view."""
