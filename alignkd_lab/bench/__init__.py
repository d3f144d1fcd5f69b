"""What a training step costs: our losses against full logits, TRL, the NLL alone, and the machine's own ceiling."""
