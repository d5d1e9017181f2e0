
// The table shows PAGE_ROWS of `rows`, the numbers of the matching videos, in order. Columns are arrays with a
// value per video, so that a hundred thousand videos are sorted and searched in an instant.
const PAGE_ROWS = 25;
const NO_LABEL = -1;
const OTHERS = 7; // the last colour, for all but the most frequent labels
let output = page.outputs[0], rows = [], first = 0, sorting = { key: null, down: false };

const labelOf = (video) => output.best[video] === NO_LABEL ? "" : output.labels[output.best[video]];
const colourOf = (code) => colour(output.ranks.get(code) ?? OTHERS);
const truthOf = (video) => output.truths && output.truths[video] !== NO_LABEL ? output.labels[output.truths[video]] : "";
const noteOf = (video) => page.notes[video];
const failed = (video) => Boolean(noteOf(video)?.[0]);
const filters = {
  all: () => true,
  wrong: (video) => truthOf(video) !== "" && !failed(video) && output.truths[video] !== output.best[video],
  failed,
  damaged: (video) => noteOf(video)?.[0] === "",
};
const keys = {
  name: (video) => page.names[video],
  label: labelOf,
  truth: truthOf,
  percent: (video) => output.percents[video],
  duration: (video) => page.durations[video],
};

function find() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const kept = filters[$("filter").value];
  const text = (video) => [page.names[video], labelOf(video), truthOf(video), ...(noteOf(video) ?? [])].join("\n").toLowerCase();
  const matches = (found) => words.every((word) => found.includes(word));
  rows = [...page.names.keys()].filter((video) => kept(video) && (!words.length || matches(text(video))));
  sort();
}

function sort() {
  if (sorting.key) {
    const values = Array.from(page.names, (_, video) => keys[sorting.key](video));
    const sign = sorting.down ? -1 : 1;
    rows.sort((a, b) => values[a] < values[b] ? -sign : values[a] > values[b] ? sign : a - b);
  }
  document.querySelectorAll("#table th").forEach((head) => head.setAttribute("aria-sort",
    sorting.key !== (head.dataset.key ?? "") ? "none" : sorting.down ? "descending" : "ascending"));
  show(0);
}

function show(from) {
  first = clamp(from, 0, Math.max(0, rows.length - 1));
  const last = Math.min(first + PAGE_ROWS, rows.length);
  $("table").tBodies[0].replaceChildren(...rows.slice(first, last).map(drawRow));
  $("found").textContent = `${rows.length} of ${page.names.length}` +
    (page.videos > page.names.length ? ` (the first of ${page.videos} videos; the rest is in the Parquet files)` : "");
  $("page").textContent = rows.length ? `${first + 1} to ${last} of ${rows.length}` : "none";
  $("previous").disabled = first === 0;
  $("next").disabled = last >= rows.length;
}

function drawRow(video) {
  const note = noteOf(video);
  const cell = (text, className = "") => element("td", { textContent: text, className });
  const path = page.names[video].split("/"), file = path.pop();
  const name = element("td", { title: page.names[video] }, file,
    element("div", { className: "quiet folder", textContent: path.join("/") }));
  if (note) name.append(element("div", { className: failed(video) ? "failed" : "damaged", textContent: note[1] }));
  if (failed(video)) return element("tr", {}, name, cell(note[0], "failed"), cell(""), cell(truthOf(video)), cell(""), cell(""));
  const known = truthOf(video) !== "";
  const judged = known ? (output.truths[video] === output.best[video] ? "right" : "wrong") : "";
  return element("tr", {}, name, cell(labelOf(video), judged), cell(percent(output.percents[video] / 100), "number"),
    cell(truthOf(video)), cell(clock(page.durations[video], 0), "number"), element("td", {}, drawStrip(video)));
}

function drawStrip(video) {
  const runs = output.strips?.[video] ?? [], rects = [], names = [];
  let at = 0;
  for (let k = 0; k < runs.length; k += 2) {
    names.push(output.labels[runs[k]]);
    const box = { x: at, y: 0, width: runs[k + 1], height: 1, class: colourOf(runs[k]) };
    rects.push(svg("rect", box, svg("title", {}, names.at(-1))));
    at += runs[k + 1];
  }
  return at ? drawing(at, names.join(", then "), { class: "mini" }, ...rects) : "";
}

function showOutput(number) {
  output = page.outputs[number];
  const most = output.common[0]?.[1] ?? 1;
  output.ranks ??= new Map(output.common.slice(0, OTHERS).map(([label], rank) => [output.labels.indexOf(label), rank]));
  $("common").replaceChildren(...output.common.map(([label, count], rank) =>
    barred(["li", "span", "span"], label, count, count / most, colour(Math.min(rank, OTHERS)))));
  $("picture-details").hidden = !output.picture;
  if (output.picture) $("picture").src = output.picture;
  $("table").tHead.rows[0].cells[3].classList.toggle("unused", !output.truths);
  find();
}

/* ---- content that does not change ---- */

const bad = page.errors.reduce((sum, [, count]) => sum + count, 0);
const tiles = [["videos", page.videos], ["answered", page.videos - bad], ["failed", bad], ["damaged", page.warnings],
  ["hours of video", page.hours.toFixed(page.hours < 10 ? 2 : 0)]];
$("title").textContent = page.title;
$("tiles").replaceChildren(...tiles.map(([name, value]) =>
  element("div", { className: "card" }, element("strong", { textContent: value.toLocaleString("en") }), name)));
$("errors-card").hidden = !bad;
$("errors").replaceChildren(...page.errors.map(([kind, count]) => barred(["li", "span", "span"], kind, count, count / bad)));
$("model").replaceChildren(...definitions(page.model));
$("metrics-card").hidden = !page.metrics.length;
$("metrics").replaceChildren(...definitions(page.metrics));
$("output").replaceChildren(...page.outputs.map(({ title }, k) => element("option", { value: k, textContent: title })));
$("output").hidden = page.outputs.length < 2;
$("output").onchange = (event) => showOutput(Number(event.target.value));
$("filter").onchange = find;
$("search").oninput = find;
$("previous").onclick = () => show(first - PAGE_ROWS);
$("next").onclick = () => show(first + PAGE_ROWS);
for (const head of document.querySelectorAll("#table th[data-key]")) {
  head.onclick = () => {
    const { key } = head.dataset;
    sorting = { key, down: sorting.key === key ? !sorting.down : key === "percent" };
    sort();
  };
}
showOutput(0);
