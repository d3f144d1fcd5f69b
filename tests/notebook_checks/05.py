"""What holds in notebook 05."""

# after: layers
assert max(found, key=found.get) == "middle"

# after: healing
assert held["cut"] < held["healed"] < held["base"]
assert recipe["gap"] < recipe["bar"]

# after: divergences
for student, mean, way in zip(students.values(), best.values(), ("forward", "reverse"), strict=True):
    least = nano.kd_loss(mean.expand_as(rows), rows, way)
    assert least - 1e-4 < nano.kd_loss(student.expand_as(rows), rows, way) < least + 0.01
covers, seeks = (table[name] for name in students)
assert covers["KL(p ‖ q)"] < seeks["KL(p ‖ q)"]
assert covers["KL(q ‖ p)"] > seeks["KL(q ‖ p)"]
assert covers["recall"] > seeks["recall"]
assert covers["precision"] < seeks["precision"]
the = tokenizer.encode("The")[0]
assert students["student that covers"][the] < rows[:, the].max() < students["student that seeks"][the]
