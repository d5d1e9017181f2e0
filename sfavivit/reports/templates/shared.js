
"use strict";
const page = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const percent = (share) => `${Math.round(share * 100)}%`;
const colour = (lane) => `c${lane % 8}`;
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/* A drawing as wide as its cell, with a description for screen readers. */
const drawing = (width, label, attributes, ...children) => svg("svg",
  { viewBox: `0 0 ${width} 1`, preserveAspectRatio: "none", role: "img", "aria-label": label, ...attributes }, ...children);

function clock(seconds, digits = 1) {
  const parts = [seconds / 3600, (seconds / 60) % 60].map(Math.floor);
  const rest = (seconds % 60).toFixed(digits).padStart(digits ? 3 + digits : 2, "0");
  return parts[0] ? `${parts[0]}:${String(parts[1]).padStart(2, "0")}:${rest}` : `${parts[1]}:${rest}`;
}

/* A name, a value and a bar of length `share`, for lists of either kind. */
function barred(tags, name, value, share, className = "") {
  const fill = element("i");
  fill.style.width = percent(share);
  return element(tags[0], { className: `barred ${className}` }, element(tags[1], { textContent: name }),
    element(tags[2], { className: "number", textContent: value }), element("span", { className: "bar" }, fill));
}

const definitions = (facts) => facts.map(([name, value]) =>
  element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value })));
