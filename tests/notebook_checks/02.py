"""What holds in notebook 02."""

# after: counts
near = {name: (torch.cdist(draws, ring.truth.means) < 0.5).double().mean(1) for name, draws in ring.own_draws.items()}
on_a_mode = {name: share.sum(-1).mean().item() for name, share in near.items()}
shown = {name: (share > 0.01).double().sum(-1).mean().item() for name, share in near.items()}
assert on_a_mode["distilled"] > on_a_mode["direct"] + 0.2
assert shown["direct"] == 8
assert shown["distilled"] < 4

# after: rescored
assert gap("published", "precision") > 10
assert 2 < gap("true", "precision") < 6
assert gap("true", "recall") < gap("published", "recall") < -20

# after: in-sample
recalls = {
    k: [found.scores[by]["direct"]["recall"].mean() for by in ("published", "true")] for k, found in rings.items()
}
assert 0 < recalls[1][0] - recalls[1][1] < 0.1
assert recalls[8][0] - recalls[8][1] > 0.3

# after: teachers
losses = [found.gain("recall", 1, 100.0).mean() for found in sweeps.values()]
assert losses == sorted(losses, reverse=True)
for size, found in sweeps.items():
    for k in found.components:
        assert (found.gain("precision", k, 100.0).mean() > 0.5) == (k < size)
        assert found.gain("recall", k, 100.0).mean() < 0

# after: bill
assert (~ever).double().mean() > 0.3
kept = [plots.tables.mean(run, "kd_only", "overall_precision").estimate for run in runs["rlhf"].values()]
lost = [plots.tables.mean(run, "kd_only", "overall_recall").estimate for run in runs["rlhf"].values()]
assert kept == sorted(kept)
assert lost[1:] == sorted(lost[1:], reverse=True)
