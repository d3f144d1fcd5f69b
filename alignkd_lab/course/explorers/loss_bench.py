"""Explorer: "DPO stops when the winner leads". Four outcomes at one state, moved by a loss, step by step.

Token 2 beat token 1 in the only pair; no pair speaks of tokens 3 and 4. The chart takes the steps itself, one parameter
after another; `toy.walk` takes them by the package's own losses, and a test holds the two against each other.
"""

from __future__ import annotations

import altair as alt

from alignkd_lab.course.toy.one_state import DPO, REFERENCE
from alignkd_lab.course.toy.walk import BETA, GAMMA, LAST, LOSER, RATES, WINNER
from alignkd_lab.course.widgets.charts import Chart, Menu, Slider, parameters
from alignkd_lab.course.widgets.pieces import ONE, POINT, STATE, axis, below, beside, numbered, share, sized
from alignkd_lab.plots.drawing import BAND, INK, QUIET

LOSSES = {
    "dpo": "DPO on the pair: token 2 beat token 1",
    "nll": "NLL of the winner",
    "forward": "forward KL from the DPO teacher",
    "reverse": "reverse KL to the DPO teacher",
    "jsd": "JSD between DPO teacher and policy",
    "skew": "skew KL from the DPO teacher",
    "adpa": "ADPA's advantage alone, without the NLL",
    "adpa_nll": "ADPA: NLL of the winner and the advantage",
}
CONTROLS = {
    "loss": Menu("dpo", "loss", LOSSES),
    "steps": Slider(0.0, "training steps", 0.0, float(LAST), 1.0),
    "reference_margin": Slider(-0.693, "winner ahead in the reference, Δ_ref (nats)", -25.0, 5.0, 0.1),
    "beta": Slider(BETA, "KL weight of DPO, β", 0.05, 5.0, 0.05, True),
    "gamma": Slider(GAMMA, "weight of ADPA's advantage, γ", 0.0, 6.0, 0.1),
    "optimiser": Menu("gradient", "steps by", {"gradient": "plain gradient descent", "adam": "Adam"}),
}
SATISFIED = 0.05  # the weight below which we call DPO satisfied
SOURCE = "Live: four logits and exact gradients, as the losses of the package have them; no language model."
# Tol's muted palette, which colour-blind readers can tell apart; no pipeline's colour.
LOSER_COLOUR, WINNER_COLOUR = "#882255", "#117733"
_COLOURS = (LOSER_COLOUR, WINNER_COLOUR, "#332288", "#999933")
_TOKENS, _LEAST = range(len(DPO)), -12  # power of ten of the least share shown

# What is pushed at a step, and how hard: the gradient by token i's logit is that of p_i (h_i - sum_j p_j h_j), with h_i
# minus the loss's derivative by p_i, up to a constant.
_PULLS = {
    "dpo": "u{k} * {pair} / {p}",
    "nll": "{won} / {p}",
    "forward": "{t} / {p}",
    "reverse": "log({t} / {p})",
    "jsd": "log(1 + {t} / {p}) / 2",
    "skew": "{t} / ({t} + {p})",
    "adpa": "gamma * advantage[{i}]",
    "adpa_nll": "gamma * advantage[{i}] + {won} / {p}",
}
IS_DPO, WEIGHT = "(loss == 'dpo')", "1 / (1 + exp(beta * ({margin} - reference_margin)))"
FORCE = f"max({', '.join(f'abs({{g}}[{i}])' for i in _TOKENS)})"
MARGIN = f"log({{p}}[{WINNER}] / {{p}}[{LOSER}])"


def _chosen(by: str, options: dict[str, str]) -> str:
    """The expression of the option that a menu stands on."""
    *others, last = options.items()
    return "(" + "".join(f"{by} == '{name}' ? {value} : " for name, value in others) + f"{last[1]})"


def _four(expression: str) -> str:
    return "[" + ", ".join(expression.replace("{i}", str(i)) for i in _TOKENS) + "]"


def walked() -> dict[str, str]:
    """The walk of `LAST` steps as parameters: `shares[step][token]` and `pushes[step][token]`, from the `reference`."""
    pair = sum(REFERENCE[:2])
    rest = ", ".join(map(str, REFERENCE[2:]))
    sides = {i: f"{pair} / (1 + exp({sign}reference_margin))" for i, sign in ((LOSER, ""), (WINNER, "-"))}
    found = {
        "reference": f"[{sides[0]}, {sides[1]}, {rest}]",
        "teacher": str(list(DPO)),
        "advantage": _four("log(teacher[{i}] / reference[{i}])"),
        "z0": _four("log(reference[{i}])"),
        "m0": "[0, 0, 0, 0]",
        "v0": "[0, 0, 0, 0]",
    }
    marks = {LOSER: ("-1", "0"), WINNER: ("1", "1")}
    for k in range(LAST + 1):
        whole = " + ".join(f"exp(z{k}[{i}])" for i in _TOKENS)
        found[f"p{k}"] = _four(f"exp(z{k}[{{i}}]) / ({whole})")
        found[f"u{k}"] = f"beta * {WEIGHT.format(margin=f'(z{k}[{WINNER}] - z{k}[{LOSER}])')}"
        terms = []
        for i in _TOKENS:
            sides = dict(zip(("pair", "won"), marks.get(i, ("0", "0")), strict=True))
            at = {name: pull.format(i=i, k=k, p=f"p{k}[{i}]", t=DPO[i], **sides) for name, pull in _PULLS.items()}
            terms.append(_chosen("loss", at))
        found[f"h{k}"] = f"[{', '.join(terms)}]"
        mean = " + ".join(f"p{k}[{i}] * h{k}[{i}]" for i in _TOKENS)
        found[f"g{k}"] = _four(f"p{k}[{{i}}] * (h{k}[{{i}}] - ({mean}))")
        if k == LAST:
            break
        # Adam with PyTorch's defaults.
        found[f"m{k + 1}"] = _four(f"0.9 * m{k}[{{i}}] + 0.1 * g{k}[{{i}}]")
        found[f"v{k + 1}"] = _four(f"0.999 * v{k}[{{i}}] + 0.001 * g{k}[{{i}}] * g{k}[{{i}}]")
        first, second = 1 - 0.9 ** (k + 1), 1 - 0.999 ** (k + 1)
        adam = f"{RATES['adam']} * m{k + 1}[{{i}}] / {first} / (sqrt(v{k + 1}[{{i}}] / {second}) + 1e-8)"
        found[f"z{k + 1}"] = _four(f"z{k}[{{i}}] + (optimiser == 'adam' ? {adam} : {RATES['gradient']} * g{k}[{{i}}])")
    for name, letter in (("shares", "p"), ("pushes", "g")):
        found[name] = f"[{', '.join(f'{letter}{k}' for k in range(LAST + 1))}]"
    found |= {"here": "shares[steps]", "push": "pushes[steps]", "gaps": _four("abs(here[{i}] - teacher[{i}])")}
    found |= {"margin": MARGIN.format(p="here"), "weight": WEIGHT.format(margin="margin")}
    for name, array in {"best": "advantage", "top": "here", "pushed": "push", "worst": "gaps"}.items():
        found[name] = f"indexof({array}, max({', '.join(f'{array}[{i}]' for i in _TOKENS)}))"
    found["paired"] = "indexof(['dpo', 'nll', 'adpa_nll'], loss) >= 0"
    found["taught"] = "loss != 'dpo' && loss != 'nll'"
    return found


def show(*shown: str, **state: float | str) -> Chart:
    """Left: shares and pushes by token. Right: shares along the walk; DPO's weight of the pair, or the largest push."""
    moved = parameters(CONTROLS, shown, state)
    name = _chosen("loss", {key: f'"{value[0].upper()}{value[1:]}"' for key, value in LOSSES.items()})
    descent = _chosen("optimiser", {key: f"'{value}'" for key, value in CONTROLS["optimiser"].options.items()})
    steps = f"(steps == 0 ? 'before the first step of ' : 'step ' + steps + ' of ') + {descent}"
    rows = below(
        beside(_shares(), _walk(), x="independent", y="independent", color="independent"),
        beside(_pushes(), _rule(), x="independent", y="independent"),
        spacing=18,
    )
    title = alt.ExprRef(f"{name} + ', ' + {steps}")
    seen = (
        "Four outcomes under a loss. Left: each token's share, and the push on its logit. Right: the shares along the "
        "training on a logarithmic axis; below it DPO's weight of the pair against the winner's lead, which falls with "
        "the distance from the reference and not with the lead, or the largest push."
    )
    kinds = {"loss == 'dpo'": "dpo", "loss == 'nll'": "nll", "indexof(loss, 'adpa') == 0": "adpa", "": "divergence"}
    parts = {f"line_{k}": {at: _WORDS[kind][k] for at, kind in kinds.items()} for k in (0, 1)} | _PARTS
    words = "{line_0}", "{line_1}"
    return Chart(moved, title, rows, words=words, parts=parts, seen=seen, source=SOURCE, further=walked())


# Two lines by the kind of loss: what is seen, and what becomes of the belief.
_WORDS = {
    "dpo": (
        "Δ_θ = {margin:.1f}, weight {weight:.2~g}. {belief}",
        f"Tokens 3 and 4, of which no pair speaks, have {{here[2] + here[3]:share}} ({100 * sum(REFERENCE[2:]):g} % at "
        "the start).",
    ),
    "nll": (
        f"The winner has {{here[{WINNER}]:share}}, and is pushed on by what it lacks of 100 %, lead or no lead.",
        "Nobody asks what the reference said of it.",
    ),
    "adpa": (
        "The advantage is largest on token {1 + best} (A = {advantage[best]:.2f} nats), the push on token {1 + pushed}"
        "; likeliest is token {1 + top} ({here[top]:share}).",
        "{end}",
    ),
    "divergence": (
        "{farthest}",
        "A whole distribution speaks of every token, compared or not; but only the forward KL also pushes up a token "
        "to which the policy gives next to nothing.",
    ),
}
_PARTS = {
    "belief": {
        "steps == 0": "The policy is the reference, and the weight is ½, although {times}.",
        f"margin <= 0 && weight < {SATISFIED}": "The belief fails: DPO is satisfied, though {times}.",
        f"margin > 0 && weight >= {SATISFIED}": "The belief fails: {times}, and DPO pushes on.",
        "margin > 0": "The push has faded and {times}, but what faded it is the distance from Δ_ref.",
        "": "So far the belief holds: {times}, and DPO pushes on.",
    },
    "times": {"margin > 0": "the winner is {often} likelier", "": "the loser is {often} likelier"},
    "often": {"abs(margin) < 0.05": "hardly", "": "{exp(abs(margin)):,.2~r} times"},
    "end": {
        "here[best] > 0.9": "It has ended on token {1 + best}{rare}.",
        "": "Token {1 + best} has {here[best]:share}.",
    },
    "rare": {"max(teacher[best], reference[best]) < 0.05": ", which both teachers find rare", "": ""},
    "farthest": {
        "gaps[worst] < 0.005": "The policy is the teacher, to half a percent on every token.",
        "": "Farthest from the teacher is token {1 + worst}, with {here[worst]:share} where the teacher has "
        "{teacher[worst]:share}.",
    },
}


def _tokens() -> alt.Chart:
    arrays = {"share": "here", "push": "push", "before": "reference", "teaches": "teacher"}
    return numbered(len(DPO), "token", **{name: f"{array}[datum.token]" for name, array in arrays.items()})


def _panel(title: str | alt.ExprRef, height: int, *layers: alt.Chart) -> alt.LayerChart:
    return alt.layer(*layers).properties(**sized(355, height, title, offset=8))


_COLOUR = alt.Color("token:O", scale=alt.Scale(domain=list(_TOKENS), range=list(_COLOURS)), legend=None)
_NAMES = "['token ' + (datum.value + 1), paired ? ['loser', 'winner', '', ''][datum.value] : '']"
_X = alt.X("token:O", axis=alt.Axis(title=None, labelAngle=0, labelExpr=_NAMES, domain=False))


def _shares() -> alt.LayerChart:
    tokens = _tokens()
    y = alt.Y("share:Q", **axis(0, 1.2, format=".0%", values=[0, 0.5, 1]))
    teacher = {"shape": "diamond", "color": INK, "fill": "white", "size": 60, "opacity": alt.ExprRef("taught ? 1 : 0")}
    return _panel(
        alt.ExprRef("'Shares: policy,  — reference' + (taught ? ',  ◇ DPO teacher' : '')"),
        125,
        tokens.mark_bar(size=40).encode(_X, y, _COLOUR),
        tokens.mark_tick(color=INK, thickness=1.8, size=58).encode(_X, alt.Y("before:Q")),
        tokens.mark_point(**teacher).encode(_X, alt.Y("teaches:Q")),
        tokens.mark_text(baseline="top", text=alt.ExprRef(share("datum.share"))).encode(_X, y=alt.value(0)),
    )


def _pushes() -> alt.LayerChart:
    tokens, steps = _tokens().transform_calculate(up="datum.push >= 0"), _along()
    y = alt.Y("push:Q", axis=alt.Axis(title=None, values=[0], format="d"), scale=alt.Scale(padding=18))
    # Arrows of one scale for the whole walk, so that a fading push is seen to fade.
    reach = [
        steps.transform_calculate(push=f"{sign}abs(datum.pushed)").mark_point(opacity=0).encode(y=y) for sign in "+-"
    ]
    arrows = alt.Scale(domain=[True, False], range=["triangle-up", "triangle-down"])
    shape = alt.Shape("up:N", scale=arrows, legend=None)
    said = "abs(datum.push) < 5e-4 ? '0' : format(datum.push, '.2~r')"
    return _panel(
        "Push on each logit: minus the gradient",
        90,
        *reach,
        ONE.mark_rule(color=QUIET).encode(y=alt.datum(0)),
        tokens.mark_bar(size=5).encode(_X, y, _COLOUR),
        tokens.mark_point(filled=True, size=130, opacity=1).encode(_X, y, _COLOUR, shape),
        tokens.mark_text(dy=alt.ExprRef("datum.up ? -14 : 14"), text=alt.ExprRef(said)).encode(_X, y),
    )


def _along() -> alt.Chart:
    """A row for every step and token."""
    rows = numbered(len(DPO) * (LAST + 1), "row", token="datum.row % 4", step="floor(datum.row / 4)")
    return rows.transform_calculate(
        power=f"max({_LEAST}, log(shares[datum.step][datum.token]) / LN10)", pushed="pushes[datum.step][datum.token]"
    )


def _walk() -> alt.LayerChart:
    rows = _along()
    tick = (
        "datum.value > -5 ? format(pow(10, 2 + datum.value), '~g') + ' %' : '10⁻' + "
        "(datum.value <= -10 ? '¹' : '') + slice('⁰¹²³⁴⁵⁶⁷⁸⁹', (-datum.value) % 10, (-datum.value) % 10 + 1)"
    )
    x = alt.X("step:Q", **axis(0, LAST, "training steps", grid=False, titlePadding=2))
    powers = alt.Axis(title=None, labelExpr=tick, tickMinStep=1, tickCount=5)
    y = alt.Y("power:Q", axis=powers, scale=alt.Scale(domainMax=0.3))
    dashes = alt.Scale(domain=list(_TOKENS), range=[[1, 0], [1, 0], [6, 3], [2, 2]])
    dash = alt.StrokeDash("token:O", scale=dashes, legend=None)
    here = rows.transform_filter("datum.step == steps")
    # One beside the other, so that none covers another.
    names = {"align": "left", "fontWeight": "bold", "dx": alt.ExprRef("6 + 9 * datum.token")}
    named = rows.transform_filter(f"datum.step == {LAST}").transform_calculate(name="datum.token + 1")
    return _panel(
        "Shares along the training (logarithmic)",
        125,
        here.mark_rule(color=POINT, strokeWidth=1.2).encode(x=x),
        rows.mark_line(strokeWidth=2).encode(x, y, _COLOUR, dash),
        here.mark_point(filled=True, stroke="white", size=70, opacity=1).encode(x, y, _COLOUR),
        named.mark_text(**names).encode(x, y, _COLOUR, text="name:N"),
    )


def _rule() -> alt.LayerChart:
    """DPO's weight against the lead, or how hard another loss pushes along the training."""
    first, last = (MARGIN.format(p=f"shares[{step}]") for step in (0, LAST))
    ends = [f"min({first}, {last}, -2) - 2", f"max({first}, {last}, 0) + 5"]
    domain = [alt.ExprRef(f"{IS_DPO} ? {end} : {other}") for end, other in zip(ends, (0, LAST), strict=True)]
    low, high = (end.expr for end in domain)
    x = alt.X("x:Q", scale=alt.Scale(domain=domain, nice=False), axis=alt.Axis(title=None, grid=False, tickCount=6))
    y = alt.Y("y:Q", axis=alt.Axis(title=None, tickCount=4))
    margin, force = MARGIN.format(p="shares[datum.step]"), FORCE.format(g="pushes[datum.step]")

    def on(rows: alt.Chart, lead: str) -> alt.Chart:
        weight = WEIGHT.format(margin=lead)
        return rows.transform_calculate(x=f"{IS_DPO} ? {lead} : datum.step", y=f"{IS_DPO} ? {weight} : {force}")

    curve = numbered(201, "i", step=f"min(datum.i, {LAST})")
    curve = on(curve, f"(({low}) + datum.i / 200 * (({high}) - ({low})))")
    walk = on(numbered(LAST + 1, "step").transform_filter("datum.step <= steps"), margin)
    one = ONE.transform_filter(IS_DPO).transform_calculate(zero="0", high=high)
    leads = one.mark_text(align="right", baseline="top", dx=-4, dy=3, color=QUIET, text="winner leads")
    believed = numbered(4, "i").transform_filter(IS_DPO)
    believed = believed.transform_calculate(x=f"[{low}, 0, 0, {high}][datum.i]", y="datum.i < 2 ? 0.5 : 0")
    title = f"{IS_DPO} ? 'DPO’s weight of the pair against Δ_θ,  - - the belief' : 'Largest push, step by step'"
    return _panel(
        alt.ExprRef(title),
        90,
        one.mark_rect(color=BAND).encode(x="zero:Q", x2="high:Q"),
        leads.encode(x="high:Q", y=alt.value(0)),
        believed.mark_line(color=QUIET, strokeDash=[4, 3], strokeWidth=1.3).encode(x, y, order="i:Q"),
        curve.mark_line(color=INK, strokeWidth=1.4).encode(x, y, order="i:Q"),
        walk.mark_line(color=POINT, strokeWidth=3.2, strokeCap="round").encode(x, y, order="step:Q"),
        walk.transform_filter("datum.step == steps").mark_point(size=110, **STATE).encode(x, y),
    )
