"""What holds in notebook 03."""

# after: paper-and-run
assert (abs(table.iloc[:2, 0] - table.iloc[:2, 1]) < 0.1).all()  # where the target is still there, paper and run agree
assert (table.iloc[2:, 0] > 2).all()
assert (table.iloc[2:, 1] < 0.01).all()

# after: claims
for algorithm in ("RLHF", "DPO"):
    decided = verdicts[algorithm].drop(columns="invalid").sum(axis=1)
    assert (verdicts[algorithm, "holds"].iloc[:2] > 0.9 * decided.iloc[:2]).all()
    assert (verdicts[algorithm, "fails"].iloc[[2, 4]] > 0.5 * decided.iloc[[2, 4]]).all()
    assert verdicts[algorithm, "holds"].iloc[3] > 0.8 * decided.iloc[3]

# after: sizes
for runs in sizes.values():
    small, large = runs[3], runs[4]
    assert mean(large, K_A) > mean(small, K_A) + 0.5
    assert mean(large, A_K) > mean(large, K_A) + 0.5

# after: dpo-puzzle
assert found.min() > 100
assert mean(rlhf, HIGH) > 0.9 * mean(rlhf, A_K)
assert mean(dpo, HIGH) < 0.3 * mean(dpo, A_K)
assert mean(dpo, HIGH, "overall_precision") < 3 * mean(rlhf, HIGH, "overall_precision")

# after: boundary-claims
for algorithm, s in [(name, s) for name in ("rlhf", "dpo") for s in course.boundary.SHARPENINGS]:
    _, data = course.boundary.shipped(algorithm, float(s))
    sure = data.decided & ((data.found[A_K] > 0.5) | (data.found[K_A] > 0.5))
    a_k, k_a = ((sure & ahead).sum() for ahead in (data.difference > 0, data.difference < 0))
    assert (k_a > a_k) == ((algorithm, s) == ("rlhf", "0.5"))
