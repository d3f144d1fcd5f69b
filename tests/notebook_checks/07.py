"""What holds in notebook 07."""

# after: live
assert [model.config.num_hidden_layers for model in models.values()] == [30, 20]
assert [row[2] for row in rows] == [64, 64]
