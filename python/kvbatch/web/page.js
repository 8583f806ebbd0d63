"use strict";
// Shows what /events tells: a snapshot, then every event of the job (docs/python-api.md, Events).

const POINTS = 2400;
const MESSAGES = 20;
const MANY_RANGES = 400;
const token = document.querySelector("meta[name=kvbatch-token]").content;
const element = (id) => document.getElementById(id);

// What is shown: the snapshot, kept up to date by the events behind it.
let job = null;

// -- figures ----------------------------------------------------------------------------------------------------------

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; count >= 1024 && unit < units.length - 1; unit++) count /= 1024;
  return `${unit === 0 ? Math.round(count) : digits(count)} ${units[unit]}`;
}

function count(number) {
  const units = ["", " k", " M", " G"];
  let unit = 0;
  for (; number >= 1000 && unit < units.length - 1; unit++) number /= 1000;
  return `${unit === 0 ? Math.round(number) : digits(number)}${units[unit]}`;
}

const digits = (number) => number.toFixed(number < 9.995 ? 2 : number < 99.95 ? 1 : 0);

function seconds(value) {
  if (value < 0.1) return `${(1000 * value).toFixed(value < 0.01 ? 1 : 0)} ms`;
  if (value < 60) return `${value.toFixed(1)} s`;
  const minutes = Math.floor(value / 60);
  if (minutes < 60) return `${minutes} min ${String(Math.floor(value % 60)).padStart(2, "0")} s`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

const percent = (share) => `${Math.round(100 * share)} %`;

// -- drawing ----------------------------------------------------------------------------------------------------------

function make(name, text, attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function draw(svg, lines, format) {
  const points = job.history.points;
  const column = (name) => job.history.fields.indexOf(name);
  const width = svg.clientWidth, height = svg.clientHeight, left = 72, bottom = 16, top = 8;
  const part = (name, attributes, text = "") => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    svg.append(made);
  };
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  if (!points.length) {
    part("text", { x: 0, y: 14 }, "No samples yet.");
    return;
  }
  const first = points[0][0];
  const span = Math.max(1, points[points.length - 1][0] - first);
  const highest = Math.max(1, ...lines.map((line) => points.reduce((most, point) => Math.max(most, point[column(line.field)]), 0)));
  const x = (time) => left + ((time - first) / span) * (width - left - 4);
  const y = (value) => top + (1 - value / highest) * (height - top - bottom);
  for (const share of [0, 0.5, 1]) {
    const at = y(share * highest);
    part("line", { x1: left, x2: width - 4, y1: at, y2: at });
    part("text", { x: left - 6, y: at + 4, "text-anchor": "end" }, format(share * highest));
  }
  part("text", { x: left, y: height - 2 }, seconds(first));
  part("text", { x: width - 4, y: height - 2, "text-anchor": "end" }, seconds(first + span));
  for (const line of lines) {
    const path = points.map((point, index) => `${index ? "L" : "M"}${x(point[0]).toFixed(1)} ${y(point[column(line.field)]).toFixed(1)}`);
    part("path", { class: line.class, d: path.join("") });
  }
}

function drawShares(body, note, secondsByName, total) {
  const named = Object.entries(secondsByName).filter(([, spent]) => spent > 0).sort((a, b) => b[1] - a[1]);
  body.replaceChildren(...named.map(([name, spent]) => {
    const row = make("tr", "");
    const share = total > 0 ? Math.min(1, spent / total) : 0;
    const bar = make("td", "", { class: "share" });
    bar.append(make("div", ""));
    bar.firstElementChild.style.backgroundSize = `${100 * share}% 100%`;
    row.append(make("td", name), bar, make("td", percent(share)));
    return row;
  }));
  note.hidden = named.length > 0;
}

function drawRanges() {
  const map = element("ranges");
  map.className = job.ranges.length > MANY_RANGES ? "many" : "";
  // Cells are kept: there may be ten thousand of them, of which few change.
  while (map.childElementCount > job.ranges.length) map.lastElementChild.remove();
  while (map.childElementCount < job.ranges.length) map.append(make("i", ""));
  const counts = { waiting: 0, started: 0, complete: 0 };
  job.ranges.forEach((state, number) => {
    counts[state]++;
    const cell = map.children[number];
    if (cell.className !== state) {
      cell.className = state;
      cell.title = `range ${number}: ${state}`;
    }
  });
  element("range-counts").textContent =
    `${counts.waiting} waiting, ${counts.started} started, ${counts.complete} complete`;
}

function drawStreams(streams) {
  element("streams").replaceChildren(...streams.map((stream) => {
    const row = make("tr", "");
    row.append(
      make("td", stream.stream), make("td", stream.range), make("td", bytes(stream.raw_bytes)),
      make("td", bytes(stream.estimated_bytes)), make("td", stream.throttle ?? ""),
    );
    return row;
  }));
  element("stream-table").hidden = streams.length === 0;
  element("streamless").hidden = streams.length > 0;
}

// The lane `files` looks at no entries.
const bytesName = () => (job.lane === "files" ? "bytes of files" : "keys and values");

function drawTotals(now) {
  const known = (value, format) => (value === null ? "not known yet" : format(value));
  const rows = [
    ["entries", `${now.entries.toLocaleString("en")} (${count(now.entries_per_second)}/s)`],
    [bytesName(), bytes(now.raw_bytes)],
    ["durable", `${now.durable_entries.toLocaleString("en")} entries, ${bytes(now.durable_bytes)}`],
    ["on the wire", `${bytes(now.wire_bytes)} in ${count(now.batches)} batches`],
    ["compression", `${now.compression}, ratio ${now.compression_ratio.toFixed(2)}`],
    ["window", now.window ? `${now.window} frames` : "none"],
    ["round trip", known(now.round_trip_seconds, seconds)],
    ["apply", known(now.apply_seconds, seconds)],
    ["rate limit", now.rate_limit ? `${bytes(now.rate_limit)}/s` : "none"],
    ["memory", bytes(now.rss_bytes)],
    ["running for", seconds(now.seconds)],
  ];
  element("totals").replaceChildren(...rows.flatMap(([name, value]) => [make("dt", name), make("dd", value)]));
}

function drawMessages() {
  const lines = [...job.messages].reverse().map((message) => {
    const line = make("li", "");
    const text = message.event === "retry"
      ? `attempt ${message.attempt} failed, retry ${message.retry} of ${message.retries} in ` +
        `${seconds(message.wait_seconds)}: ${message.error}`
      : message.message ?? message.error;
    line.append(make("time", new Date(1000 * message.time).toLocaleTimeString()), text);
    return line;
  });
  element("messages").replaceChildren(...lines);
  element("messageless").hidden = lines.length > 0;
  element("retries").textContent = job.retries ? `${job.retries} ${job.retries === 1 ? "retry" : "retries"}` : "";
}

function drawState(state) {
  element("state").textContent = state;
  element("state").dataset.state = state;
  element("pause").disabled = state !== "running";
  element("resume").disabled = state !== "paused";
  element("set-rate").disabled = state !== "running" && state !== "paused";
}

function redraw() {
  const now = job.progress;
  document.title = `${job.job} – kvbatch`;
  element("job").textContent = job.job;
  element("version").textContent = job.version;
  element("raw-name").textContent = bytesName();
  element("lane").textContent = job.lane ? `lane ${job.lane}: ${job.lane_reason}` : "";
  drawState(job.state);
  const share = job.state === "done" ? 1 : now.estimated_bytes ? Math.min(1, now.raw_bytes / now.estimated_bytes) : 0;
  element("share").textContent = percent(share);
  element("bar").setAttribute("aria-valuenow", Math.round(100 * share));
  element("bar-done").style.width = `${100 * share}%`;
  element("amount").textContent =
    `${count(now.entries)} entries, ${bytes(now.raw_bytes)} of about ${bytes(now.estimated_bytes)}`;
  const left = Math.max(0, now.estimated_bytes - now.raw_bytes);
  element("remaining").textContent =
    job.state === "running" && now.bytes_per_second > 0 ? `${seconds(left / now.bytes_per_second)} left` : "";
  element("rate-now").textContent = `${bytes(now.bytes_per_second)}/s, ${count(now.entries_per_second)} entries/s`;
  element("batch-now").textContent = bytes(now.batch_bytes);
  element("throttle").textContent = job.throttle ? `now: ${job.throttle}` : "now: nothing";
  element("bottleneck").textContent = now.bottleneck ? `bottleneck: ${now.bottleneck}` : "";
  draw(element("throughput"), [
    { field: "wire_bytes_per_second", class: "second" }, { field: "bytes_per_second", class: "first" },
  ], (value) => `${bytes(value)}/s`);
  draw(element("batch"), [{ field: "batch_bytes", class: "first" }], bytes);
  drawShares(element("throttled"), element("unthrottled"), now.throttled_seconds, now.seconds);
  const stages = Object.values(now.stage_seconds).reduce((sum, spent) => sum + spent, 0);
  drawShares(element("stages"), element("unstaged"), now.stage_seconds, stages);
  drawRanges();
  drawStreams(job.finished ? [] : now.stream_progress);
  drawTotals(now);
  drawMessages();
}

// -- events -----------------------------------------------------------------------------------------------------------

const take = {
  snapshot(data) {
    job = data;
    if (job.finished) events.close();
  },
  job(data) {
    const ranges = new Array(data.ranges).fill("waiting");
    for (const number of data.complete) ranges[number] = "complete";
    Object.assign(job, { lane: data.lane, lane_reason: data.lane_reason, ranges });
  },
  range(data) {
    while (job.ranges.length <= data.range) job.ranges.push("waiting");
    job.ranges[data.range] = data.state;
  },
  state(data) {
    job.state = data.state;
  },
  sample(data) {
    job.progress = data;
    job.state = data.state;
    job.history.points.push(job.history.fields.map((field) => data[field]));
    if (job.history.points.length > POINTS) job.history.points = job.history.points.filter((_, index) => index % 2 === 0);
  },
  throttle(data) {
    job.throttle = data.reason;
  },
  retry(data) {
    job.retries++;
    take.warning(data);
  },
  warning(data) {
    job.messages = [...job.messages, data].slice(-MESSAGES);
  },
};

const events = new EventSource("events");
events.onmessage = (message) => {
  const data = JSON.parse(message.data);
  if (!(data.event in take)) return;
  take[data.event](data);
  // While the page is hidden nothing is drawn; what was missed is drawn when it is seen again.
  if (!document.hidden) redraw();
};
events.onerror = () => drawState("disconnected");
document.addEventListener("visibilitychange", () => job && !document.hidden && redraw());
addEventListener("resize", () => job && redraw());

// -- controls ---------------------------------------------------------------------------------------------------------

async function control(request) {
  const answer = element("answer");
  answer.textContent = "";
  try {
    const response = await fetch("control", {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Kvbatch-Token": token },
      body: JSON.stringify(request),
    });
    if (!response.ok) answer.textContent = (await response.json()).error;
  } catch (error) {
    answer.textContent = `the job does not answer: ${error.message}`;
  }
}

element("controls").hidden = token === "";
element("pause").onclick = () => control({ action: "pause" });
element("resume").onclick = () => control({ action: "resume" });
element("controls").onsubmit = (event) => {
  event.preventDefault();
  const rate = element("rate").value.trim().replace(/\/s$/, "");
  control({ action: "set", rate_limit: rate === "" ? 0 : rate });
};
