"""The language world, by module: `lm.weights`, `lm.sampling`, `lm.prompts`."""

from alignkd_lab import lazy

MODULES = (
    "batch chunked feasibility losses preference_data prompts rewards sampling scoring settings student teachers "
    "templates vocabulary weights"
)
__getattr__, __dir__ = lazy.names(__name__, {}, MODULES.split())
