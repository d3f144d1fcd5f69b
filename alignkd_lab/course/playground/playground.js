/* Empty the circle: both orders of distilling and aligning on four Gaussian bumps, in a browser.

The first half is the Gaussian world of `alignkd_lab.mog` once more, with its sizes, steps and learning rates: mixtures,
EM, RLHF by policy gradient, DPO, closed forms. `tests/test_playground.py` holds it equal to `mog` in Chromium. The
second half draws it. Work is a generator that yields often, so that no frame computes longer than a few milliseconds.

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
  constructor(logWeights, means, logSds) {
    this.logWeights = Float64Array.from(logWeights);
    this.means = Float64Array.from(means);
    this.logSds = Float64Array.from(logSds);
    this.k = this.logWeights.length;
  }
  get weights() { return this.logWeights.map(Math.exp); }

  /** Log-densities [n] of points [2 n], and each component's share of each point, [n k]. */
  score(points) {
    const { k, means, logWeights, logSds } = this, n = points.length / 2;
    const precision = logSds.map((s) => Math.exp(-2 * s));
    const constant = logWeights.map((w, c) => w - logSds[2 * c] - logSds[2 * c + 1] - LOG_2PI);
    const logProb = new Float64Array(n), shares = new Float64Array(n * k);
    for (let i = 0; i < n; i++) {
      let best = -Infinity, sum = 0;
      for (let c = 0; c < k; c++) {
        const dx = points[2 * i] - means[2 * c], dy = points[2 * i + 1] - means[2 * c + 1];
        const joint = constant[c] - 0.5 * (dx * dx * precision[2 * c] + dy * dy * precision[2 * c + 1]);
        shares[i * k + c] = joint;
        if (joint > best) best = joint;
      }
      for (let c = 0; c < k; c++) sum += shares[i * k + c] = Math.exp(shares[i * k + c] - best);
      for (let c = 0; c < k; c++) shares[i * k + c] /= sum;
      logProb[i] = best + Math.log(sum);
    }
    return { logProb, shares };
  }
  logProb(points) { return this.score(points).logProb; }

  /** Draws from given noise: uniforms [n] pick the components, normals [2 n] place the points in them. */
  draw(uniforms, normals) {
    const edges = this.weights, points = new Float64Array(normals.length), sds = this.logSds.map(Math.exp);
    for (let c = 1; c < this.k; c++) edges[c] += edges[c - 1];
    for (let i = 0; i < uniforms.length; i++) {
      let c = 0;
      while (c < this.k - 1 && edges[c] <= uniforms[i]) c++;
      points[2 * i] = this.means[2 * c] + sds[2 * c] * normals[2 * i];
      points[2 * i + 1] = this.means[2 * c + 1] + sds[2 * c + 1] * normals[2 * i + 1];
    }
    return points;
  }

  /** Weights to the power s, normalised; with s > 1 what is rare gets rarer (KD-MWE). */
  sharpen(s) { return new Mixture(logSoftmax(this.logWeights.map((w) => s * w)), this.means, this.logSds); }

  /** Gradient of sum_n c_n log p(x_n) in (logits, means, logSds), from the shares that `score` returned. */
  gradient(points, shares, coefficients) {
    const { k, means, logSds } = this, weights = this.weights;
    const toLogits = new Float64Array(k), toMeans = new Float64Array(2 * k), toSds = new Float64Array(2 * k);
    let total = 0;
    for (let i = 0; i < coefficients.length; i++) {
      total += coefficients[i];
      for (let c = 0; c < k; c++) {
        const share = shares[i * k + c] * coefficients[i];
        toLogits[c] += share;
        for (let a = 2 * c; a < 2 * c + 2; a++) {
          const d = points[2 * i + a - 2 * c] - means[a];
          toMeans[a] += share * d;
          toSds[a] += share * d * d;
        }
      }
    }
    for (let a = 0; a < 2 * k; a++) {
      const precision = Math.exp(-2 * logSds[a]);
      toMeans[a] *= precision;
      toSds[a] = toSds[a] * precision - toLogits[a >> 1];
    }
    for (let c = 0; c < k; c++) toLogits[c] -= weights[c] * total;
    return [toLogits, toMeans, toSds];
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
function* drawing(mixture, noise, purpose, n) {
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
    const rewards = new Float64Array(points.length / 2);
    for (let i = 0; i < rewards.length; i++) {
      const dx = points[2 * i] - this.x, dy = points[2 * i + 1] - this.y;
      rewards[i] = this.height * Math.exp(-(dx * dx + dy * dy) / (2 * WIDTH * WIDTH));
    }
    return rewards;
  }
  hits(rewards) { return rewards.reduce((sum, r) => sum + (r >= this.height / 2), 0); }

  /** Cells that cover the truth evenly: points [2 n], and their reward. */
  grid() {
    if (!this.cells) {
      const steps = Math.ceil((Math.max(...this.truth.means.map(Math.abs)) + 8 * SD) / CELL), points = [];
      for (let i = -steps; i <= steps; i++) for (let j = -steps; j <= steps; j++) points.push(i * CELL, j * CELL);
      this.cells = { points: Float64Array.from(points), steps };
      this.cells.reward = this.reward(this.cells.points);
    }
    return this.cells;
  }

  /** A policy's mass on the target, and that of its tilted optimum, policy exp(R / beta), normalised (Order). */
  onPaper(policy, beta) {
    const { points, reward } = this.grid(), { logProb } = policy.score(points);
    let all = 0, inside = 0, tiltAll = 0, tiltInside = 0;
    for (let i = 0; i < reward.length; i++) {
      const p = Math.exp(logProb[i]), tilted = p * Math.exp(reward[i] / beta), on = reward[i] >= this.height / 2;
      all += p; tiltAll += tilted;
      if (on) { inside += p; tiltInside += tilted; }
    }
    return { share: inside / all, best: tiltInside / tiltAll };
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
    return -outside / (gains[this.target] - outside);
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
  const mass = new Float64Array(k), first = new Float64Array(2 * k), second = new Float64Array(2 * k);
  for (let i = 0; i < points.length / 2; i++) {
    for (let c = 0; c < k; c++) {
      const share = shares[i * k + c], x = points[2 * i], y = points[2 * i + 1];
      mass[c] += share;
      first[2 * c] += share * x; first[2 * c + 1] += share * y;
      second[2 * c] += share * x * x; second[2 * c + 1] += share * y * y;
    }
  }
  const held = mass.map((m) => Math.max(m, 1e-10)), total = sum(held);
  const means = first.map((v, a) => v / held[a >> 1]);
  const variances = second.map((v, a) => Math.max(v / held[a >> 1] - means[a] ** 2, SIZES.floor));
  return new Mixture(held.map((m) => Math.log(m / total)), means, variances.map((v) => 0.5 * Math.log(v)));
}

function nearest(points, centres, k) {
  const shares = new Float64Array(points.length / 2 * k), distance = new Float64Array(k);
  for (let i = 0; i < points.length / 2; i++) {
    for (let c = 0; c < k; c++) {
      const [x, y] = [centres[2 * c], centres[2 * c + 1]];
      distance[c] = x * x + y * y - 2 * (x * points[2 * i] + y * points[2 * i + 1]);
    }
    const least = Math.min(...distance);
    for (let c = 0; c < k; c++) shares[i * k + c] = distance[c] === least ? 1 : 0;
  }
  return shares;
}

/** Hard shares [n k]: k-means++ (Arthur and Vassilvitskii 2007) from uniforms [k], then a few Lloyd steps. */
function kmeans(points, uniforms) {
  const k = uniforms.length, n = points.length / 2, centres = new Float64Array(2 * k), edges = new Float64Array(n);
  let distance = new Float64Array(n).fill(1);
  for (let c = 0; c < k; c++) {
    for (let i = 0, sum = 0; i < n; i++) edges[i] = sum += distance[i];
    const goal = uniforms[c] * edges[n - 1], found = edges.findIndex((edge) => edge > goal);
    const [x, y] = points.subarray(2 * (found < 0 ? n - 1 : found));
    centres.set([x, y], 2 * c);
    distance = distance.map((d, i) => {
      const now = (points[2 * i] - x) ** 2 + (points[2 * i + 1] - y) ** 2;
      return c ? Math.min(d, now) : now;
    });
  }
  for (let step = 0; step < SIZES.lloyd; step++) {
    const shares = nearest(points, centres, k);
    for (let c = 0; c < k; c++) {
      let mass = 0, x = 0, y = 0;
      for (let i = 0; i < n; i++) if (shares[i * k + c]) { mass++; x += points[2 * i]; y += points[2 * i + 1]; }
      if (mass) centres.set([x / mass, y / mass], 2 * c);
    }
  }
  return nearest(points, centres, k);
}

/** One step of EM: the mean log-likelihood per point before it, and the mixture after it. */
function emStep(mixture, points) {
  const { logProb, shares } = mixture.score(points);
  return { likelihood: mean(logProb), mixture: maximise(points, shares, mixture.k) };
}

/** The likeliest mixture over the starts, uniforms [start k]: all mixtures on its way, the last one the result. */
function* fit(points, uniforms, k) {
  let best = { likelihood: -Infinity };
  for (let start = 0; start < uniforms.length / k; start++) {
    let likelihood = -Infinity;
    const path = [maximise(points, kmeans(points, uniforms.subarray(start * k, (start + 1) * k)), k)];
    for (let i = 0, going = true; i < SIZES.iterations && going; i++) {
      yield;
      const step = emStep(path[path.length - 1], points);
      going = step.likelihood - likelihood > SIZES.tolerance;
      likelihood = step.likelihood;
      path.push(step.mixture);
    }
    if (likelihood > best.likelihood) best = { likelihood, path };
  }
  return best.path;
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
  const shaped = rewards.map((r, i) => r - beta * (logProb[i] - held[i])), baseline = mean(shaped);
  const gradient = policy.gradient(points, shares, shaped.map((r) => (r - baseline) / (shaped.length - 1)));
  return { gradient, hits: problem.hits(rewards) };
}

/** Minus the gradient of the mean of -log sigmoid(beta [Delta_policy - Delta_reference]) over pairs. */
function dpoGradient(policy, chosen, rejected, referenceMargin, beta) {
  const n = referenceMargin.length, points = new Float64Array(4 * n), coefficients = new Float64Array(2 * n);
  points.set(chosen); points.set(rejected, 2 * n);
  const { logProb, shares } = policy.score(points);
  for (let i = 0; i < n; i++) {
    const margin = logProb[i] - logProb[n + i];
    coefficients[i] = beta * sigmoid(-beta * (margin - referenceMargin[i])) / n;
    coefficients[n + i] = -coefficients[i];
  }
  return policy.gradient(points, shares, coefficients);
}

/** Pairs of draws, labelled by Bradley-Terry; `informative` of them have exactly one point in the circle. */
function* samplePairs(sampler, problem, noise) {
  const n = SIZES.pairs, draws = yield* drawing(sampler, noise, "pairs", 2 * n);
  const rewards = problem.reward(draws), coins = yield* noise.uniform("labels", n), half = problem.height / 2;
  const chosen = draws.slice(0, 2 * n), rejected = draws.slice(2 * n);
  let informative = 0;
  for (let i = 0; i < n; i++) {
    informative += rewards[i] >= half !== rewards[n + i] >= half;
    if (coins[i] < sigmoid(rewards[i] - rewards[n + i])) continue;
    for (let a = 2 * i; a < 2 * i + 2; a++) [chosen[a], rejected[a]] = [rejected[a], chosen[a]];
  }
  return { chosen, rejected, informative };
}

/** Adam (Kingma and Ba 2015) uphill, with its usual constants. */
class Adam {
  constructor(policy) {
    this.parameters = [policy.logWeights, policy.means, policy.logSds];
    [this.first, this.second] = [0, 1].map(() => this.parameters.map((p) => new Float64Array(p.length)));
    this.steps = 0;
  }
  step(gradients, rate) {
    const root = Math.sqrt(1 - 0.999 ** ++this.steps), scale = rate * root / (1 - 0.9 ** this.steps);
    this.parameters = this.parameters.map((parameter, p) => parameter.map((value, i) => {
      const g = gradients[p][i];
      const m = this.first[p][i] = 0.9 * this.first[p][i] + 0.1 * g;
      const v = this.second[p][i] = 0.999 * this.second[p][i] + 0.001 * g * g;
      return value + scale * m / (Math.sqrt(v) + 1e-8 * root);
    }));
    const [logits, means, logSds] = this.parameters;
    return new Mixture(logSoftmax(logits), means, logSds);
  }
}

/** From the reference uphill: yields every policy on the way, with how many of how many draws (or pairs) hit. */
function* align(reference, problem, noise, algorithm, beta) {
  const { steps, batch, rate, pairs: count } = SIZES, ascent = new Adam(reference);
  let policy = reference, hits = 0, direction;
  if (algorithm === "rlhf") {
    const uniforms = yield* noise.uniform("rlhf", steps * batch), normals = yield* noise.normal("rlhf", 2 * steps * batch);
    direction = (step) => {
      const [from, to] = [step * batch, (step + 1) * batch];
      const points = policy.draw(uniforms.subarray(from, to), normals.subarray(2 * from, 2 * to));
      const found = rlhfGradient(policy, reference, points, problem, beta);
      hits += found.hits;
      return found.gradient;
    };
  } else {
    const { chosen, rejected, informative } = yield* samplePairs(reference, problem, noise);
    yield;
    const [good, bad] = [chosen, rejected].map((points) => reference.logProb(points));
    const margin = good.map((value, i) => value - bad[i]);
    hits = informative;
    direction = (step) => {
      const here = range(batch, (i) => (i + step * batch) % count);
      const pick = (points) => range(2 * batch, (a) => points[2 * here[a >> 1] + a % 2]);
      return dpoGradient(policy, pick(chosen), pick(rejected), here.map((i) => margin[i]), beta);
    };
  }
  for (let step = 0; step < steps; step++) {
    policy = ascent.step(direction(step), rate * (1 - step / steps));
    yield { policy, hits, of: algorithm === "rlhf" ? (step + 1) * batch : count };
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
  const { beta, sharpening, components: k, algorithm } = settings, run = { name }, { curve: n, evaluation } = SIZES;
  const uniforms = yield* noise.uniform("curve", n), normals = yield* noise.normal("curve", 2 * n);
  const truths = yield* drawing(problem.truth, noise, "curve of truth", n);
  const frame = (policy, note) => ({ policy, rings: policy, note, order,
    ...evaluate(policy, problem, policy.draw(uniforms, normals), truths) });
  let policy = base, order = arranged(base, problem);
  run.stages = [];
  for (const kind of ORDERS[name].stages) {
    const frames = [], stage = run[kind] = { frames, ...problem.onPaper(policy, beta) };
    if (kind === "distil") {
      for (let i = 0; i <= 12; i++) {
        frames.push(frame(policy.sharpen(1 + (sharpening - 1) * i / 12), `weights to the power ${sharpening}`));
        yield;
      }
      const last = frames[12], { draws, path, policy: student } = yield* distil(policy, k, sharpening, noise);
      const blank = new Mixture(path[0].logWeights, new Float64Array(2 * k), new Float64Array(2 * k));
      Object.assign(stage, { hits: problem.hits(problem.reward(draws)), sharp: problem.onPaper(last.policy, beta).share });
      for (let i = 0; i <= 24; i++) {
        const rings = i < 12 ? blend(blank, path[0], i / 12) : path[Math.round((i - 12) / 12 * (path.length - 1))];
        frames.push({ ...last, note: `${k} ${k > 1 ? "rings fit" : "ring fits"} 1,000 draws`, rings });
      }
      policy = student;
      order = arranged(policy, problem);
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
    Object.assign(stage, { after: problem.onPaper(policy, beta).share, holds: nearTarget(policy, problem) });
    run.stages.push(stage);
  }
  const own = yield* drawing(policy, noise, "evaluation", evaluation);
  yield;
  const fresh = yield* drawing(problem.truth, noise, "evaluation of recall", evaluation);
  return { ...run, metrics: evaluate(policy, problem, own, fresh) };
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
function explain({ name, distil, align, metrics }, { settings, threshold, baseHits, baseHolds }) {
  const first = name === "ka", dpo = settings.algorithm === "dpo", flat = settings.sharpening < 1 ? "-flat" : "";
  const figures = { share: percent(align.share), after: percent(align.after), final: percent(metrics.share), best: percent(align.best),
    threshold: percent(threshold), once: times(distil.sharp), teacher: distil.hits, base: baseHits, hits: count(align.hits),
    who: first ? "the student" : "the base", drew: dpo ? `${count(align.hits)} of 8,000 pairs told the circle from the rest`
      : `of the 51,200 points drawn while aligning, ${count(align.hits)} fell into the circle`, ...settings };
  const cause = metrics.share >= 0.5 ? (first ? "kept" : "copied") + flat
    : !first && align.after >= 0.5 ? "diluted"
    : !baseHolds ? "base"
    : dpo && align.hits > 50 && metrics.precision < -5 ? "overshot"
    : first && !distil.hits ? "unseen"
    : first && !distil.holds && align.hits < 50 ? "lost"
    : align.hits < 5 ? "undrawn"
    : align.best < 0.5 ? "threshold" : "halfway";
  return { cause, figures };
}

/** Who earns more, in words. */
function verdict({ ka, ak, settings }) {
  const [k, a] = [ka, ak].map((run) => run.metrics.reward), rewards = `(A-K ${figure(a)}, K-A ${figure(k)} of ${settings.height})`;
  if (Math.abs(a - k) < 0.05 * settings.height) return `Both orders earn about the same ${rewards}: here the claim fails.`;
  return a > k ? `Aligning first earns more ${rewards}.` : `Distilling first earns more ${rewards}: here the claim fails.`;
}

// View ----------------------------------------------------------------------------------------------------------------

const DOTS = 420, STAGE_MS = 2600, BUDGET_MS = 6.5, REACH = 2.95;
const SLIDERS = { share: Math.log10, beta: Math.log10 }; // sliders that run over a logarithm

/** The whole state as a link's end. */
function encode(state) {
  return "#playground?" + Object.entries(state).map(([key, value]) =>
    `${key}=${Array.isArray(value) ? value.flat().map((v) => +v.toFixed(4)).join("_") : value}`).join("&");
}

function mount(root) {
  const $ = (query) => root.querySelector(query), $$ = (query) => [...root.querySelectorAll(query)];
  const reduced = matchMedia("(prefers-reduced-motion: reduce)"), names = Object.keys(ORDERS), noise = new Map();
  const scenes = $$(".pg-scenes button");
  const uniforms = range(DOTS, (i) => (i + 0.5) / DOTS);
  const normals = finish(seededNoise(7).normal("dots", 2 * DOTS));
  const heads = { ka: 0, ak: 0 }, goals = { ka: 0, ak: 0 }, dots = { ka: null, ak: null };
  let state, done, work, before, chosen, asleep = true, timer, early, told;
  root.times = [];

  // State
  /** From a link's end or a scene's name; what is missing or senseless stays as it is by default. */
  function open(text) {
    const scene = scenes.find((button) => button.value === text);
    const query = new URLSearchParams(scene ? scene.dataset.state : text.split("?")[1] || "");
    const numbers = (key) => (query.get(key) || "").split("_").map(parseFloat).filter(Number.isFinite);
    state = { ...START, stage: Math.min(2, Math.max(0, numbers("stage")[0] | 0)), scene: scene ? text : query.get("scene") || "" };
    for (const input of $$("[data-key]")) { // a control refuses what it cannot hold
      const key = input.dataset.key, value = query.get(key);
      if (key === "share" || !value) continue;
      input.value = SLIDERS[key] ? SLIDERS[key](value) : value;
      if (input.value) state[key] = key === "algorithm" ? input.value : SLIDERS[key] ? 10 ** input.value : +input.value;
    }
    const [weights, means, sum] = [numbers("weights"), numbers("means"), numbers("weights").reduce((a, b) => a + b, 0)];
    if (weights.length === 4 && weights.every((w) => w > 0)) state.weights = weights.map((w) => w / sum);
    if (means.length === 8 && means.every((m) => Math.abs(m) <= 2.3)) state.means = [0, 2, 4, 6].map((i) => means.slice(i, i + 2));
    if ([0, 1, 2, 3].includes(numbers("target")[0])) [state.target] = numbers("target");
    chosen = state.target;
    done = early = null;
    for (const order of names) { heads[order] = goals[order] = state.stage; dots[order] = null; }
    rerun();
  }
  /** Everything that follows from the settings, anew; where the eye is in time stays. */
  function rerun() {
    if (!noise.has(state.seed)) { noise.clear(); noise.set(state.seed, seededNoise(state.seed)); }
    work = runBoth({ ...state }, noise.get(state.seed));
    refresh();
    keep();
  }
  function refresh() {
    for (const input of $$("[data-key]")) {
      const key = input.dataset.key, value = key === "share" ? state.weights[chosen] : state[key];
      input.value = SLIDERS[key] ? SLIDERS[key](value) : value;
      const output = input.parentNode.querySelector("output");
      if (!output) continue;
      output.textContent = key === "share" ? percent(value) : +value.toPrecision(2);
      input.setAttribute("aria-valuetext", output.textContent);
    }
    $("[data-of]").textContent = chosen === state.target ? "the rewarded bump" : `bump ${chosen + 1}`;
    $("[data-do=reward]").hidden = chosen === state.target;
    for (const button of scenes) button.setAttribute("aria-pressed", button.value === state.scene);
    const scene = scenes.find((button) => button.value === state.scene);
    $(".pg-ask").textContent = scene?.dataset.ask || "A world of your own. What will each order make of it?";
    bumps.forEach((bump, i) => {
      const [x, y] = state.means[i].map((v) => v.toFixed(1)), share = percent(state.weights[i]), pays = i === state.target;
      bump.classList.toggle("pays", pays);
      bump.classList.toggle("chosen", i === chosen);
      bump.firstChild.textContent = share + (pays ? ` · pays ${state.height}` : "");
      bump.setAttribute("aria-label", `Bump ${i + 1}${pays ? ", rewarded" : ""}: share ${share}, at ${x}, ${y}. ` +
        "Arrow keys move it, plus and minus change its share, R puts the reward here.");
    });
    told = null;
    wake();
  }
  function keep() {
    clearTimeout(timer);
    timer = setTimeout(() => { try { history.replaceState(null, "", encode(state)); } catch { /* a frame without address */ } }, 400);
  }
  function change(key, value) {
    if (key === "share") {
      const now = state.weights[chosen], share = Math.min(0.9, Math.max(0.002, value));
      state.weights = state.weights.map((w, i) => (i === chosen ? share : w * (1 - share) / (1 - now)));
    } else if (key === "mean") state.means = state.means.map((m, i) => i === chosen
      ? value.map((v) => Math.min(2.3, Math.max(-2.3, +v.toFixed(3)))) : m);
    else state[key] = key === "algorithm" ? value : +(+value).toPrecision(3);
    state.scene = "";
    rerun();
  }
  function play(goal, orders = names) {
    for (const name of orders) {
      if (heads[name] >= goal) heads[name] = 0;
      goals[name] = goal;
    }
    moved();
  }
  function moved() {
    const stage = Math.min(goals.ka, goals.ak);
    state.stage = Math.floor(stage);
    keep();
    wake();
  }

  // Drawing
  const colours = () => {
    const style = getComputedStyle(root);
    return Object.fromEntries(["ink", "quiet", "line", "ground", "bump", "ka", "ak"].map((name) => [name, style.getPropertyValue(`--pg-${name}`)]));
  };
  function canvas(element, paint) {
    const ratio = Math.min(2, devicePixelRatio || 1), { clientWidth: w, clientHeight: h } = element;
    if (!w) return;
    if (element.width !== Math.round(w * ratio) || element.height !== Math.round(h * ratio)) {
      element.width = Math.round(w * ratio);
      element.height = Math.round(h * ratio);
    }
    const pen = element.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, w, h);
    pen.font = "12px system-ui, sans-serif";
    paint(pen, w, h);
  }
  function plane(pen, w, h, colour, { points, rings, glow }) {
    const scale = Math.min(w, h) / 2 / REACH, px = (x) => w / 2 + x * scale, py = (y) => h / 2 - y * scale, paint = colours();
    state.means.forEach(([x, y], i) => {
      const light = pen.createRadialGradient(px(x), py(y), 0, px(x), py(y), 3 * SD * scale);
      light.addColorStop(0, paint.bump); light.addColorStop(1, `${paint.bump.trim()}00`);
      pen.globalAlpha = glow * Math.min(1, 0.12 + Math.sqrt(state.weights[i]));
      pen.fillStyle = light;
      pen.fillRect(0, 0, w, h);
    });
    pen.globalAlpha = 1;
    const [x, y] = state.means[state.target], radius = RADIUS * scale;
    let inside = 0;
    for (const on of [false, true]) {
      pen.fillStyle = on ? colour : paint.quiet;
      pen.globalAlpha = on ? 0.95 : 0.5;
      pen.beginPath();
      for (let i = 0; points && i < DOTS; i++) {
        if ((Math.hypot(points[2 * i] - x, points[2 * i + 1] - y) <= RADIUS) !== on) continue;
        const size = on ? 2.3 : 1.5; // a point that left the picture waits at its edge
        const dx = Math.min(w - 4, Math.max(4, px(points[2 * i]))), dy = Math.min(h - 4, Math.max(4, py(points[2 * i + 1])));
        pen.moveTo(dx + size, dy);
        pen.arc(dx, dy, size, 0, 7);
        inside += on;
      }
      pen.fill();
    }
    pen.strokeStyle = colour;
    for (let c = 0; rings && c < rings.k; c++) {
      const weight = Math.exp(rings.logWeights[c]);
      for (const sds of [1, 2]) {
        pen.globalAlpha = (sds === 1 ? 0.9 : 0.4) * Math.min(1, 0.15 + 3 * weight);
        pen.lineWidth = sds === 1 ? 2 : 1.2;
        pen.beginPath();
        pen.ellipse(px(rings.means[2 * c]), py(rings.means[2 * c + 1]), sds * scale * Math.exp(rings.logSds[2 * c]),
          sds * scale * Math.exp(rings.logSds[2 * c + 1]), 0, 0, 7);
        pen.stroke();
      }
    }
    pen.globalAlpha = 1;
    pen.strokeStyle = paint.ink;
    pen.lineWidth = 1.6;
    pen.setLineDash([5, 4]);
    pen.beginPath();
    pen.arc(px(x), py(y), radius, 0, 7);
    pen.stroke();
    pen.setLineDash([]);
    return inside;
  }
  const at = (run, head) => { // the frame at a time between 0 and 2
    const stage = run.stages[Math.min(1, Math.floor(head))], share = head - Math.min(1, Math.floor(head));
    return stage.frames[Math.round(share * (stage.frames.length - 1))];
  };
  function curve(element, key, low, high, ticks, scale, write) {
    canvas(element, (pen, w, h) => {
      const paint = colours(), left = 42, right = w - 48, top = 8, bottom = h - 18;
      const px = (t) => left + t / 2 * (right - left);
      const py = (v) => bottom - (Math.min(high, Math.max(low, scale(v))) - low) / (high - low) * (bottom - top);
      pen.font = "11px system-ui, sans-serif";
      pen.strokeStyle = paint.line; pen.fillStyle = paint.quiet; pen.lineWidth = 1;
      pen.textBaseline = "middle"; pen.textAlign = "right";
      pen.beginPath();
      for (const tick of ticks) { pen.fillText(write(tick), left - 5, py(tick)); pen.moveTo(left, py(tick)); pen.lineTo(right, py(tick)); }
      pen.moveTo(px(1), top); pen.lineTo(px(1), bottom);
      pen.stroke();
      pen.textAlign = "center"; pen.textBaseline = "alphabetic";
      ["base", "1st step", "2nd step"].forEach((name, t) => pen.fillText(name, px(t) + (t ? -4 : 8), h - 4));
      const ends = [];
      for (const name of done ? names : []) {
        pen.strokeStyle = pen.fillStyle = paint[name]; pen.lineWidth = 2.2; pen.lineJoin = "round";
        pen.beginPath();
        for (let i = 0, steps = Math.round(heads[name] * 80); i <= steps; i++) pen.lineTo(px(i / 80), py(at(done[name], i / 80)[key]));
        pen.stroke();
        const now = at(done[name], heads[name])[key];
        ends.push({ name, x: px(heads[name]), y: py(now), text: write(now) });
        pen.beginPath(); pen.arc(px(heads[name]), py(now), 3.5, 0, 7); pen.fill();
      }
      if (ends.length && Math.abs(ends[0].y - ends[1].y) < 13 && Math.abs(ends[0].x - ends[1].x) < 46) {
        const low = ends[0].y > ends[1].y ? 0 : 1, y = (ends[0].y + ends[1].y) / 2;
        ends[low].y = y + 7; ends[1 - low].y = y - 7;
      }
      pen.textAlign = "left"; pen.textBaseline = "middle"; pen.font = "600 12px system-ui, sans-serif";
      for (const { name, x, y, text } of ends) { pen.fillStyle = paint[name]; pen.fillText(text, x + 7, Math.min(bottom - 4, Math.max(top + 4, y))); }
      element.setAttribute("aria-label", `${key}: ${ends.map(({ name, text }) => `${ORDERS[name].short} ${text}`).join(", ")}`);
    });
  }
  /** Where the model that is aligned shows the target, on a scale of what that is good for. */
  function ruler(element) {
    canvas(element, (pen, w, h) => {
      const paint = colours(), px = (share) => 8 + (w - 16) * Math.min(1, Math.max(0, 1 + Math.log10(share) / 6)), line = h - 34;
      const seen = 1 / (state.algorithm === "rlhf" ? 51200 : 16000), pays = done?.threshold ?? seen;
      const zones = [[1e-6, seen, "never drawn"], [seen, Math.max(seen, pays), "drawn, but does not pay"], [Math.max(seen, pays), 1, "pays"]];
      pen.textBaseline = "alphabetic"; pen.textAlign = "left";
      zones.forEach(([from, to, name], i) => {
        pen.fillStyle = paint.bump; pen.globalAlpha = [0.1, 0.32, 0.85][i];
        pen.fillRect(px(from), line, px(to) - px(from) - 2, 14);
        pen.globalAlpha = 1; pen.fillStyle = paint.ink;
        if (px(to) - px(from) > pen.measureText(name).width + 6) pen.fillText(name, px(from) + 4, line + 11);
      });
      pen.fillStyle = paint.quiet;
      for (const [share, name] of [[1e-6, "1 in a million"], [1e-4, "1 in 10,000"], [0.01, "1 %"], [1, "all"]]) {
        pen.textAlign = share === 1 ? "right" : share === 1e-6 ? "left" : "center";
        pen.fillText(name, px(share) + (share === 1 ? 8 : share === 1e-6 ? -8 : 0), h - 4);
      }
      const marks = done ? [["ak", done.ak.stages[0].share, "A-K aligns the base"]] : [];
      if (done && heads.ka >= 1) marks.push(["ka", done.ka.stages[1].share, "K-A aligns the student"]);
      marks.forEach(([name, share, text], i) => {
        const x = px(share), right = x < w / 2, y = line - 8 - 16 * i;
        pen.fillStyle = pen.strokeStyle = paint[name]; pen.lineWidth = 2;
        pen.beginPath(); pen.moveTo(x, y); pen.lineTo(x, line + 14); pen.stroke();
        pen.beginPath(); pen.arc(x, y, 4, 0, 7); pen.fill();
        pen.textAlign = right ? "left" : "right";
        pen.font = "600 12px system-ui, sans-serif";
        pen.fillText(`${text}: ${percent(share)}`, x + (right ? 8 : -8), y + 4);
      });
      element.setAttribute("aria-label", `The reward pays from a share of ${percent(pays)}. ${marks.map(([, share, text]) => `${text}: ${percent(share)}`).join(". ")}`);
    });
  }
  function draw(elapsed) {
    const paint = colours(), truth = new Problem(state).truth;
    canvas($(".pg-world canvas"), (pen, w, h) => {
      state.means.forEach(([x, y], i) => {
        bumps[i].style.left = `${w / 2 + x * Math.min(w, h) / 2 / REACH}px`;
        bumps[i].style.top = `${h / 2 - y * Math.min(w, h) / 2 / REACH}px`;
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
      const note = !frame ? "the base learns the bumps" : !head ? "the base" : past[head - 1] ?? `${doing}: ${frame.note}`;
      $(`[data-order=${name}] .pg-note`).textContent = note;
      element.setAttribute("aria-label", `${ORDERS[name].name}: ${note}; target share ${share}`);
    }
    curve($("[data-curve=share]"), "share", 0, 1, [0, 0.5, 1], (v) => v, (v) => `${Math.round(100 * v)} %`);
    curve($("[data-curve=reward]"), "reward", 0, state.height, [0, state.height / 2, state.height], (v) => v, (v) => `${+v.toFixed(2)}`);
    curve($("[data-curve=recall]"), "recall", -2.6, 0, [-1, -10, -100], (v) => -Math.log10(Math.max(1, -v)), (v) => `−${+(-v).toPrecision(2)}`);
    ruler($(".pg-ruler canvas"));
  }
  /** Below the planes: what came out and why, as far as the eye has come. */
  function tell() {
    const over = done && names.every((name) => heads[name] === 2), now = over ? JSON.stringify(done.settings) : `${heads.ka >= 1 && heads.ak >= 1}`;
    if (told === now) return;
    told = now;
    $(".pg-verdict").classList.toggle("over", Boolean(over));
    $(".pg-verdict h3").textContent = over ? verdict(done) : heads.ka >= 1 && heads.ak >= 1 ? "Half-way. Would you still guess the same?" : "Which order will earn more? Guess, then press “Run both”.";
    for (const name of over ? names : []) {
      const { cause, figures } = explain(done[name], done), { title, innerHTML } = $(`template[data-cause=${cause}]`);
      $(`.pg-verdict .${name} b`).textContent = title;
      const price = done[name].metrics.recall < -8 ? ` The price: it has forgotten the rest, recall ${figure(done[name].metrics.recall)}.` : "";
      const why = innerHTML.replace(/\{(\w+)\}/g, (_, key) => figures[key]);
      $(`.pg-verdict .${name} span`).textContent = why[0].toUpperCase() + why.slice(1) + price;
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
      if (step.done) [done, work] = [step.value, null];
      else if (step.value) early = step.value;
      if (!work) { told = null; asleep = false; }
    }
    root.times.push(performance.now() - began);
    if (!asleep) requestAnimationFrame(frame);
  }

  // Events
  const bumps = START.means.map((_, i) => {
    const bump = document.createElement("button");
    bump.className = "pg-bump";
    bump.append(document.createElement("span"));
    const choose = () => { chosen = i; refresh(); };
    bump.addEventListener("focus", choose);
    bump.addEventListener("pointerdown", (event) => { bump.setPointerCapture(event.pointerId); choose(); });
    bump.addEventListener("pointermove", (event) => {
      if (!bump.hasPointerCapture(event.pointerId)) return;
      const box = $(".pg-world canvas").getBoundingClientRect();
      const scale = Math.min(box.width, box.height) / 2 / REACH;
      change("mean", [(event.clientX - box.left - box.width / 2) / scale, (box.top + box.height / 2 - event.clientY) / scale]);
    });
    bump.addEventListener("keydown", (event) => {
      const [x, y] = state.means[i], steps = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] };
      if (steps[event.key]) change("mean", [x + steps[event.key][0], y + steps[event.key][1]]);
      else if ("+=".includes(event.key)) change("share", state.weights[i] * 1.25);
      else if (event.key === "-") change("share", state.weights[i] / 1.25);
      else if (event.key === "r" || event.key === "R") change("target", i);
      else return;
      event.preventDefault();
    });
    return bump;
  });
  $(".pg-field").append(...bumps);
  for (const input of $$("[data-key]")) {
    input.addEventListener("input", () => change(input.dataset.key, SLIDERS[input.dataset.key] ? 10 ** input.value : input.value));
  }
  for (const button of scenes) button.addEventListener("click", () => open(button.value));
  const actions = {
    run: () => play(2), ka: () => play(2, ["ka"]), ak: () => play(2, ["ak"]),
    step: () => play(Math.min(2, Math.floor(Math.min(heads.ka, heads.ak)) % 2 + 1)),
    once: () => { for (const name of names) heads[name] = goals[name] = 2; moved(); },
    back: () => { for (const name of names) heads[name] = goals[name] = 0; moved(); },
    reward: () => change("target", chosen),
    seed: () => change("seed", state.seed % 999 + 1),
    link: async () => {
      const framed = location.protocol === "about:", link = framed ? `playground("${encode(state)}")` : location.href.split("#")[0] + encode(state);
      try { await navigator.clipboard.writeText(link); $("[data-do=link]").textContent = "copied"; } catch { prompt("A link to all that you see", link); }
    },
  };
  for (const [name, act] of Object.entries(actions)) $(`[data-do=${name}]`).addEventListener("click", act);
  $("[data-do=time]").addEventListener("input", (event) => { for (const name of names) heads[name] = goals[name] = +event.target.value; moved(); });
  addEventListener("hashchange", () => { if (location.hash.startsWith("#playground?")) open(location.hash); });
  new ResizeObserver(wake).observe(root);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", wake);
  open(location.hash.startsWith("#playground?") ? location.hash : root.dataset.open || "rare");
  Object.assign(root, { open, play: actions, result: () => (work ? null : done) });
}

globalThis.alignkdPlayground = { Mixture, Problem, SIZES, START, seededNoise, finish, evaluate, maximise, emStep, fitBase, distil,
  rlhfGradient, dpoGradient, Adam, align, runBoth, explain, mount };
for (const root of globalThis.document?.querySelectorAll(".pg:not([data-live])") ?? []) {
  root.dataset.live = "";
  mount(root);
}
})();
