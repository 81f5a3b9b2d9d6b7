// Follows data.json (segviz_core/federation/dashboard.py) and draws it. Text from elsewhere is only ever set as text.

const REFRESH_MS = 2000, TABLE_ROUNDS = 100;
const STATES = { new: "Not started", starting: "Starting", waiting: "Waiting for sites", running: "Running",
  finished: "Finished", stopped: "Stopped", failed: "Failed" };
const ALONE = ["train-local", "expert"]; // each site its own network; from then on one for all
const DASHES = ["", "8 4", "2 3", "10 3 2 3"];
const MARKS = ["M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0", "M-4-4h8v8h-8z", "M0-5L5 4H-5z", "M0-5L5 0L0 5L-5 0z"];
const SVG = "http://www.w3.org/2000/svg";

const byId = (id) => document.getElementById(id);
const drawn = new Map();
let latest = null;

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function shape(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Replace the content of an element, but only when it is another one: what people read or opened stays as it is. */
function show(id, value, draw) {
  const text = JSON.stringify(value);
  if (drawn.get(id) === text) return;
  drawn.set(id, text);
  byId(id).replaceChildren(...draw(value));
}

function table(caption, heads, rows) {
  const cell = (value, i) => {
    const made = element(i ? "td" : "th", i ? {} : { scope: "row" });
    made.append(...[value].flat());
    if (heads[i].number) made.className = "number";
    return made;
  };
  const head = heads.map(({ title, number }) => element("th", { scope: "col", ...(number && { class: "number" }) }, title));
  return [element("caption", {}, caption), element("thead", {}, element("tr", {}, ...head)),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map(cell))))];
}

const megabytes = (bytes) => bytes < 1e5 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
const rounded = (value, digits) => value === undefined ? "\u2013" : value.toFixed(digits);
const clock = (seconds) => new Date(seconds * 1000).toLocaleString();

function ago(seconds) {
  if (seconds < 90) return `${Math.max(0, Math.round(seconds / 10) * 10)} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h ago` : `${Math.round(seconds / 86400)} days ago`;
}

function head(data) {
  const state = STATES[data.state] || data.state;
  const title = data.study;
  document.title = `${state}, round ${data.finished_rounds} of ${data.rounds} \u00b7 ${title}`;
  show("study", title, (text) => [text]);
  show("state", [state, data.stage_title, data.state], () =>
    [element("strong", {}, state), data.state === "running" && data.stage_title ? `: ${data.stage_title}` : ""]);
  const said = [data.message, data.hint].filter(Boolean).join(" ");
  byId("message").hidden = !said;
  byId("message").className = data.state === "failed" ? "failed" : "";
  show("message", said, (text) => [text]);
  show("rounds-text", [data.finished_rounds, data.rounds],
    ([done, all]) => [`${done} of ${all} rounds finished`]);
  byId("rounds").max = data.rounds;
  byId("rounds").value = data.finished_rounds;
}

function tiles(data) {
  const days = Math.floor(data.certificate_days_left);
  const online = data.sites.filter((site) => site.online).length;
  const values = [
    ["Round", data.state === "finished" ? `${data.rounds} of ${data.rounds}` : `${data.round} of ${data.rounds}`],
    ["Time left", data.time_left || "\u2013"],
    ["Sites online", `${online} of ${data.sites.length}`],
    ["Sent to sites", megabytes(data.bytes_sent)],
    ["Received from sites", megabytes(data.bytes_received)],
    ["Certificate", days < 0 ? "has ended" : `${days} days`, days < 30],
  ];
  show("tiles", values, () => values.map(([name, value, alarm]) =>
    element("div", alarm ? { class: "alarm" } : {}, element("dt", {}, name), element("dd", {}, value))));
}

function sites(data) {
  const heads = [{ title: "Site" }, { title: "Connection" }, { title: "Doing" }, { title: "Organs" },
    { title: "Cases", number: true }, { title: "Last Dice" }, { title: "Sent", number: true },
    { title: "Received", number: true }, { title: "Rejected", number: true }];
  const rows = data.sites.map((site) => {
    const seen = site.removed ? `removed (${site.removed})` : site.online ? "online" : site.seen ? `offline, seen ${ago(data.time - site.seen)}` : "not seen yet";
    const dice = Object.entries(site.dice).map(([organ, value]) => `${organ} ${value.toFixed(2)}`).join(", ");
    return [site.site, { connection: seen, online: site.online, at: site.seen }, site.doing || "\u2013",
      site.organs.join(", ") || "\u2013", site.cases || "\u2013", dice || "\u2013", megabytes(site.bytes_sent),
      megabytes(site.bytes_received), site.rejections];
  });
  show("sites", rows, () => table(`Bytes as the coordinator counts them: sent to and received from the site.`, heads,
    rows.map((row) => row.map((value, i) => i === 1 ? connection(value) : i === 2 ? doing(value) : String(value)))));
}

function connection({ connection, online, at }) {
  const mark = online ? "\u25cf " : "\u25cb ";
  const text = at ? element("time", { datetime: new Date(at * 1000).toISOString(), title: clock(at) }, connection) : connection;
  return element("span", { class: online ? "online" : "offline" }, mark, text);
}

function doing(text) {
  return element("span", text.startsWith("reply rejected") ? { class: "rejected" } : {}, text);
}

function curves(data) {
  const alone = Math.max(0, ...data.history.filter((row) => ALONE.includes(row.stage)).map((row) => row.round));
  show("legend", data.curves.map(({ title, color }) => [title, color]), (lines) => lines.map(([title, color], i) =>
    element("li", {}, sample(color, i), title)));
  for (const [id, title, digits, top] of [["dice", "Dice", 3, 1], ["loss", "Loss", 4, 0]]) {
    const lines = data.curves.map((curve) => ({ ...curve, points: curve[id] }));
    const width = Math.max(300, byId(id).clientWidth);
    show(id, [lines.map(({ organ, points }) => [organ, points]), alone, width], () =>
      [element("figcaption", {}, title), chart({ id, title, lines, alone, digits, top, width })]);
  }
}

function sample(color, i) {
  return shape("svg", { viewBox: "0 0 48 16", "aria-hidden": "true" },
    shape("path", { d: "M2 8H46", stroke: color, "stroke-width": 2.5, "stroke-dasharray": DASHES[i % 4], fill: "none" }),
    shape("path", { d: MARKS[i % 4], transform: "translate(24 8)", fill: color, class: "mark" }));
}

/** `alone`: the last round in which sites train by themselves; 0 where there is none. */
function chart({ id, title, lines, alone, digits, top, width }) {
  const points = lines.flatMap((line) => line.points);
  if (!points.length) return element("p", { class: "note" }, "Nothing yet: no round with this number is finished.");
  const height = 260, left = 44, right = 76, above = 18, below = 34;
  const low = Math.min(...points.map(([round]) => round)), high = Math.max(...points.map(([round]) => round));
  const ceiling = top || nice(Math.max(...points.map(([, value]) => value)));
  const least = Math.min(0, ...points.map(([, value]) => value));
  const floor = least < 0 ? -nice(-least) : 0;
  const x = (round) => left + (width - left - right) * (high > low ? (round - low) / (high - low) : 0.5);
  const y = (value) => height - below - (height - above - below) * (value - floor) / (ceiling - floor);
  const now = lines.filter((line) => line.points.length)
    .map((line) => `${line.title} ${line.points.at(-1)[1].toFixed(digits)}`).join(", ");
  const made = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-labelledby": `${id}-title` },
    shape("title", { id: `${id}-title` }, `${title} against the round; last: ${now}`));
  for (let i = 0; i <= 4; i++) {
    const value = floor + (ceiling - floor) * i / 4;
    made.append(shape("line", { x1: left, x2: width - right, y1: y(value), y2: y(value), class: "grid" }),
      shape("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, String(+value.toPrecision(3))));
  }
  for (const round of ticks(low, high)) {
    made.append(shape("text", { x: x(round), y: height - below + 18, "text-anchor": "middle" }, String(round)));
  }
  made.append(shape("text", { x: (left + width - right) / 2, y: height - 2, "text-anchor": "middle" }, "Round"));
  const together = points.some(([round]) => round > alone);
  if (low <= alone) made.append(shape("text", { x: left + 4, y: above - 6 }, "alone"));
  if (low <= alone && together) {
    const border = x(alone + 0.5);
    made.append(shape("line", { x1: border, x2: border, y1: above - 8, y2: height - below, class: "border" }),
      shape("text", { x: border + 4, y: above - 6 }, "together"));
  }
  lines.forEach((line, i) => draw(made, { line, i, x, y, digits, high, alone }));
  return made;
}

function draw(made, { line, i, x, y, digits, high, alone }) {
  if (!line.points.length) return;
  const place = ([round, value]) => `${x(round).toFixed(1)} ${y(value).toFixed(1)}`;
  const pieces = [line.points.filter(([round]) => round <= alone), line.points.filter(([round]) => round > alone)];
  const path = pieces.filter((piece) => piece.length).map((piece) => `M${piece.map(place).join("L")}`).join("");
  made.append(shape("path", { d: path, stroke: line.color, "stroke-width": 2.5, "stroke-dasharray": DASHES[i % 4],
    "stroke-linejoin": "round", fill: "none", "data-organ": line.organ, "data-points": line.points.length }));
  const marked = line.points.length > 60 ? line.points.slice(-1) : line.points;
  for (const point of marked) {
    made.append(shape("path", { d: MARKS[i % 4], transform: `translate(${place(point)})`, fill: line.color, class: "mark" },
      shape("title", {}, `${line.title}, round ${point[0]}: ${point[1].toFixed(digits)}`)));
  }
  const [round, value] = line.points.at(-1);
  const taken = [...made.querySelectorAll("text.name")].map((text) => Number(text.getAttribute("y")));
  let at = y(value) + 4;
  for (let turn = 1; taken.some((other) => Math.abs(other - at) < 13) && turn < 40; turn++) {
    at = y(value) + 4 + (turn % 2 ? 1 : -1) * Math.ceil(turn / 2) * 4;
  }
  if (x(high) - x(round) < 200) made.append(shape("text", { x: x(high) + 10, y: at, class: "name" }, line.title));
}

function nice(value) {
  if (!(value > 0)) return 1;
  const unit = 10 ** Math.floor(Math.log10(value));
  return unit * [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((step) => step * unit >= value * 0.999);
}

function ticks(low, high) {
  const step = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].find((size) => (high - low) / size <= 9) || high;
  const first = Math.ceil(low / step) * step;
  return Array.from({ length: Math.floor((high - first) / step) + 1 }, (_, i) => first + i * step);
}

function numbers(data) {
  const organs = data.curves.map(({ organ, title }) => ({ organ, title }));
  const rows = data.history.slice(-TABLE_ROUNDS).reverse();
  const heads = [{ title: "Round", number: true }, { title: "Stage" }, { title: "Seconds", number: true },
    { title: "Replies", number: true }, { title: "Rejected", number: true },
    ...organs.flatMap(({ title }) => [{ title: `${title} Dice`, number: true }, { title: `${title} loss`, number: true }])];
  const caption = data.history.length > TABLE_ROUNDS ? `The last ${TABLE_ROUNDS} finished rounds, newest first.`
    : "Finished rounds, newest first.";
  show("history", [rows, organs], () => table(caption, heads, rows.map((row) =>
    [String(row.round), row.stage, row.seconds.toFixed(1), String(row.replies), String(row.rejected),
      ...organs.flatMap(({ organ }) => [rounded(row.dice[organ], 3), rounded(row.loss[organ], 4)])])));
}

function rejections(data) {
  const heads = [{ title: "Round", number: true }, { title: "When" }, { title: "Site" }, { title: "Reason" }];
  show("rejections", data.rejections, (rows) => rows.length
    ? table("Newest first. A rejected reply is not used; the site stays in the study.", heads,
      rows.map((row) => [String(row.round), clock(row.time), row.site, row.reason]))
    : [element("caption", {}, "None so far.")]);
}

async function refresh() {
  try {
    const answer = await fetch("data.json", { cache: "no-store", signal: AbortSignal.timeout(10_000) });
    const data = await answer.json();
    if (!answer.ok) throw new Error(data.message || `the dashboard answered ${answer.status}`);
    latest = data;
    for (const draw of [head, tiles, sites, curves, numbers, rejections]) draw(data);
    byId("trouble").hidden = true;
    byId("updated").textContent = `Last read: ${clock(data.time)}.`;
  } catch (error) {
    const gone = error instanceof TypeError || error.name === "TimeoutError";
    byId("trouble").textContent = gone
      ? "The dashboard does not answer: what you see is old. Start it again: coordinator dashboard STUDY"
      : `The study cannot be shown: ${error.message}`;
    byId("trouble").hidden = false;
  }
  setTimeout(refresh, REFRESH_MS);
}

addEventListener("resize", () => latest && curves(latest));
refresh();
