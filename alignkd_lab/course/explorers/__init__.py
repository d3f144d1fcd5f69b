"""Explorers: sliders over a picture, each built to test one belief. Pure compute, controls, thin view.

A chart's `show(*shown, **state)`: `shown` names the controls to put on the page, all where none is, and `state` says
where they begin.
"""
