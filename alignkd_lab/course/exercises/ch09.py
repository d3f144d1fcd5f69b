"""Solutions and data of notebook 09."""

from __future__ import annotations


def responses_needed() -> float:
    from alignkd_lab.lm.feasibility import responses_for

    return float(responses_for(rate=0.02, prompts=96, pairs=30))


def upper_rate() -> float:
    from alignkd_lab.stats import wilson_interval

    return wilson_interval(hits=0, total=100).high


def preference_rows() -> dict:
    """Eight rows as they stand in files that people send each other."""
    said = [{"role": "user", "content": "Name a lake."}]
    good, bad = ([{"role": "assistant", "content": text}] for text in ("Lake Como.", "I cannot."))
    return {
        "rows": [
            {"prompt": "Name a fruit.", "chosen": "A pear.", "rejected": "No idea."},
            {"prompt": "Name a bird.", "chosen": "A wren.", "rejected": "A wren."},
            {"prompt": "Name a tree.", "chosen": "An oak.", "rejected": ""},
            {"chosen": "Name a colour. Blue is one.", "rejected": "Name a colour. A pear is one."},
            {"prompt": "Name a fish.", "chosen": "A trout."},
            {"prompt": said, "chosen": good, "rejected": bad},
            {"prompt": "Name a river.", "chosen": "The Po. ", "rejected": " The Po."},
            {"prompt": [*said, {"role": "assistant", "content": "Why?"}], "chosen": good, "rejected": bad},
        ]
    }


def usable_rows(data: dict) -> int:
    import json
    import tempfile
    from pathlib import Path

    from alignkd_lab.lm.preference_data import load_preferences

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in data["rows"]))
        return len(load_preferences(path).rows)
