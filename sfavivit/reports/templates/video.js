
// The page shows one video at a time. Its state is the position `now`, in seconds of the video, which clicks
// and keys set even when the browser cannot play the video.
const player = $("video");
const NO_LANE = 255;
const STEP_SECONDS = 1, LONG_STEP_SECONDS = 10;
let report, output, curves, now = 0, zoom = 1, playable = false;

const bytes = (text) => Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
const end = () => report.start + report.duration;

/* ---- choosing a video and an output ---- */

function showVideo(number) {
  report = page.videos[number];
  [...$("videos").children].forEach((button, k) => button.setAttribute("aria-current", k === number));
  $("name").textContent = report.name;
  for (const id of ["warning", "error"]) $(id).hidden = true;
  $("answer").hidden = !report.outputs;
  $("facts").textContent = "";
  player.pause();
  player.removeAttribute("src");
  if (!report.outputs) return showNote("error", `${report.error.kind}: ${report.error.message}`);
  if (report.warning) showNote("warning", `Only a part could be read: ${report.warning}`);
  $("facts").textContent = `${clock(report.duration)} · ${report.frames} frames`;
  now = report.start;
  load();
  showTimings();
  $("outputs").hidden = report.outputs.length < 2;
  $("outputs").replaceChildren(...report.outputs.map(({ title }, k) =>
    element("button", { textContent: title, onclick: () => showOutput(k) })));
  showOutput(0);
}

function showNote(id, text) {
  $(id).textContent = text;
  $(id).hidden = false;
}

function showOutput(number) {
  output = report.outputs[number];
  [...$("outputs").children].forEach((button, k) => button.setAttribute("aria-pressed", k === number));
  curves = output.curves && {
    ...output.curves,
    winners: bytes(output.curves.winners),
    lanes: output.curves.lanes.map(([label, values]) => ({ label, values: bytes(values) })),
  };
  const laneOf = (label) => curves ? curves.lanes.findIndex((lane) => lane.label === label) : -1;
  $("top").replaceChildren(...output.top.map(([label, confidence]) => {
    const lane = laneOf(label);
    return barred(["li", "span", "span"], label, percent(confidence), confidence, lane < 0 ? "" : colour(lane));
  }));
  showSegments();
  $("timeline").hidden = !curves;
  if (curves) drawTimeline();
  follow();
}

function showTimings() {
  const longest = Math.max(...report.timings.map(([, seconds]) => seconds));
  $("timings").replaceChildren(...report.timings.map(([stage, seconds]) =>
    barred(["div", "dt", "dd"], stage, `${seconds.toFixed(2)} s`, seconds / longest)));
}

function showSegments() {
  $("segments").tBodies[0].replaceChildren(...output.segments.map(([from, to, label, confidence]) => {
    const jump = element("button", { textContent: clock(from), ariaLabel: `Seek to ${clock(from)}` });
    return element("tr", { onclick: () => seek(from) }, element("td", { className: "time" }, jump),
      element("td", { className: "time", textContent: clock(to) }), element("td", { textContent: label }),
      element("td", { className: "number", textContent: percent(confidence) }));
  }));
  $("segments-left-out").hidden = !output.segmentsLeftOut;
  $("segments-left-out").textContent = `${output.segmentsLeftOut} more are not shown here; a CSV or JSON export has all.`;
}

/* ---- the timeline: rows of a grid, and one surface over all of them that is clicked ---- */

function drawTimeline() {
  const rows = [];
  const add = (label, content) => {
    const row = rows.length + 1; // two lines of the grid each: narrow screens put the label above its lane
    for (const cell of [label, content]) cell.style.setProperty("--r", row);
    rows.push(label, content);
  };
  const blank = () => element("div", { className: "label" });
  const strip = element("div", { className: "strip", ariaHidden: "true" },
    ...report.thumbnails.map((src) => element("img", { src, alt: "" })));
  if (report.thumbnails.length) add(blank(), strip);
  add(blank(), drawRuler());
  curves.lanes.forEach((lane, k) => add(
    element("div", { className: `label ${colour(k)}` }, element("span", { className: "swatch" }),
      element("span", { textContent: lane.label })),
    drawLane(lane, k)));
  const facts = { role: "slider", ariaLabel: "Position", ariaValueMin: report.start, ariaValueMax: end() };
  const surface = element("div", { id: "surface", tabIndex: 0, ...facts },
    element("div", { id: "ghost", className: "line", hidden: true }), element("div", { id: "playhead", className: "line" }));
  surface.style.gridRow = `1 / span ${rows.length}`;
  surface.onclick = (event) => seek(secondsAt(event));
  surface.onpointermove = hover;
  surface.onpointerleave = () => { $("tip").hidden = $("ghost").hidden = true; };
  $("rows").replaceChildren(...rows, surface);
  $("left-out").hidden = !curves.labelsLeftOut;
  $("left-out").textContent = `${curves.labelsLeftOut} more labels win for a short time and have no lane.`;
}

function drawRuler() {
  const marks = 6 * zoom, rough = report.duration / marks;
  const step = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600].find((size) => size >= rough) || 7200;
  const ruler = element("div", { className: "ruler", ariaHidden: "true" });
  for (let at = Math.ceil(report.start / step) * step; at < end() - step / 3; at += step) {
    const mark = element("span", { textContent: clock(at, 0) });
    mark.style.left = `${100 * (at - report.start) / report.duration}%`;
    ruler.append(mark);
  }
  return ruler;
}

function drawLane(lane, number) {
  const segments = [];
  curves.winners.forEach((winner, k) => {
    if (winner !== number) return;
    if (segments.at(-1)?.[1] === k) segments.at(-1)[1] = k + 1;
    else segments.push([k, k + 1]);
  });
  const path = (name, areas) =>
    svg("path", { class: name, d: areas.map(([from, to]) => area(lane.values, from, to)).join("") });
  const times = segments.slice(0, 5).map(([from, to]) => `${clock(timeOf(from))} to ${clock(timeOf(to))}`);
  const label = `${lane.label}: ${times.length ? `most likely ${times.join(", ")}` : "never most likely"}`;
  const bins = report.duration / curves.binSeconds; // the last bin need not be full
  return element("div", { className: `lane ${colour(number)}` },
    drawing(bins, label, {}, path("all", [[0, curves.bins]]), path("won", segments)));
}

function area(values, from, to) {
  const height = (value) => (1 - value / 255 * 0.96).toFixed(3);
  const edge = (k) => height((values[Math.max(0, k - 1)] + values[Math.min(values.length - 1, k)]) / 2);
  let path = `M${from} 1V${edge(from)}`;
  for (let k = from; k < to; k++) path += `L${k + 0.5} ${height(values[k])}`;
  return `${path}L${to} ${edge(to)}V1Z`;
}

const timeOf = (bin) => Math.min(end(), report.start + bin * curves.binSeconds);
const binOf = (seconds) => clamp(Math.floor((seconds - report.start) / curves.binSeconds), 0, curves.bins - 1);

function secondsAt(event) {
  const box = $("surface").getBoundingClientRect();
  return report.start + clamp((event.clientX - box.left) / box.width, 0, 1) * report.duration;
}

function hover(event) {
  const seconds = secondsAt(event), bin = binOf(seconds);
  const under = [...document.querySelectorAll(".lane")].findIndex((lane) => {
    const box = lane.getBoundingClientRect();
    return event.clientY >= box.top && event.clientY < box.bottom;
  });
  const lane = under < 0 ? curves.winners[bin] : under;
  const tip = $("tip");
  const label = lane === NO_LANE ? "another label" : `${curves.lanes[lane].label} · ${percent(curves.lanes[lane].values[bin] / 255)}`;
  tip.textContent = `${clock(seconds)} · ${label}`;
  tip.hidden = $("ghost").hidden = false;
  $("ghost").style.left = `${100 * (seconds - report.start) / report.duration}%`;
  tip.style.left = `${clamp(event.clientX + 14, 0, innerWidth - tip.offsetWidth - 4)}px`;
  tip.style.top = `${clamp(event.clientY + 16, 0, innerHeight - tip.offsetHeight - 4)}px`;
}

function setZoom(value) {
  const centre = (now - report.start) / report.duration;
  zoom = clamp(value, 1, 64);
  $("rows").style.setProperty("--zoom", zoom);
  $("rows").classList.toggle("zoomed", zoom > 1);
  document.querySelector(".ruler").replaceChildren(...drawRuler().children);
  $("scroller").scrollLeft = centre * $("surface").offsetWidth - $("surface").offsetWidth / zoom / 2;
  $("zoom-out").disabled = zoom === 1;
}

/* ---- the position ---- */

function seek(seconds) {
  now = clamp(seconds, report.start, end());
  if (playable) player.currentTime = now;
  follow();
}

function follow() {
  $("clock").textContent = clock(now);
  const still = report.thumbnails[Math.floor((now - report.start) / report.duration * report.thumbnails.length)];
  if (still) $("still").src = still;
  [...$("segments").tBodies[0].rows].forEach((row, k) => {
    const [from, to] = output.segments[k];
    row.classList.toggle("on", now >= from && now < to);
  });
  $("current").hidden = !curves;
  if (!curves) return;
  const bin = binOf(now), lane = curves.winners[bin], known = lane !== NO_LANE;
  const label = known ? curves.lanes[lane].label : "another label";
  if ($("current-label").textContent !== label) $("current-label").textContent = label;
  $("current-confidence").textContent = known ? percent(curves.lanes[lane].values[bin] / 255) : "";
  $("current").className = known ? colour(lane) : "";
  document.querySelectorAll(".lane").forEach((cell, k) => {
    cell.classList.toggle("on", k === lane);
    cell.previousElementSibling.classList.toggle("on", k === lane);
  });
  $("playhead").style.left = `${100 * (now - report.start) / report.duration}%`;
  $("surface").setAttribute("aria-valuenow", now.toFixed(1));
  $("surface").setAttribute("aria-valuetext", `${clock(now)}, ${label}`);
}

/* ---- the player ---- */

function load() {
  playable = false;
  player.hidden = false;
  $("still").hidden = $("unplayable").hidden = true;
  if (report.attachment) {
    report.url ??= URL.createObjectURL(new Blob([bytes($(report.attachment).textContent)], { type: report.mediaType }));
  }
  player.src = report.url ?? report.link;
}

player.addEventListener("loadedmetadata", () => {
  playable = player.videoWidth > 0;
  if (!playable) return player.dispatchEvent(new Event("error"));
  if (now > 0) player.currentTime = now;
});
player.addEventListener("error", () => {
  playable = false;
  player.hidden = true;
  $("still").hidden = !report.thumbnails?.length;
  const where = report.attachment ? "" : ", or the file is not beside this page any more";
  $("unplayable").textContent = `This browser cannot play the video${where}. The timeline still works.`;
  $("unplayable").hidden = false;
});
function takeTime() {
  if (playable && report.outputs) {
    now = clamp(player.currentTime, report.start, end());
    follow();
  }
}
function animate() {
  takeTime();
  if (!player.paused && !player.ended) requestAnimationFrame(animate);
}
player.addEventListener("play", animate);
player.addEventListener("timeupdate", takeTime);
player.addEventListener("seeked", takeTime);

// In the capturing phase, so that the player's own keys do not act as well.
document.addEventListener("keydown", (event) => {
  if (!report.outputs || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("button, summary, input, #scroller:focus")) return;
  const step = event.shiftKey ? LONG_STEP_SECONDS : STEP_SECONDS;
  const actions = {
    ArrowLeft: () => seek(now - step),
    ArrowRight: () => seek(now + step),
    " ": () => { if (playable) player.paused ? player.play() : player.pause(); },
  };
  if (!actions[event.key]) return;
  event.preventDefault();
  event.stopPropagation();
  actions[event.key]();
}, true);

$("zoom-in").onclick = () => setZoom(zoom * 2);
$("zoom-out").onclick = () => setZoom(zoom / 2);
$("model").replaceChildren(...definitions(page.model));
$("videos").hidden = page.videos.length < 2;
$("videos").replaceChildren(...page.videos.map((video, k) => element("button", {
  textContent: video.name.split("/").at(-1), title: video.name, className: video.outputs ? "" : "failed",
  ariaLabel: video.outputs ? video.name : `${video.name} (failed)`, onclick: () => showVideo(k),
})));
showVideo(0);
$("zoom-out").disabled = true;
