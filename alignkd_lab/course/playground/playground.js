/* Empty the circle: both orders of distilling and aligning on four Gaussian bumps, in a browser.

The first half is the Gaussian world of `alignkd_lab.mog` once more, with its sizes, steps and learning rates: mixtures,
EM, RLHF by policy gradient, DPO, closed forms. `tests/test_playground_world.py` holds it equal to `mog` in Chromium.
The second half draws it. Work is a generator that yields often, so that no frame computes longer than a few
milliseconds.

Points are flat: x and y of each in turn. A component is a bump of a model, a mode a bump of the truth. */
"use strict";
(() => {
const LOG_2PI = Math.log(2 * Math.PI), SD = 0.3, WIDTH = 0.5, CELL = 0.05;
const RADIUS = WIDTH * Math.sqrt(2 * Math.log(2)); // of the circle: where the reward is half of its height
const IN_CIRCLE = 1 - Math.exp(-(RADIUS ** 2) / (2 * SD * SD)); // of a mode's draws, those within that radius
const SIZES = { training: 400, base: 4, teacher: 1000, restarts: 8, lloyd: 10, iterations: 300, tolerance: 1e-4,
  floor: 1e-3, steps: 200, batch: 256, rate: 0.1, pairs: 8000, evaluation: 4000, curve: 1000 };

// Mixtures ------------------------------------------------------------------------------------------------------------
/** Gaussians with diagonal covariances: logWeights [k], normalised; means and logSds [2 k]. */
class Mixture {
  constructor(...parts) {
    [this.logWeights, this.means, this.logSds] = parts.map((part) => Float64Array.from(part));
    this.k = this.logWeights.length;
  }
  get weights() { return this.logWeights.map(Math.exp); }
  /** Log-densities [n] of points [2 n], and each component's share of each point, [n k]. */
  score(points) {
    const { k, means, logWeights, logSds } = this, n = points.length / 2, precision = logSds.map((s) => Math.exp(-2 * s));
    const constant = logWeights.map((w, c) => w - logSds[2 * c] - logSds[2 * c + 1] - LOG_2PI);
    const logProb = new Float64Array(n), shares = new Float64Array(n * k);
    for (let i = 0; i < n; i++) {
      let best = -Infinity, total = 0;
      for (let c = 0; c < k; c++) {
        const dx = points[2 * i] - means[2 * c], dy = points[2 * i + 1] - means[2 * c + 1];
        const joint = constant[c] - 0.5 * (dx * dx * precision[2 * c] + dy * dy * precision[2 * c + 1]);
        shares[i * k + c] = joint;
        if (joint > best) best = joint;
      }
      for (let c = 0; c < k; c++) total += shares[i * k + c] = Math.exp(shares[i * k + c] - best);
      for (let c = 0; c < k; c++) shares[i * k + c] /= total;
      logProb[i] = best + Math.log(total);
    }
    return { logProb, shares };
  }
  logProb(points) { return this.score(points).logProb; }
  /** Draws from given noise: uniforms [n] pick the components, normals [2 n] place the points in them. */
  draw(uniforms, normals) {
    const edges = this.weights, sds = this.logSds.map(Math.exp), { k, means } = this;
    for (let c = 1; c < k; c++) edges[c] += edges[c - 1];
    const chosen = uniforms.map((u) => { let c = 0; while (c < k - 1 && edges[c] <= u) c++; return c; });
    return normals.map((z, a) => means[2 * chosen[a >> 1] + a % 2] + sds[2 * chosen[a >> 1] + a % 2] * z);
  }
  /** Weights to the power s, normalised; with s > 1 what is rare gets rarer (KD-MWE). */
  sharpen(s) { return new Mixture(logSoftmax(this.logWeights.map((w) => s * w)), this.means, this.logSds); }
  /** Gradient of sum_n c_n log p(x_n) in (logits, means, logSds), from the shares that `score` returned. */
  gradient(points, shares, coefficients) {
    const { k, means, logSds } = this, mass = new Float64Array(k), first = new Float64Array(2 * k), second = first.slice();
    for (let i = 0; i < coefficients.length; i++) {
      for (let c = 0; c < k; c++) {
        const share = shares[i * k + c] * coefficients[i];
        mass[c] += share;
        for (let a = 2 * c; a < 2 * c + 2; a++) {
          const d = points[2 * i + a - 2 * c] - means[a];
          first[a] += share * d;
          second[a] += share * d * d;
        }
      }
    }
    const precision = logSds.map((s) => Math.exp(-2 * s)), total = sum(coefficients);
    return [this.weights.map((w, c) => mass[c] - w * total), first.map((v, a) => v * precision[a]),
      second.map((v, a) => v * precision[a] - mass[a >> 1])];
  }
}

const sum = (values) => values.reduce((total, value) => total + value, 0), mean = (values) => sum(values) / values.length;
const sigmoid = (x) => 1 / (1 + Math.exp(-x)), range = (n, value) => Float64Array.from({ length: n }, (_, i) => value(i));
function logSoftmax(values) {
  const best = Math.max(...values), log = best + Math.log(sum(values.map((v) => Math.exp(v - best))));
  return values.map((v) => v - log);
}
/** Numbers that belong to a seed and a purpose, so that both orders meet the same ones; made by generators. */
function seededNoise(seed) {
  const cache = new Map();
  function* made(kind, purpose, n) {
    const key = `${purpose}/${kind}`;
    if (cache.get(key)?.length === n) return cache.get(key);
    let h = 2166136261 ^ Math.imul(seed, 0x9e3779b1);
    for (const letter of key) h = Math.imul(h ^ letter.charCodeAt(0), 16777619);
    let [a, b, c, d] = [h, h ^ 0x9e3779b9, Math.imul(h, 0x85ebca6b), 1];
    const next = () => { // sfc32
      const t = (a + b + d) | 0;
      d = (d + 1) | 0; a = b ^ (b >>> 9); b = (c + (c << 3)) | 0; c = (((c << 21) | (c >>> 11)) + t) | 0;
      return (t >>> 0) / 4294967296;
    };
    for (let i = 0; i < 20; i++) next();
    const values = new Float64Array(n + (n % 2));
    for (let i = 0; i < n; i += 2) {
      if (i % 8192 === 8190) yield;
      const [one, two] = [next(), next()], r = Math.sqrt(-2 * Math.log(1 - one)), angle = 2 * Math.PI * two;
      values.set(kind === "uniform" ? [one, two] : [r * Math.cos(angle), r * Math.sin(angle)], i);
    }
    cache.set(key, values.subarray(0, n));
    return cache.get(key);
  }
  return { uniform: (purpose, n) => made("uniform", purpose, n), normal: (purpose, n) => made("normal", purpose, n) };
}
function* drawing(mixture, noise, purpose, n) { // n draws
  return mixture.draw(yield* noise.uniform(purpose, n), yield* noise.normal(purpose, 2 * n));
}

// What is given: the truth, and a reward on one of its modes ----------------------------------------------------------
class Problem {
  /** means [[x, y] ...], weights [...] of the truth's modes; target: the index of the one that pays; height: of it. */
  constructor({ means, weights, target, height }) {
    this.truth = new Mixture(weights.map(Math.log), means.flat(), means.flat().map(() => Math.log(SD)));
    [this.x, this.y] = means[target];
    Object.assign(this, { weights, target, height });
  }
  /** height exp(-d^2 / (2 WIDTH^2)) with d the distance to the target: points [2 n] -> [n]. */
  reward(points) {
    return range(points.length / 2, (i) => this.height *
      Math.exp(-((points[2 * i] - this.x) ** 2 + (points[2 * i + 1] - this.y) ** 2) / (2 * WIDTH * WIDTH)));
  }
  hits(rewards) { return rewards.filter((r) => r >= this.height / 2).length; }
  /** Cells that cover the truth evenly: points [2 n], and their reward. */
  grid() {
    if (!this.cells) {
      const steps = Math.ceil((Math.max(...this.truth.means.map(Math.abs)) + 8 * SD) / CELL), side = 2 * steps + 1;
      const points = range(2 * side * side, (a) => ((a % 2 ? (a >> 1) % side : Math.floor((a >> 1) / side)) - steps) * CELL);
      this.cells = { points, steps, reward: this.reward(points) };
    }
    return this.cells;
  }
  /** A policy's mass on the target, and that of its tilted optimum, policy exp(R / beta), normalised (Order). */
  onPaper(policy, beta) {
    const { points, reward } = this.grid(), mass = policy.logProb(points).map(Math.exp);
    const share = (values) => sum(values.filter((_, i) => reward[i] >= this.height / 2)) / sum(values);
    return { share: share(mass), best: share(mass.map((p, i) => p * Math.exp(reward[i] / beta))) };
  }
  /** The recall threshold: the target's least weight in the truth with which it wins at the optimum (Order):
      m0 E_T[e^{R/beta}] > (1 - m0) E_notT[e^{R/beta}]. A mode's density is a product, along x and along y. */
  threshold(beta) {
    const { reward, steps } = this.grid(), side = 2 * steps + 1, { means } = this.truth;
    const tilt = reward.map((r) => Math.exp(r / beta) * (r >= this.height / 2 ? 1 : -1));
    const gains = this.weights.map((_, mode) => {
      const [gx, gy] = [0, 1].map((axis) => {
        const row = range(side, (i) => Math.exp(-0.5 * (((i - steps) * CELL - means[2 * mode + axis]) / SD) ** 2));
        const total = sum(row);
        return row.map((v) => v / total);
      });
      return tilt.reduce((gain, v, i) => gain + v * gx[Math.floor(i / side)] * gy[i % side], 0);
    });
    const rest = this.weights.map((w, mode) => (mode === this.target ? 0 : w));
    const outside = sum(rest.map((w, mode) => w * gains[mode])) / sum(rest);
    return outside >= 0 ? 0 : gains[this.target] <= 0 ? 1 : -outside / (gains[this.target] - outside);
  }
}
/** `mog.evaluate`: own are draws of the policy, true are draws of the truth. */
function evaluate(policy, problem, own, truths) {
  const rewards = problem.reward(own);
  return { reward: mean(rewards), share: problem.hits(rewards) / rewards.length,
    precision: mean(problem.truth.logProb(own)), recall: mean(policy.logProb(truths)) };
}

// Distilling: k-means++, Lloyd, EM from several starts -----------------------------------------------------------------
/** The M step: shares [n k] of points [2 n] -> mixture. */
function maximise(points, shares, k) {
  const mass = new Float64Array(k), first = new Float64Array(2 * k), second = first.slice();
  for (let i = 0; i < points.length / 2; i++) {
    for (let c = 0; c < k; c++) {
      const share = shares[i * k + c], x = points[2 * i], y = points[2 * i + 1];
      mass[c] += share;
      first[2 * c] += share * x; first[2 * c + 1] += share * y;
      second[2 * c] += share * x * x; second[2 * c + 1] += share * y * y;
    }
  }
  const held = mass.map((m) => Math.max(m, 1e-10)), total = sum(held), means = first.map((v, a) => v / held[a >> 1]);
  const variances = second.map((v, a) => Math.max(v / held[a >> 1] - means[a] ** 2, SIZES.floor));
  return new Mixture(held.map((m) => Math.log(m / total)), means, variances.map((v) => 0.5 * Math.log(v)));
}

function nearest(points, centres, k) {
  const shares = new Float64Array(points.length / 2 * k), away = new Float64Array(k);
  for (let i = 0; i < points.length / 2; i++) {
    let least = Infinity;
    for (let c = 0; c < k; c++) {
      const x = centres[2 * c], y = centres[2 * c + 1];
      least = Math.min(least, away[c] = x * x + y * y - 2 * (x * points[2 * i] + y * points[2 * i + 1]));
    }
    for (let c = 0; c < k; c++) shares[i * k + c] = +(away[c] === least);
  }
  return shares;
}
/** Hard shares [n k]: k-means++ (Arthur and Vassilvitskii 2007) from uniforms [k], then a few Lloyd steps. */
function* kmeans(points, uniforms) {
  const k = uniforms.length, n = points.length / 2, centres = new Float64Array(2 * k), edges = new Float64Array(n);
  let distance = new Float64Array(n).fill(1);
  for (let c = 0; c < k; c++) {
    for (let i = 0, total = 0; i < n; i++) edges[i] = total += distance[i];
    const goal = uniforms[c] * edges[n - 1], found = edges.findIndex((edge) => edge > goal);
    const [x, y] = points.subarray(2 * (found < 0 ? n - 1 : found));
    centres.set([x, y], 2 * c);
    const now = range(n, (i) => (points[2 * i] - x) ** 2 + (points[2 * i + 1] - y) ** 2);
    distance = c ? now.map((d, i) => Math.min(d, distance[i])) : now;
  }
  for (let step = 0; step < SIZES.lloyd; step++) {
    yield;
    const { means, logWeights } = maximise(points, nearest(points, centres, k), k);
    means.forEach((v, a) => { if (logWeights[a >> 1] > -15) centres[a] = v; }); // a centre without points stays
  }
  return nearest(points, centres, k);
}
/** The likeliest mixture over the starts, uniforms [start k]: all mixtures on its way, the last one the result. */
function* fit(points, uniforms, k) {
  let best = { likelihood: -Infinity };
  for (let start = 0; start < uniforms.length / k; start++) {
    const path = [maximise(points, yield* kmeans(points, uniforms.subarray(start * k, (start + 1) * k)), k)];
    for (let i = 0, before = -Infinity, going = true; i < SIZES.iterations && going; i++) {
      yield;
      const { logProb, shares } = path.at(-1).score(points), likelihood = mean(logProb); // a step of EM
      going = likelihood - before > SIZES.tolerance;
      path.push(maximise(points, shares, k));
      path.likelihood = before = likelihood;
    }
    if (path.likelihood > best.likelihood) best = path;
  }
  return best;
}
/** Draws of a sharpened teacher, and the path of a student of k components that is fitted to them (forward KL). */
function* distil(teacher, k, sharpening, noise, n = SIZES.teacher, from = "teacher", starts = "student starts") {
  const draws = yield* drawing(teacher.sharpen(sharpening), noise, from, n);
  const path = yield* fit(draws, yield* noise.uniform(starts, SIZES.restarts * k), k);
  return { draws, path, policy: path.at(-1) };
}
const fitBase = ({ truth }, noise) => distil(truth, SIZES.base, 1, noise, SIZES.training, "training draws", "base starts");

// Aligning: RLHF and DPO ----------------------------------------------------------------------------------------------
/** The policy gradient of R - beta log(policy / reference) on draws of the policy; the batch mean is the baseline. */
function rlhfGradient(policy, reference, points, problem, beta) {
  const { logProb, shares } = policy.score(points), held = reference.logProb(points), rewards = problem.reward(points);
  const shaped = rewards.map((r, i) => r - beta * (logProb[i] - held[i])), baseline = mean(shaped), n = shaped.length;
  return { gradient: policy.gradient(points, shares, shaped.map((r) => (r - baseline) / (n - 1))), hits: problem.hits(rewards) };
}
/** Minus the gradient of the mean of -log sigmoid(beta [Delta_policy - Delta_reference]) over pairs. */
function dpoGradient(policy, chosen, rejected, referenceMargin, beta) {
  const n = referenceMargin.length, points = Float64Array.of(...chosen, ...rejected), { logProb, shares } = policy.score(points);
  const weights = range(n, (i) => beta * sigmoid(-beta * (logProb[i] - logProb[n + i] - referenceMargin[i])) / n);
  return policy.gradient(points, shares, Float64Array.of(...weights, ...weights.map((w) => -w)));
}
/** Pairs of draws, labelled by Bradley-Terry; `informative` of them have exactly one point in the circle. */
function* samplePairs(sampler, problem, noise) {
  const n = SIZES.pairs, draws = yield* drawing(sampler, noise, "pairs", 2 * n), half = problem.height / 2;
  const rewards = problem.reward(draws), coins = yield* noise.uniform("labels", n);
  yield;
  const keep = coins.map((coin, i) => coin < sigmoid(rewards[i] - rewards[n + i]));
  return { chosen: range(2 * n, (a) => draws[keep[a >> 1] ? a : 2 * n + a]),
    rejected: range(2 * n, (a) => draws[keep[a >> 1] ? 2 * n + a : a]),
    informative: sum(coins.map((_, i) => rewards[i] >= half !== rewards[n + i] >= half)) };
}
/** Adam (Kingma and Ba 2015) uphill, with its usual constants. */
class Adam {
  constructor({ logWeights, means, logSds }) {
    this.parameters = [logWeights, means, logSds];
    [this.first, this.second] = [0, 1].map(() => this.parameters.map((p) => new Float64Array(p.length)));
    this.steps = 0;
  }
  step(gradients, rate) {
    const root = Math.sqrt(1 - 0.999 ** ++this.steps), scale = rate * root / (1 - 0.9 ** this.steps);
    this.first = this.first.map((first, p) => first.map((m, i) => 0.9 * m + 0.1 * gradients[p][i]));
    this.second = this.second.map((second, p) => second.map((v, i) => 0.999 * v + 0.001 * gradients[p][i] ** 2));
    this.parameters = this.parameters.map((parameter, p) => parameter.map((value, i) =>
      value + scale * this.first[p][i] / (Math.sqrt(this.second[p][i]) + 1e-8 * root)));
    const [logits, means, logSds] = this.parameters;
    return new Mixture(logSoftmax(logits), means, logSds);
  }
}
/** From the reference uphill: yields every policy on the way, with how many of how many draws (or pairs) hit. */
function* align(reference, problem, noise, algorithm, beta) {
  const { steps, batch, rate, pairs: count } = SIZES, ascent = new Adam(reference), onPolicy = algorithm === "rlhf";
  const uniforms = onPolicy && (yield* noise.uniform("rlhf", steps * batch));
  const normals = onPolicy && (yield* noise.normal("rlhf", 2 * steps * batch));
  const pairs = onPolicy || (yield* samplePairs(reference, problem, noise)), good = onPolicy || reference.logProb(pairs.chosen);
  yield;
  const bad = onPolicy || reference.logProb(pairs.rejected);
  yield;
  let policy = reference, hits = onPolicy ? 0 : pairs.informative, gradient;
  for (let step = 0; step < steps; step++) {
    if (onPolicy) {
      const [from, to] = [step * batch, (step + 1) * batch];
      const points = policy.draw(uniforms.subarray(from, to), normals.subarray(2 * from, 2 * to));
      const found = rlhfGradient(policy, reference, points, problem, beta);
      ({ gradient } = found);
      hits += found.hits;
    } else {
      const here = range(batch, (i) => (i + step * batch) % count), pick = (points) => range(2 * batch, (a) => points[2 * here[a >> 1] + a % 2]);
      gradient = dpoGradient(policy, pick(pairs.chosen), pick(pairs.rejected), here.map((i) => good[i] - bad[i]), beta);
    }
    policy = ascent.step(gradient, rate * (1 - step / steps));
    yield { policy, hits, of: onPolicy ? (step + 1) * batch : count };
  }
}

// Both orders, as frames to be shown ----------------------------------------------------------------------------------
const ORDERS = {
  ka: { name: "distil, then align", short: "K-A", stages: ["distil", "align"], past: ["distilled", "distilled, then aligned"] },
  ak: { name: "align, then distil", short: "A-K", stages: ["align", "distil"], past: ["aligned", "aligned, then distilled"] },
};
const START = { weights: [0.33, 0.33, 0.3, 0.04], means: [[-1.5, 1.5], [1.5, 1.5], [-1.5, -1.5], [1.5, -1.5]], target: 3,
  sharpening: 2, beta: 0.5, height: 4, components: 3, algorithm: "rlhf", seed: 1 };
/** The components in the order of the truth's modes that they lie nearest to: points then keep their places. */
function arranged({ k, means }, { truth }) {
  const away = (c, m) => Math.hypot(means[2 * c] - truth.means[2 * m], means[2 * c + 1] - truth.means[2 * m + 1]);
  const home = [...range(k, (c) => [0, 1, 2, 3].reduce((best, m) => (away(c, m) < away(c, best) ? m : best), 0))];
  return [...range(k, (c) => c)].sort((a, b) => home[a] - home[b] || a - b);
}
const blend = (one, other, t) => new Mixture(...["logWeights", "means", "logSds"].map((name) =>
  one[name].map((value, i) => value + t * (other[name][i] - value))));
/** Runs an order from the base. Each frame has the policy, rings to draw, a note, and metrics on the same noise. */
function* runOrder(name, base, problem, settings, noise) {
  const { beta, sharpening, components: k, algorithm } = settings, { curve: n, evaluation } = SIZES, run = { name, stages: [] };
  const uniforms = range(n, (i) => (i + 0.5) / n), normals = yield* noise.normal("curve", 2 * n); // every component's share is exact
  const truths = problem.truth.draw(uniforms, normals), own = (policy) => policy.draw(uniforms, normals);
  const frame = (policy, note) => ({ policy, rings: policy, note, order, ...evaluate(policy, problem, own(policy), truths) });
  let policy = base, order = arranged(base, problem);
  for (const kind of ORDERS[name].stages) {
    const frames = [], stage = run[kind] = { frames, ...problem.onPaper(policy, beta) };
    if (kind === "distil") {
      for (let i = 0; i <= 12; i++) {
        frames.push(frame(policy.sharpen(1 + (sharpening - 1) * i / 12), `weights to the power ${sharpening}`));
        yield;
      }
      const last = frames[12], { draws, path, policy: student } = yield* distil(policy, k, sharpening, noise);
      const blank = new Mixture(path[0].logWeights, new Float64Array(2 * k), new Float64Array(2 * k));
      yield;
      Object.assign(stage, { hits: problem.hits(problem.reward(draws)), sharp: problem.onPaper(last.policy, beta).share });
      for (let i = 0; i <= 24; i++) {
        const rings = i < 12 ? blend(blank, path[0], i / 12) : path[Math.round((i - 12) / 12 * (path.length - 1))];
        frames.push({ ...last, note: `${k} ${k > 1 ? "rings fit" : "ring fits"} 1,000 draws`, rings });
      }
      [policy, order] = [student, arranged(student, problem)];
      frames.push(...Array(8).fill(frame(policy, "the student speaks")));
    } else {
      frames.push(frame(policy, ""));
      let step = 0;
      for (const found of align(policy, problem, noise, algorithm, beta)) {
        yield;
        if (!found) continue;
        ({ policy, hits: stage.hits } = found);
        const hits = `${count(found.hits)} of ${count(found.of)} ${algorithm === "rlhf" ? "draws" : "pairs"} hit`;
        if (++step % 4 === 0) frames.push(frame(policy, `step ${step} of ${SIZES.steps}, ${hits}`));
      }
    }
    yield;
    run.stages.push(Object.assign(stage, { after: problem.onPaper(policy, beta).share, holds: nearTarget(policy, problem) }));
  }
  const draws = yield* drawing(policy, noise, "evaluation", evaluation);
  yield;
  const fresh = yield* drawing(problem.truth, noise, "evaluation of recall", evaluation);
  return { ...run, metrics: Object.assign(run.stages[1].frames.at(-1), evaluate(policy, problem, draws, fresh)) };
}
/** Whether a component of the policy has its mean in the circle. */
const nearTarget = ({ k, means }, { x, y }) =>
  range(k, (c) => Math.hypot(means[2 * c] - x, means[2 * c + 1] - y)).some((away) => away < RADIUS);
/** The base, which is yielded as a frame, and both orders, one after the other. */
function* runBoth(settings, noise) {
  const problem = new Problem(settings), { draws, policy } = yield* fitBase(problem, noise), { share } = problem.onPaper(policy, 1);
  yield { share, policy, order: arranged(policy, problem), rings: policy, note: "" };
  const done = { settings, baseHits: problem.hits(problem.reward(draws)), baseHolds: nearTarget(policy, problem) };
  for (const name of ["ka", "ak"]) done[name] = yield* runOrder(name, policy, problem, settings, noise);
  return { ...done, threshold: problem.threshold(settings.beta) * IN_CIRCLE };
}
const finish = (work) => { let step; do step = work.next(); while (!step.done); return step.value; };

// What happened, and why ----------------------------------------------------------------------------------------------
const count = (n) => Math.round(n).toLocaleString("en-US"), times = (share) => count(+(1 / share).toPrecision(2));
const figure = (value) => value.toFixed(Math.abs(value) < 10 ? 2 : 0).replace("-", "−");
function percent(share) {
  if (share < 0.0005) return share > 1e-9 ? `1 in ${times(share)}` : "0 %";
  return share < 0.9995 ? `${+(100 * share).toPrecision(2)} %` : "100 %";
}
/** The cause of an order's outcome, whose sentence the template holds, and the figures to put into it. */
function explain({ name, distil, align, metrics }, { settings, ak, baseHits, baseHolds }) {
  const first = name === "ka", dpo = settings.algorithm === "dpo", flat = settings.sharpening < 1;
  const rose = flat && align.share > ak.align.share, fell = flat && metrics.share < align.after, pays = align.best >= 0.5;
  const figures = { share: percent(align.share), after: percent(align.after), final: percent(metrics.share), best: percent(align.best),
    teller: settings.sharpening > 1 ? "Sharpened, the teacher" : "The teacher", once: times(distil.sharp), teacher: distil.hits, base: baseHits, hits: count(align.hits),
    who: first ? "the student" : "the base", drew: dpo ? `${count(align.hits)} of 8,000 pairs told the circle from the rest`
      : `of the 51,200 points drawn while aligning, ${count(align.hits)} fell into the circle`, ...settings };
  const cause = metrics.share >= 0.5
    ? first ? (rose ? "kept-flat" : pays ? "kept" : "found") : fell ? "copied-flat" : pays && align.after >= 0.5 ? "copied" : "found"
    : !first && align.after >= 0.5 ? "diluted"
    : !baseHolds && baseHits < 8 ? "base"
    : dpo && align.hits > 50 && metrics.precision < -5 ? "overshot"
    : first && !distil.hits ? "unseen"
    : first && !distil.holds && align.hits < 50 && metrics.share < 0.02 ? "lost"
    : align.hits < 5 ? "undrawn"
    : !pays ? "threshold" : "halfway";
  return { cause, figures };
}
/** Who earns more, in words. */
function verdict({ ka, ak, settings }) {
  const [k, a] = [ka, ak].map((run) => run.metrics.reward), rewards = `(A-K ${figure(a)}, K-A ${figure(k)} of ${settings.height})`;
  const close = 0.05 * settings.height, same = Math.max(a, k) < close ? "Neither order earns much" : "Both orders earn about the same";
  if (Math.abs(a - k) < close) return `${same} ${rewards}: the claim fails.`;
  return a > k ? `Aligning first earns more ${rewards}.` : `Distilling first earns more ${rewards}: the claim fails.`;
}

// View ----------------------------------------------------------------------------------------------------------------
const DOTS = 420, STAGE_MS = 2600, BUDGET_MS = 7, REACH = 2.95;
const SLIDERS = { share: Math.log10, beta: Math.log10 }; // sliders that run over a logarithm
/** The whole state as a link's end. */
const encode = (state) => "#playground?" + Object.entries(state).map(([key, value]) =>
  `${key}=${Array.isArray(value) ? value.flat().map((v) => +v.toPrecision(8)).join("_") : value}`).join("&");

function mount(root) {
  const $ = (query) => root.querySelector(query), $$ = (query) => [...root.querySelectorAll(query)];
  const reduced = matchMedia("(prefers-reduced-motion: reduce)"), names = Object.keys(ORDERS), noise = new Map();
  const scenes = $$(".pg-scenes button"), bumps = $$(".pg-bump");
  const uniforms = range(DOTS, (i) => (i + 0.5) / DOTS), normals = finish(seededNoise(7).normal("dots", 2 * DOTS));
  const heads = { ka: 0, ak: 0 }, goals = { ka: 0, ak: 0 }, dots = { ka: null, ak: null };
  let state, done, work, before, chosen, asleep = true, timer, early, told;
  Object.assign(root, { times: [], open, result: () => (work ? null : done) }).dataset.live = "";
  // State
  const inside = (v) => Math.min(2.3, Math.max(-2.3, +v.toFixed(3))), read = ({ dataset: { key }, value }) =>
    (key === "algorithm" ? value : +(SLIDERS[key] ? 10 ** value : +value).toPrecision(3));
  /** From a link's end or a scene's name; what is missing or senseless stays as it is by default. */
  function open(text) {
    const scene = scenes.find((button) => button.value === text);
    const query = new URLSearchParams(scene ? scene.dataset.state : text.split("?")[1] || "");
    const numbers = (key) => (query.get(key) || "").split("_").map(parseFloat).filter(Number.isFinite);
    const [weights, means, [target], [stage]] = ["weights", "means", "target", "stage"].map(numbers);
    state = { ...START, stage: Math.min(2, Math.max(0, stage | 0)), scene: scene ? text : query.get("scene") || "" };
    for (const input of $$("[data-key]")) { // a control refuses what it cannot hold
      const key = input.dataset.key, value = query.get(key);
      if (key === "share" || !value) continue;
      input.value = SLIDERS[key] ? SLIDERS[key](value) : value;
      if (input.value) state[key] = read(input);
    }
    if (weights.length === 4 && weights.every((w) => w > 0)) state.weights = weights.map((w) => w / sum(weights));
    if (means.length === 8) state.means = [0, 2, 4, 6].map((i) => means.slice(i, i + 2).map(inside));
    if (START.means[target]) state.target = target;
    chosen = state.target;
    done = early = null;
    for (const name of names) { heads[name] = goals[name] = state.stage; dots[name] = null; }
    rerun();
  }
  /** Everything that follows from the settings, anew; where the eye is in time stays. */
  function rerun() {
    if (!noise.has(state.seed)) { noise.clear(); noise.set(state.seed, seededNoise(state.seed)); }
    work = runBoth({ ...state }, noise.get(state.seed));
    refresh();
  }
  function refresh() {
    for (const input of $$("[data-key]")) {
      const key = input.dataset.key, value = key === "share" ? state.weights[chosen] : state[key];
      input.value = SLIDERS[key] ? SLIDERS[key](value) : value;
      const output = input.parentNode.querySelector("output");
      if (output) output.textContent = key === "share" ? percent(value) : +value.toPrecision(2);
      if (output) input.setAttribute("aria-valuetext", output.textContent);
    }
    $("[data-of]").textContent = chosen === state.target ? "the rewarded bump" : `bump ${chosen + 1}`;
    $("[data-do=reward]").hidden = chosen === state.target;
    $("[data-do=link]").textContent = "copy link"; // what was copied is no longer what is seen
    $(".pg-ask").textContent = "A world of your own. What will each order make of it?";
    for (const scene of scenes) {
      scene.setAttribute("aria-pressed", scene.value === state.scene);
      if (scene.value === state.scene) $(".pg-ask").textContent = scene.dataset.ask;
    }
    bumps.forEach((bump, i) => {
      const [x, y] = state.means[i].map((v) => v.toFixed(1)), share = percent(state.weights[i]), pays = i === state.target;
      bump.classList.toggle("pays", pays);
      bump.classList.toggle("chosen", i === chosen);
      bump.firstChild.textContent = share + (pays ? ` · pays ${state.height}` : "");
      bump.setAttribute("aria-label", `${bump.firstChild.textContent}: bump ${i + 1}, at ${x}, ${y}. ` +
        "Arrow keys move it, plus and minus change its share, R puts the reward here.");
    });
    told = null;
    wake();
  }
  function keep() { // once somebody has touched it: the page may have an address of its own
    clearTimeout(timer);
    timer = setTimeout(() => { try { history.replaceState(null, "", encode(state)); } catch { /* a frame without address */ } }, 400);
  }
  function change(key, value) {
    if (key === "share") {
      const now = state.weights[chosen], share = Math.min(0.9, Math.max(0.002, value));
      state.weights = state.weights.map((w, i) => (i === chosen ? share : w * (1 - share) / (1 - now)));
    } else if (key === "mean") state.means = state.means.map((m, i) => (i === chosen ? value.map(inside) : m));
    else state[key] = value;
    state.scene = "";
    rerun();
    keep();
  }
  /** Where the eyes of these orders go: there at once, or by playing, from the base where they have arrived. */
  function go(goal, orders = names, atOnce = false) {
    for (const name of orders) [heads[name], goals[name]] = [atOnce ? goal : heads[name] < goal ? heads[name] : 0, goal];
    state.stage = Math.floor(Math.min(goals.ka, goals.ak));
    keep();
    wake();
  }
  // Drawing
  const colours = () => Object.fromEntries(["ink", "quiet", "bump", "ka", "ak"].map((name) =>
    [name, getComputedStyle(root).getPropertyValue(`--pg-${name}`).trim()]));
  function canvas(element, paint) {
    const ratio = Math.min(2, devicePixelRatio || 1), { clientWidth: w, clientHeight: h } = element;
    const [width, height] = [w, h].map((side) => Math.round(side * ratio)), pen = element.getContext("2d");
    if (element.width !== width || element.height !== height) Object.assign(element, { width, height });
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, w, h);
    if (w) paint(pen, w, h);
  }
  function plane(pen, w, h, colour, { points, rings, glow }) {
    const scale = Math.min(w, h) / 2 / REACH, px = (x) => w / 2 + x * scale, py = (y) => h / 2 - y * scale, paint = colours();
    state.means.forEach(([x, y], i) => {
      const light = pen.createRadialGradient(px(x), py(y), 0, px(x), py(y), 3 * SD * scale);
      light.addColorStop(0, paint.bump); light.addColorStop(1, `${paint.bump}00`);
      pen.globalAlpha = glow * Math.min(1, 0.12 + Math.sqrt(state.weights[i]));
      pen.fillStyle = light;
      pen.fillRect(0, 0, w, h);
    });
    const [x, y] = state.means[state.target], inside = (i) => Math.hypot(points[2 * i] - x, points[2 * i + 1] - y) <= RADIUS;
    const within = (v, most) => Math.min(most - 4, Math.max(4, v)); // a point that left the picture waits at its edge
    for (const [on, size, alpha] of [[false, 1.5, 0.5], [true, 2.3, 0.95]]) {
      pen.fillStyle = on ? colour : paint.quiet;
      pen.globalAlpha = alpha;
      pen.beginPath();
      for (let i = 0; points && i < DOTS; i++) {
        if (inside(i) !== on) continue;
        const dx = within(px(points[2 * i]), w), dy = within(py(points[2 * i + 1]), h);
        pen.moveTo(dx + size, dy);
        pen.arc(dx, dy, size, 0, 7);
      }
      pen.fill();
    }
    const ring = (cx, cy, rx, ry, width, alpha) => {
      pen.lineWidth = width; pen.globalAlpha = alpha;
      pen.beginPath(); pen.ellipse(px(cx), py(cy), rx * scale, ry * scale, 0, 0, 7); pen.stroke();
    };
    pen.strokeStyle = colour;
    for (let c = 0; rings && c < rings.k; c++) {
      const weight = Math.min(1, 0.15 + 3 * Math.exp(rings.logWeights[c])), [sx, sy] = rings.logSds.slice(2 * c).map(Math.exp);
      for (const sds of [1, 2]) ring(rings.means[2 * c], rings.means[2 * c + 1], sds * sx, sds * sy, 2.6 - 0.7 * sds, weight * (1.4 - 0.5 * sds));
    }
    pen.strokeStyle = paint.ink;
    pen.setLineDash([5, 4]);
    ring(x, y, RADIUS, RADIUS, 1.6, 1);
    pen.setLineDash([]);
  }
  function at({ stages }, head) { // the frame at a time between 0 and 2
    const { frames } = stages[head < 1 ? 0 : 1];
    return frames[Math.round((head - (head < 1 ? 0 : 1)) * (frames.length - 1))];
  }
  /** The template has a curve's axes: time t and height v from 0 to 1 lie at: */
  const place = (t, v) => [42 + 90 * t, 80 - 72 * Math.min(1, Math.max(0, v))];
  function curve(key, height, write) {
    const figure = $(`[data-curve=${key}]`), ends = names.map((name) => {
      const [path, dot, text] = ["path", "circle", "text"].map((part) => figure.querySelector(`${part}.${name}`)), head = heads[name];
      const value = (t) => at(done[name], t)[key], [x, y] = place(head, height(value(head)));
      const line = [...range(Math.round(head * 60), (i) => i / 60), head].map((t) => place(t, height(value(t))).map((v) => v.toFixed(1)));
      path.setAttribute("d", `M${line.join("L")}`);
      dot.setAttribute("cx", x); dot.setAttribute("cy", y);
      text.textContent = write(value(head));
      return { text, x: x + 7, y: y + 4 };
    });
    const [one, other] = ends, gap = Math.abs(one.x - other.x) < 46 ? Math.max(0, 12 - Math.abs(one.y - other.y)) : 0;
    const shift = (one.y > other.y ? 1 : -1) * gap / 2;
    one.y += shift; other.y -= shift;
    for (const { text, x, y } of ends) { text.setAttribute("x", x); text.setAttribute("y", Math.min(84, y)); }
    figure.setAttribute("aria-label", `${key}: ${names.map((name, i) => `${ORDERS[name].short} ${ends[i].text.textContent}`).join(", ")}`);
  }
  /** Where the model that is aligned shows the target, on a scale of what that is good for. */
  function ruler() {
    const along = (share) => 100 * Math.min(1, Math.max(0, 1 + Math.log10(share) / 6)), pays = done.threshold;
    const seen = Math.min(pays, 1 / (state.algorithm === "rlhf" ? 51200 : 16000)), ends = [seen, pays, 1].map(along);
    $$(".pg-zones span").forEach((zone, i) => { zone.style.width = `${ends[i] - (ends[i - 1] ?? 0)}%`; });
    for (const name of names) {
      const mark = $(`.pg-marks .${name}`), x = along(done[name].align.share);
      mark.style.left = `${x}%`;
      mark.classList.toggle("left", x > 50);
      mark.hidden = name === "ka" && heads.ka < 1;
      mark.firstChild.textContent = `${name === "ka" ? "K-A aligns the student" : "A-K aligns the base"}: ${percent(done[name].align.share)}`;
    }
  }
  function draw(elapsed) {
    const paint = colours(), truth = new Problem(state).truth;
    canvas($(".pg-world canvas"), (pen, w, h) => {
      const scale = Math.min(w, h) / 2 / REACH;
      state.means.forEach(([x, y], i) => {
        Object.assign(bumps[i].style, { left: `${w / 2 + x * scale}px`, top: `${h / 2 - y * scale}px` });
      });
      plane(pen, w, h, paint.ink, { points: truth.draw(uniforms, normals), glow: 1 });
    });
    for (const name of names) {
      const frame = done ? at(done[name], heads[name]) : early;
      if (frame) {
        const { policy, order } = frame, pick = (list) => order.flatMap((c) => [list[2 * c], list[2 * c + 1]]);
        const goal = new Mixture(order.map((c) => policy.logWeights[c]), pick(policy.means), pick(policy.logSds)).draw(uniforms, normals);
        const pace = dots[name] && !reduced.matches ? 1 - Math.exp(-elapsed / 110) : 1;
        dots[name] = goal.map((v, i) => (dots[name] ? dots[name][i] + pace * (v - dots[name][i]) : v));
        asleep &&= dots[name].every((v, i) => Math.abs(v - goal[i]) < 0.004);
      }
      const element = $(`[data-order=${name}] canvas`), share = frame ? percent(frame.share) : "";
      canvas(element, (pen, w, h) => plane(pen, w, h, paint[name], { points: dots[name], rings: frame?.rings, glow: 0.6 }));
      $(`[data-order=${name}] output`).textContent = share;
      const { stages, past } = ORDERS[name], head = heads[name], doing = { distil: "distilling", align: "aligning" }[stages[Math.floor(head)]];
      const note = !frame ? "the base learns the bumps" : !head || !done ? "the base" : past[head - 1] ?? `${doing}: ${frame.note}`;
      $(`[data-order=${name}] .pg-note`).textContent = note;
      element.setAttribute("aria-label", `${ORDERS[name].name}: ${note}; target share ${share}`);
    }
    if (!done) return;
    curve("share", (v) => v, (v) => `${Math.round(100 * v)} %`);
    curve("reward", (v) => v / done.settings.height, (v) => figure(v));
    curve("recall", (v) => 1 - Math.log10(Math.max(1, -v)) / 2.6, (v) => figure(v));
    $$("[data-curve=reward] [text-anchor=end]").forEach((tick, i) => { tick.textContent = done.settings.height * [1, 0.5, 0][i]; });
    ruler();
  }
  /** Below the planes: what came out and why, as far as the eye has come. */
  function tell() {
    const seen = done ? Math.floor(Math.min(heads.ka, heads.ak)) : goals.ka + goals.ak ? "waits" : 0, over = seen === 2;
    if (told === seen) return;
    told = seen;
    $(".pg-verdict").classList.toggle("over", over);
    $(".pg-verdict h3").textContent = over ? verdict(done) : $(`[data-told="${seen}"]`).innerHTML;
    for (const name of over ? names : []) {
      const { cause, figures } = explain(done[name], done), { title, innerHTML } = $(`template[data-cause=${cause}]`), { recall } = done[name].metrics;
      const why = innerHTML.replace(/\{(\w+)\}/g, (_, key) => figures[key]);
      $(`.pg-verdict .${name} b`).textContent = title;
      $(`.pg-verdict .${name} span`).textContent = why[0].toUpperCase() + why.slice(1) +
        (recall < -8 ? ` The price: it has forgotten the rest, recall ${figure(recall)}.` : "");
    }
  }
  // Frames
  function wake() { if (asleep) { asleep = false; before = 0; requestAnimationFrame(frame); } }
  function frame(now) {
    const began = performance.now(), elapsed = before ? Math.min(50, now - before) : 16;
    before = now;
    asleep = !work;
    for (const name of done ? names : []) {
      if (heads[name] < goals[name]) heads[name] = reduced.matches ? goals[name] : Math.min(goals[name], heads[name] + elapsed / STAGE_MS);
      asleep &&= heads[name] === goals[name];
    }
    $("[data-do=time]").value = Math.max(heads.ka, heads.ak);
    tell();
    root.classList.toggle("busy", Boolean(work));
    draw(elapsed);
    while (work && performance.now() - began < BUDGET_MS) {
      const step = work.next();
      if (step.done) { [done, work, told] = [step.value, null, null]; asleep = false; }
      else if (step.value) early = step.value;
    }
    root.times.push(performance.now() - began);
    if (!asleep) requestAnimationFrame(frame);
  }
  // Events
  bumps.forEach((bump, i) => {
    const choose = () => { chosen = i; refresh(); };
    bump.addEventListener("focus", choose);
    bump.addEventListener("pointerdown", (event) => { bump.setPointerCapture(event.pointerId); choose(); });
    bump.addEventListener("pointermove", (event) => {
      const box = $(".pg-field canvas").getBoundingClientRect(), scale = Math.min(box.width, box.height) / 2 / REACH;
      if (bump.hasPointerCapture(event.pointerId)) change("mean", [(event.clientX - box.left - box.width / 2) / scale,
        (box.top + box.height / 2 - event.clientY) / scale]);
    });
    bump.addEventListener("keydown", (event) => {
      const { key, ctrlKey, metaKey, altKey } = event;
      if (ctrlKey || metaKey || altKey) return; // the browser's own: reload, zoom, back
      const move = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] }[key];
      if (move) change("mean", state.means[i].map((v, axis) => v + move[axis]));
      else if ("+=-".includes(key)) change("share", state.weights[i] * (key === "-" ? 0.8 : 1.25));
      else if ("rR".includes(key)) change("target", i);
      else return;
      event.preventDefault();
    });
  });
  for (const input of $$("[data-key]")) input.addEventListener("input", () => {
    if (input.value && input.checkValidity()) change(input.dataset.key, read(input));
  });
  for (const button of scenes) button.addEventListener("click", () => { open(button.value); keep(); });
  const actions = {
    run: () => go(2), ka: () => go(2, ["ka"]), ak: () => go(2, ["ak"]), once: () => go(2, names, true), back: () => go(0, names, true),
    step: () => go(Math.floor(Math.min(heads.ka, heads.ak)) % 2 + 1),
    reward: () => change("target", chosen), seed: () => change("seed", state.seed % 999 + 1),
    link: async ({ target: button }) => {
      const link = location.protocol === "about:" ? `course.playground.show("${encode(state)}")` : location.href.split("#")[0] + encode(state);
      try { await navigator.clipboard.writeText(link); button.textContent = "copied"; } catch { prompt("A link to all that you see", link); }
    },
  };
  for (const [name, act] of Object.entries(actions)) $(`[data-do=${name}]`).addEventListener("click", act);
  $("[data-do=time]").addEventListener("input", ({ target }) => go(+target.value, names, true));
  addEventListener("hashchange", () => { if (location.hash.startsWith("#playground?")) open(location.hash); });
  new ResizeObserver(wake).observe(root);
  open(location.hash.startsWith("#playground?") ? location.hash : root.dataset.open || "rare");
}

globalThis.alignkdPlayground = { Mixture, Problem, seededNoise, finish, evaluate, fitBase, distil, align, runBoth, explain };
for (const root of globalThis.document?.querySelectorAll(".pg:not([data-live])") ?? []) mount(root);
})();
