"""The registered studies as data, and what runs them."""

from alignkd_lab import lazy

__getattr__, __dir__ = lazy.names(__name__, {}, ("gaussians", "pictures", "plan"))
