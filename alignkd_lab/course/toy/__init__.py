"""The toy language of notebook 06, and a walk along a loss, by module: `toy.world`, `toy.walk`."""

from alignkd_lab import lazy

__getattr__, __dir__ = lazy.names(__name__, {}, ("figures", "language", "one_state", "walk", "world"))
