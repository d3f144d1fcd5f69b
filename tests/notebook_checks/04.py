"""What holds in notebook 04."""

# after: other-losses
assert list(shares.argmax(1)[:2]) == [2, 1]  # DPO: token 3; NLL: the winner
assert shares[3, 1] < 1e-3 < 0.3 < shares[2, 1]  # reverse KL; forward KL

# after: train
assert np.abs(winners[0] - losers[0]).max() < 1e-3  # no margin at the start: weight ½, loss log 2
assert (winners[-1] > losers[-1]).all()

# after: near
assert (near_winners[-1] < -1).all()
assert (np.diff((near_winners - near_losers).mean(1)) > 2).all()
(asked_of_france,) = lm.templates.encode(tokenizer, [course.CAPITALS[0].prompt])
paris = response(course.CAPITALS[0].chosen)
with torch.no_grad():
    logits = [model(torch.tensor([asked_of_france + paris])).logits[0, -len(paris) - 1 : -1] for model in (base, near)]
before, after = (each.log_softmax(-1)[range(len(paris)), paris] for each in logits)
assert 0.29 < before.sum().exp() < 0.31  # as the prediction says
assert after[-3].exp() > 0.99  # the city
assert (after < before - 0.4).nonzero().flatten().tolist() == [len(paris) - 2, len(paris) - 1]  # full stop and end

# after: by-hand
assert (table - table.loc["by hand"]).abs().to_numpy().max() < 1e-3
