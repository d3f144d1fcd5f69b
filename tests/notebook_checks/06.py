"""What holds in notebook 06."""

# after: brakes-on-paper
assert edge < gamma

# after: belief
assert belief["not among the ten likeliest"].sum() > len(best) / 2
assert colours > len(best) / 2

# after: dckd
before, after = (
    ak.nano.response_logits(each, [prompt] * 2, [r.labels for r in pair]) for each in (lens.student, student)
)
for found in zip(before, after, teachers, strict=True):
    near = [ak.nano.kd_loss(logits, found[2], "forward").item() for logits in found[:2]]
    assert near[1] < near[0]
given = pair[0].labels, before[1], *teachers, 0.2
assert torch.equal(dckd_loss(before[0], *given), ak.nano.dckd_loss(before[0], *given))

# after: sweep
assert changes[0].high < 0 < changes[1].low  # both intervals exclude 0: less reward, more advantage
rewards = ends["reward", "KL 3"].mean()
assert rewards.idxmax() == max(gammas)
assert rewards.max() > ends["reward", "none"].mean().max()

# after: train-with-it
on_chosen, on_written = ak.nano.response_logits(student, [prompt] * 2, [chosen.labels, written.labels])
assert ak.nano.adpa_loss(on_chosen, chosen.labels, on_written, *teachers, gamma) < loss
