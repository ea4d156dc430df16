// The linked view of each article: a point per run, curves of those that are picked, filters, and the sortable table.
"use strict";
document.documentElement.classList.add("scripted");

const COLOURS = ["#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8a8a8a"];
const MOST_OPTIONS = 24;

function choice(parent, label, options, chosen, act) {
  const select = document.createElement("select");
  for (const [value, text] of options) select.add(new Option(text, value, false, value === chosen));
  select.setAttribute("aria-label", label);
  const around = document.createElement("label");
  around.append(`${label} `, select);
  parent.append(around);
  select.addEventListener("change", () => act(select.value));
}

function specification(width, colour, least, last) {
  const accuracy = {
    field: "error", type: "quantitative", scale: {type: "log", reverse: true, nice: false, domain: [0.85 * least, 1]},
    axis: {values: [1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001], labelExpr: "format(1 - datum.value, '~g')"},
  };
  const kind = {field: "kind", type: "nominal", title: null, sort: {field: "spot", op: "min"}, scale: {range: COLOURS}};
  const told = [{field: "told", title: "run"}, {field: "status"}, {field: "text", title: "accuracy"}];
  return {
    $schema: "https://vega.github.io/schema/vega-lite/v6.json",
    config: {
      background: null, view: {stroke: null}, font: "system-ui, sans-serif",
      axis: {labelColor: colour, titleColor: colour, gridOpacity: 0.3, labelFontSize: 12, titleFontSize: 12},
      legend: {labelColor: colour, titleColor: colour, labelFontSize: 12, labelLimit: 400},
    },
    datasets: {runs: [], curves: []},
    vconcat: [
      {
        width, height: 260, data: {name: "runs"},
        mark: {type: "point", size: 70, filled: false, strokeWidth: 2, cursor: "pointer"},
        encoding: {
          x: {field: "place", type: "ordinal", sort: {field: "rank", op: "min"}, title: null, axis: {labelAngle: 0, labelOverlap: true}},
          xOffset: {field: "spot", type: "ordinal"},
          y: {...accuracy, title: "final test accuracy"},
          color: kind,
          shape: {field: "status", title: null, scale: {domain: ["done", "diverged", "failed"], range: ["circle", "cross", "triangle-down"]}},
          opacity: {field: "weight", type: "quantitative", scale: {domain: [0, 1], range: [0, 1]}, legend: null},
          tooltip: told,
        },
      },
      {
        width, height: 260, data: {name: "curves"},
        mark: {type: "line", point: {size: 12}},
        encoding: {
          x: {field: "step", type: "quantitative", scale: {type: "symlog", domain: [0, last]}, axis: {values: [0, 1, 10, 100, 1e3, 1e4, 1e5, 1e6], labelExpr: "datum.value < 1000 ? datum.value : datum.value / 1000 + 'K'"}},
          y: {...accuracy, title: "test accuracy of the runs that are picked"},
          color: kind, detail: {field: "id"}, tooltip: [...told, {field: "step"}],
        },
      },
    ],
    resolve: {scale: {color: "shared"}},
  };
}

async function show(article) {
  const data = JSON.parse(article.querySelector("script.data").textContent);
  const rows = new Map([...article.querySelectorAll("table.runs tbody tr")].map((row) => [row.dataset.id, row]));
  const settings = Object.keys(data.values);
  const arms = settings.filter((s) => s !== "seed");
  const chosen = {x: data.x, kind: data.kind, filters: {}, picked: new Set()};
  const place = article.querySelector(".view");
  const accuracies = Object.values(data.curves).flat().concat(data.runs.map((run) => [0, run.accuracy ?? 0]));
  const least = accuracies.reduce((found, [, accuracy]) => Math.min(found, Math.max(1 - accuracy, 1e-4)), 0.5);
  const last = accuracies.reduce((found, [step]) => Math.max(found, step), 1);
  const width = Math.max(260, Math.min(900, place.clientWidth - 260));
  const drawn = specification(width, getComputedStyle(document.body).color, least, last);
  const curved = Object.values(data.curves).some((curve) => curve.length > 0);
  if (!curved) drawn.vconcat.pop();
  const {view} = await vegaEmbed(place, drawn, {actions: false, renderer: "svg"});

  function shown(run) {
    return Object.entries(chosen.filters).every(([setting, value]) => value === "" || run.settings[setting] === value);
  }

  function look(run, accuracy) {
    return {
      id: run.id, kind: chosen.kind ? `${chosen.kind}: ${run.settings[chosen.kind]}` : "runs", status: run.status,
      error: Math.max(1 - accuracy, 1e-4), told: settings.map((s) => `${s}=${run.settings[s]}`).join(", "),
      text: run.status === "done" ? accuracy.toFixed(4) : run.status,
    };
  }

  function draw() {
    const kept = data.runs.filter(shown);
    const points = kept.map((run) => ({
      ...look(run, run.accuracy ?? 0), place: chosen.x ? String(run.settings[chosen.x]) : "all",
      rank: chosen.x ? data.values[chosen.x].indexOf(run.settings[chosen.x]) : 0,
      spot: chosen.kind ? data.values[chosen.kind].indexOf(run.settings[chosen.kind]) : 0,
      weight: chosen.picked.size === 0 || chosen.picked.has(run.id) ? 1 : 0.2,
    }));
    const curves = kept.filter((run) => chosen.picked.has(run.id)).flatMap((run) =>
      data.curves[run.id].map(([step, accuracy]) => ({...look(run, accuracy), text: accuracy, step})));
    view.data("runs", points);
    if (curved) view.data("curves", curves);
    view.resize().run();
    for (const run of data.runs) {
      rows.get(run.id).hidden = !shown(run);
      rows.get(run.id).querySelector("input").checked = chosen.picked.has(run.id);
    }
  }

  function pick(id) {
    if (!chosen.picked.delete(id)) chosen.picked.add(id);
    draw();
  }

  const bar = article.querySelector(".choices");
  if (arms.length > 1) {
    choice(bar, "against", arms.map((s) => [s, s]), chosen.x, (value) => { chosen.x = value; draw(); });
    choice(bar, "coloured by", arms.map((s) => [s, s]), chosen.kind, (value) => { chosen.kind = value; draw(); });
  }
  for (const setting of settings) {
    if (data.values[setting].length > MOST_OPTIONS) continue;
    choice(bar, setting, [["", "all"], ...data.values[setting].map((v) => [v, v])], "", (value) => { chosen.filters[setting] = value; draw(); });
  }
  view.addEventListener("click", (_, item) => { if (item?.datum?.place !== undefined) pick(item.datum.id); });
  for (const [id, row] of rows) row.querySelector("input").addEventListener("change", () => pick(id));
  draw();
  article.dataset.ready = "true";
}

function sortable(table) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    if (head.classList.contains("script")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.key ?? row.cells[column].textContent;
      const order = (a, b) => {
        const [one, other] = [key(a), key(b)];
        const numbers = one !== "" && other !== "" && !Number.isNaN(Number(one)) && !Number.isNaN(Number(other));
        return (up ? 1 : -1) * (numbers ? one - other : one.localeCompare(other));
      };
      body.append(...[...body.rows].sort(order));
    });
  });
}

document.querySelectorAll("table.runs").forEach(sortable);
for (const button of document.querySelectorAll("button.copy")) {
  button.addEventListener("click", async () => {
    await navigator.clipboard?.writeText(button.previousElementSibling.textContent);
    button.textContent = "copied";
  });
}
// Of several sweeps, what is far from the window is drawn when it comes near: there may be thousands of runs.
const near = new IntersectionObserver((entries) => {
  for (const {isIntersecting, target} of entries) {
    if (!isIntersecting) continue;
    near.unobserve(target);
    show(target.closest("article"));
  }
}, {rootMargin: "100%"});
const views = document.querySelectorAll("article .view");
if (views.length === 1) show(views[0].closest("article"));
else views.forEach((view) => near.observe(view));
