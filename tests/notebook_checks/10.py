"""What holds in notebook 10."""

# after: gaussian-verdicts
assert counts.sum(axis=1).eq(20 + 24).all()
