"""The Gaussian world, by module: `mog.settings`, `mog.closed_form`, `mog.sweep`."""

from alignkd_lab import lazy

__getattr__, __dir__ = lazy.names(__name__, {}, ("closed_form", "ring", "settings", "sweep"))
