"""Pictures and tables of records, by module: `plots.figures`, `plots.tables`."""

from alignkd_lab import lazy

__getattr__, __dir__ = lazy.names(__name__, {}, ("drawing", "figures", "maps", "style", "sweeps", "tables", "verdicts"))
