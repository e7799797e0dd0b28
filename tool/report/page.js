"use strict";
// The page from the numbers beside it, which are those of --json: every table and plot reads them, none has its own.
const report = JSON.parse(document.getElementById("report").textContent);
const main = document.querySelector("main");

// --- text ---

const small = value => value === null ? "not finite" : value === 0 ? "0" : value.toExponential(2);
const plain = digits => value => value === null || value === undefined ? "-" : value.toFixed(digits);
const percent = value => value === null || value === undefined ? "-" : `${+(100 * value).toPrecision(3)} %`;
const interval = mean => !mean ? "-" : mean.mean === 0 && mean.error === 0 ? "0" : `${mean.mean.toExponential(2)} ± ${(1.96 * (mean.error ?? NaN)).toExponential(1)}`;
const percents = mean => mean ? `${(100 * mean.mean).toFixed(2)} ± ${(196 * (mean.error ?? NaN)).toFixed(2)} %` : "-";
const layerName = layer => layer === null ? "-" : String(layer);

function add(parent, tag, text, className) {
  const element = parent.appendChild(document.createElement(tag));
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

function section(title, ...says) {
  const parent = add(main, "section");
  add(parent, "h2", title);
  for (const text of says) add(parent, "p", text, "quiet");
  return parent;
}

// Columns are [title, cell of a row, "left" or "left wrap" or nothing for numbers]; a cell is text, or [text, class].
function table(parent, columns, rows) {
  const element = add(add(parent, "div", undefined, "scroll"), "table");
  const head = add(add(element, "thead"), "tr");
  for (const [title, , align] of columns) add(head, "th", title, align);
  const body = add(element, "tbody");
  for (const row of rows) {
    const line = add(body, "tr");
    for (const [, cell, align] of columns) {
      const [text, className] = [cell(row)].flat();
      add(line, "td", text, [align, className].filter(Boolean).join(" "));
    }
  }
}

const verdict = within => within ? ["within", "good"] : ["BEYOND", "bad"];

function folded(parent, title) {
  const element = add(parent, "details");
  add(element, "summary", title);
  return element;
}

// --- plots ---

const palette = ["#3f7fbf", "#d9822b", "#4a9a57", "#c8585c", "#8a6fb8", "#97735a", "#c273ac", "#6d97a0"];
const colour = (i, count) => count <= palette.length ? palette[i] : `hsl(${260 - 230 * i / (count - 1)} 55% 52%)`;
const style = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const plots = [];

// Ranges of x behind the bars: the noise, or a limit. Lines are ranges of no width.
const ranges = list => ({
  id: "ranges",
  beforeDatasetsDraw({ctx, chartArea: area, scales: {x}}) {
    for (const {from, to, shade} of list) {
      const pixels = [from, to].map(value => Math.min(Math.max(x.getPixelForValue(value), area.left), area.right));
      if (pixels.some(Number.isNaN)) continue;
      ctx.fillStyle = style(shade);
      ctx.fillRect(pixels[0], area.top, Math.max(pixels[1] - pixels[0], 1.5), area.bottom - area.top);
    }
  },
});

const powersOfTen = value => Math.abs(Math.log10(value) - Math.round(Math.log10(value))) < 1e-9 ? value.toExponential(0) : "";
const axis = (title, more = {}) => ({title: {display: true, text: title}, grid: {color: style("--grid")}, ...more});
const logAxis = title => axis(title, {type: "logarithmic", ticks: {callback: powersOfTen, maxRotation: 0}});
const percentAxis = (title, more) => axis(title, {min: 0, ticks: {callback: value => `${value} %`}, ...more});

// `options` is called at each drawing: colours are those of the scheme.
function plot(parent, title, says, height, options) {
  const figure = add(parent, "figure");
  add(figure, "b", title);
  add(figure, "figcaption", says);
  const box = add(figure, "div", undefined, "canvas");
  box.style.height = `${height}px`;
  const canvas = add(box, "canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${title}. ${says}`);
  plots.push({canvas, options});
}

function draw() {
  Chart.defaults.color = style("--quiet");
  Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
  for (const one of plots) {
    if (one.chart) one.chart.destroy();
    const {text, ...made} = one.options();
    made.options = {
      animation: false, maintainAspectRatio: false, ...made.options,
      plugins: {legend: {display: made.data.datasets.length > 1, labels: {boxWidth: 14, boxHeight: 8}},
                tooltip: {callbacks: {label: ({dataset, raw}) => `${dataset.label}: ${[raw].flat().map(text).join(" to ")}`}}},
    };
    one.chart = new Chart(one.canvas, made);
  }
}

const height = bars => 90 + 22 * bars;
const orNull = value => value > 0 ? value : null;  // a logarithm has no zero

function lines(labels, series, x, y, text) {
  const datasets = series.map(({label, data, dashed}, i) => ({
    label, data, borderColor: colour(i, series.length), backgroundColor: colour(i, series.length), borderWidth: 2,
    pointRadius: 3, borderDash: dashed ? [5, 4] : [],
  }));
  return {type: "line", text, data: {labels, datasets}, options: {scales: {x, y}}};
}

// --- an audit ---

const groups = () => {
  const all = new Map();
  for (const op of report.operations) {
    const key = `${op.operation}\n${op.implementation}`;
    if (!all.has(key)) all.set(key, {operation: op.operation, implementation: op.implementation, of: []});
    all.get(key).of.push(op);
  }
  return [...all.values()];
};
const judgedOf = group => group.of.flatMap(op => op.judged);
const outputsOf = group => group.of.flatMap(op => op.outputs.filter(output => output.elements !== undefined));
const most = (list, of) => list.reduce((worst, one) => of(one) === null || worst === null ? null : Math.max(worst, of(one)), 0);
const sum = (list, of) => list.reduce((total, one) => total + of(one), 0);
const shareOfBound = judged => judged.worst_share_of_bound;

function gates() {
  const parent = section("Gates", "What each result may be at most, and where that comes from.");
  const operations = groups().filter(group => judgedOf(group).length > 0).map(group => ({
    what: `${group.operation} (${group.implementation})`, value: `${small(most(judgedOf(group), shareOfBound))} of the bound`,
    limit: `${sum(judgedOf(group), judged => judged.elements)} elements, ${sum(judgedOf(group), judged => judged.beyond)} beyond`,
    from: group.of[0].bounds, within: group.of.every(op => op.within),
  }));
  const whole = report.gates.map(gate => ({
    what: gate.name, value: small(gate.value), limit: `at most ${small(gate.limit)}; the noise is ${small(gate.noise)}`,
    from: gate.bound, within: gate.within,
  }));
  table(parent, [["what", gate => gate.what, "left"], ["found", gate => gate.value], ["limit", gate => gate.limit],
                 ["where the bound comes from", gate => gate.from, "left"], ["", gate => verdict(gate.within), "left"]],
        [...whole, ...operations]);
}

function layers() {
  const all = report.whole.layers, noise = report.noise.layers;
  const parent = section("Layers", "The plan from the references, both from the same text. The noise is the plan with its sums in another order " +
    "(other softmax tiles) from the plan as it is.");
  const grid = add(parent, "div", undefined, "plots");
  const series = (label, list, of, dashed) => ({label, dashed, data: list.map(layer => orNull(of(layer)))});
  const labels = all.map(layer => `${layer.layer}`);
  plot(grid, "Error by layer", "Relative L2; a point that is missing is 0.", 320, () => lines(labels, [
    series("attn_out", all, layer => layer.attn_out.relative_l2), series("hidden", all, layer => layer.hidden.relative_l2),
    series("attn_out, noise", noise, layer => layer.attn_out.relative_l2, true),
    series("hidden, noise", noise, layer => layer.hidden.relative_l2, true),
    series("hidden, worst row", all, layer => layer.hidden.worst_row_l2),
  ], axis("layer"), logAxis("relative L2"), small));
  const selecting = all.filter(layer => layer.selection && layer.selection.open > 0);
  if (selecting.length > 0) {
    plot(grid, "Attention on rows of both sets", "Recall by layer: the mean of queries with a choice, and the least.", 320, () => lines(
      selecting.map(layer => `${layer.layer}`),
      [{label: "mean", data: selecting.map(layer => layer.selection.recall?.mean ?? null)},
       {label: "least", data: selecting.map(layer => layer.selection.recall ? layer.selection.least_recall : null)}],
      axis("layer"), axis("share of the attention", {max: 1}), plain(5)));
    const histogram = (title, says, of, name) => plot(grid, title, says, 320, () => {
      const {edges} = of(selecting[0]);
      const names = [name(null, edges[0]), ...edges.slice(1).map((edge, i) => name(edges[i], edge)), name(edges.at(-1), null)];
      const made = lines(names, selecting.map(layer => ({
        label: `layer ${layer.layer}`, data: of(layer).counts.map(count => 100 * count / layer.selection.open),
      })), axis(""), percentAxis("queries"), value => `${plain(2)(value)} %`);
      if (selecting.length <= palette.length) made.type = "bar";
      return made;
    });
    histogram("Margins at the cut", "(last chosen - first left) / range of the scores, of queries with a choice.",
              layer => layer.selection.margins, (from, to) => from === null ? `< ${to.toExponential(0)}` : `${from.toExponential(0)}+`);
    histogram("Overlap of the sets", "Share of the references' set that the plan chose too, of queries with a choice.",
              layer => layer.selection.overlaps, (from, to) => from === null ? `< ${to}` : to === null ? "all" : `${from}+`);
  }
  const choice = of => layer => layer.selection && layer.selection.open > 0 ? of(layer.selection) : "-";
  table(parent, [
    ["layer", layer => `${layer.layer}`], ["queries", choice(s => `${s.open}`)], ["sets differ", choice(s => percent(s.sets_differing.mean))],
    ["overlap", choice(s => plain(5)(s.overlap.mean))], ["least", choice(s => plain(4)(s.least_overlap))],
    ["recall", choice(s => plain(5)(s.recall?.mean))], ["least", choice(s => s.recall ? plain(4)(s.least_recall) : "-")],
    ["ties at cut", choice(s => `${s.rows_decided_by_tie}`)], ["most ties", choice(s => `${s.most_ties_at_cut}`)],
    ["attn_out L2", layer => small(layer.attn_out.relative_l2)], ["worst row", layer => small(layer.attn_out.worst_row_l2)],
    ["hidden L2", layer => small(layer.hidden.relative_l2)], ["worst row", layer => small(layer.hidden.worst_row_l2)],
    ["noise, hidden L2", layer => small(noise[layer.layer]?.hidden.relative_l2 ?? 0)],
  ], all);
  table(parent, [["", row => row[0], "left"], ["the plan from the references", row => row[1](report.whole)], ["the noise", row => row[1](report.noise)]], [
    ["tokens", of => `${of.tokens}`], ["negative log-likelihood", of => plain(6)(of.nll?.mean)], ["of the other side", of => plain(6)(of.nll_base?.mean)],
    ["difference, 95 %", of => interval(of.nll_difference)], ["KL divergence, mean, 95 %", of => interval(of.kl)],
    ["KL divergence, largest", of => of.kl ? small(of.kl.largest) : "-"], ["top-1 agreement", of => percent(of.top1_agreement)],
    ["tokens with logits that are not finite", of => `${of.not_finite}`],
  ]);
}

function operations() {
  const all = groups().filter(group => judgedOf(group).length > 0);
  const parent = section("Operations", "Each on the reference's inputs, so that no error of one reaches the next. Some tokens of each pass are held " +
    "against bounds derived from the arithmetic; statistics are of every token.");
  const grid = add(parent, "div", undefined, "plots");
  const names = all.map(group => group.operation);
  plot(grid, "Share of the bound", "The largest error in units of its bound, least to worst layer; from 1 on (the line) it is beyond. No bar: no error.",
       height(all.length), () => ({
    type: "bar", text: small, plugins: [ranges([{from: 1, to: 1, shade: "--bad"}])],
    data: {labels: names, datasets: [{label: "share of its bound", backgroundColor: colour(0, 1), minBarLength: 3, data: all.map(group => {
      const shares = group.of.map(op => most(op.judged, shareOfBound)).filter(share => share > 0);
      return shares.length === 0 ? null : [Math.min(...shares), Math.max(...shares)];
    })}]},
    options: {indexAxis: "y", scales: {x: {...logAxis("share of the bound"), suggestedMax: 2}, y: {grid: {display: false}, ticks: {autoSkip: false}}}},
  }));
  const classes = Object.keys(all.flatMap(outputsOf)[0]?.ulps ?? {}).filter(name => name !== "0");
  const differing = all.filter(group => outputsOf(group).some(output => output.differing > 0));
  plot(grid, "Steps of the type", "Elements that differ, by how many steps of their own type (bf16, fp32, ...); all others are equal. " +
       "Operations without a difference are left out.", 90 + 36 * differing.length, () => ({
    type: "bar", text: value => `${+value.toPrecision(3)} %`,
    data: {labels: differing.map(group => group.operation), datasets: classes.map((name, i) => ({
      label: name, backgroundColor: `hsl(${215 - 42 * i} 52% 52%)`, minBarLength: 2, barPercentage: 1,
      data: differing.map(group => orNull(
        100 * sum(outputsOf(group), output => output.ulps[name]) / sum(outputsOf(group), output => output.elements))),
    }))},
    options: {indexAxis: "y", scales: {x: logAxis("% of the elements"), y: {grid: {display: false}, ticks: {autoSkip: false}}}},
  }));
  const ofOutputs = of => group => most(outputsOf(group), of);
  const bias = group => outputsOf(group).reduce((worst, output) => Math.abs(output.bias) > Math.abs(worst) ? output.bias : worst, 0);
  table(parent, [
    ["operation", group => group.operation, "left"], ["runs", group => group.implementation, "left"], ["layers", group => `${group.of.length}`],
    ["beyond", group => { const beyond = sum(judgedOf(group), judged => judged.beyond); return [`${beyond}`, beyond ? "bad" : ""]; }],
    ["of bound", group => small(most(judgedOf(group), shareOfBound))],
    ["relative L2", group => small(outputsOf(group).length ? ofOutputs(output => output.relative_l2)(group) : most(judgedOf(group), judged => judged.relative_l2))],
    ["worst row", group => small(ofOutputs(output => output.worst_row_l2)(group))],
    ["differ", group => percent(ofOutputs(output => output.differing / Math.max(output.elements, 1))(group))],
    ["as bf16", group => percent(ofOutputs(output => output.differing_as_bf16 / Math.max(output.elements, 1))(group))],
    ["bias", group => plain(2)(bias(group))],
  ], groups());
  table(folded(parent, "Every layer and output"), [
    ["layer", row => layerName(row.op.layer)], ["operation", row => row.op.operation, "left"], ["output", row => row.output.name, "left"],
    ["relative L2", row => small(row.output.relative_l2)], ["worst row", row => `${small(row.output.worst_row_l2)} at ${row.output.worst_row}`],
    ["largest error", row => `${small(row.output.largest)} at [${row.output.largest_at}]`],
    ["differ", row => percent(row.output.differing / Math.max(row.output.elements, 1))],
    ["as bf16", row => percent(row.output.differing_as_bf16 / Math.max(row.output.elements, 1))],
    ["bias", row => plain(2)(row.output.bias)], ["masks", row => `${row.output.mask_mismatches}`],
  ], report.operations.flatMap(op => op.outputs.filter(output => output.elements !== undefined).map(output => ({op, output}))));
}

function plan() {
  const parent = section("Plan", "What ran. Rows that are the same in several layers stand once; refused are the rows of the catalog asked before.");
  const rows = new Map();
  for (const {layer, ...row} of report.plan) {
    const key = JSON.stringify(row);
    rows.set(key, {...row, layers: [...(rows.get(key)?.layers ?? []), layerName(layer)]});
  }
  table(parent, [
    ["layers", row => row.layers.join(" "), "left wrap"], ["operation", row => row.operation, "left"], ["runs", row => row.implementation, "left"],
    ["reads", row => [row.format, row.scales].filter(Boolean).join("; "), "left wrap"], ["refused", row => row.refused.join("; ") || "-", "left wrap"],
  ], [...rows.values()]);
}

// --- what if ---

function choices() {
  const run = report.choices.filter(choice => choice.effect);
  const parent = section("What each choice costs", "Against the plan as it is. The grey band is the noise: another order of the same sums. " +
    "Measurable is what lies above it, the whole 95 % interval, in the sets or in the KL divergence.");
  const grid = add(parent, "div", undefined, "plots");
  const bars = (title, says, of, scale, text, shown = value => value, lowest = -Infinity) => {
    const range = effect => {
      const mean = of(effect);
      if (!mean || mean.error === null || (lowest === 0 && mean.mean === 0)) return null;
      return [mean.mean - 1.96 * mean.error, mean.mean + 1.96 * mean.error].map(value => shown(Math.max(value, lowest)));
    };
    const noise = range(report.noise);
    const list = run.filter(choice => of(choice.effect));
    if (list.length === 0) return;
    plot(grid, title, says, height(list.length), () => ({
      type: "bar", text, plugins: noise ? [ranges([{from: noise[0], to: noise[1], shade: "--noise"}])] : [],
      data: {labels: list.map(choice => choice.knobs), datasets: [{
        label: "95 %", minBarLength: 3, backgroundColor: list.map(choice => choice.measurable ? colour(1, 2) : colour(0, 2)),
        data: list.map(choice => range(choice.effect)),
      }]},
      options: {indexAxis: "y", scales: {x: scale(), y: {grid: {display: false}, ticks: {autoSkip: false}}}},
    }));
  };
  bars("Sets that differ", "Of queries with a choice, 95 %. Orange: measurable.", effect => effect.sets_differing,
       () => percentAxis("queries", {max: 100}), value => `${value.toFixed(2)} %`, value => 100 * value, 0);
  bars("KL divergence", "Mean, 95 %. Orange: measurable. No bar: 0.", effect => effect.kl, () => logAxis("nats"), small, value => Math.max(value, 1e-12), 0);
  // Four times the noise is the width: what is wrong altogether would leave no room for the rest.
  const {mean, error} = report.noise.nll_difference;
  const end = 4 * (Math.abs(mean) + 1.96 * error) || 1;
  bars("Difference in likelihood", "Of the token that follows, nats, 95 %; above 0 it is worse. A bar at the end is beyond it. Orange: measurable.",
       effect => effect.nll_difference, () => axis("nats", {min: -end, max: end}), small, value => Math.min(Math.max(value, -end), end));
  const effect = of => choice => choice.effect ? of(choice.effect) : "-";
  table(parent, [
    ["what if", choice => choice.what, "left wrap"], ["knobs", choice => choice.knobs, "left"],
    ["sets differ, 95 %", effect(e => percents(e.sets_differing))], ["recall", effect(e => plain(5)(e.recall?.mean))],
    ["attn_out L2", effect(e => small(e.attn_out_relative_l2))], ["KL, 95 %", effect(e => interval(e.kl))],
    ["top-1 agree", effect(e => percent(e.top1_agreement))], ["likelihood, 95 %", effect(e => interval(e.nll_difference))],
    ["measurable", choice => choice.refused ? choice.refused : choice.measurable === undefined ? "" : choice.measurable ? "yes" : "nothing measurable", "left wrap"],
    ["reported", choice => choice.reported, "left wrap"],
  ], [{what: "the noise: another order of the same sums", knobs: "", reported: "", effect: report.noise}, ...report.choices]);
}

// --- the page ---

function head() {
  add(main, "h1", `${report.choices ? "What if" : "Audit"}: ${report.model}`);
  const line = add(main, "p");
  if (report.within !== undefined) add(line, "span", ...verdict(report.within));
  add(line, "span", `${report.within === undefined ? "" : ", "}${report.tokens} tokens of ${report.text}, numerics `);
  add(line, "code", report.numerics);
  add(line, "span", `, ${report.device}, ${report.seconds.toFixed(1)} s, fulgurite ${report.version}`);
}

function numerics() {
  const parent = section("Numerics", "Every knob of the plan; docs/numerics.md says what each means.");
  table(parent, [["knob", knob => knob[0], "left"], ["value", knob => knob[1], "left"]], Object.entries(report.knobs));
}

head();
if (report.choices) {
  choices();
} else {
  gates();
  layers();
  operations();
}
numerics();
if (report.plan) plan();
draw();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
