// The chart of orders by status over time: stacked bars by uPlot, and the same numbers as a table.
import { language, number, time, word } from "./words.js";

const STATUSES = ["approved", "rejected", "in_review", "cancelled"];
let plot = null;
let drawn = "";

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function stack(series) {
  const sums = series.start.map(() => 0);
  return STATUSES.map((status) => series[status].map((n, place) => (sums[place] += n)));
}

/** Draws what is new; makes a new chart only where its form has changed. */
export function draw(place, summary, theme) {
  const { series, window: span } = summary;
  const kind = span === "month" ? "day" : "minute";
  const step = series.start.length > 1 ? series.start[1] - series.start[0] : 3600e3;
  const form = [span, language, theme, place.clientWidth].join();
  // Slices begin at their time: a bar is drawn in the middle of its slice.
  const data = [series.start.map((ms) => (ms + step / 2) / 1000), ...stack(series).reverse()];
  if (form !== drawn) {
    plot?.destroy();
    const bars = uPlot.paths.bars({ size: [0.82, 36], radius: 0.12 });
    const grid = { stroke: color("line"), width: 1 };
    const axis = { stroke: color("muted"), grid, ticks: { show: false }, font: "12px system-ui" };
    plot = new uPlot({
      width: place.clientWidth,
      height: 250,
      cursor: { drag: { x: false, y: false }, points: { show: false } },
      legend: { show: false },
      scales: {
        x: { time: false, range: () => [series.start[0] / 1000, (series.start.at(-1) + step) / 1000] },
        y: { range: (_, __, max) => [0, Math.max(4, max * 1.08)] },
      },
      axes: [
        { ...axis, grid: { show: false }, values: (_, at) => at.map((s) => time(s * 1000, kind)), space: 64,
          incrs: [60, 300, 600, 900, 3600, 10800, 14400, 86400, 172800, 432000] },
        { ...axis, size: 48, values: (_, at) => at.map((n) => (Number.isInteger(n) ? number(n) : "")) },
      ],
      series: [{}, ...[...STATUSES].reverse().map((status) => ({
        label: status, paths: bars, fill: color(`${status}-bar`), stroke: color(`${status}-bar`), width: 0, points: { show: false },
      }))],
    }, data, place);
    drawn = form;
  } else {
    plot.scales.x.range = () => [series.start[0] / 1000, (series.start.at(-1) + step) / 1000];
    plot.setData(data);
  }
}

/** Lets the chart be made anew, in other colours or words. */
export function forget() {
  drawn = "";
}

export function fillTable(table, summary) {
  const kind = summary.window === "month" ? "day" : "minute";
  const head = [word("time"), ...STATUSES.map((status) => word(`${status}s`))];
  table.replaceChildren();
  const row = table.createTHead().insertRow();
  for (const text of head) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = text;
    row.append(cell);
  }
  const body = table.createTBody();
  summary.series.start.forEach((ms, place) => {
    const line = body.insertRow();
    line.insertCell().textContent = time(ms, kind);
    for (const status of STATUSES) line.insertCell().textContent = number(summary.series[status][place]);
  });
}

export function fillLegend(list) {
  list.replaceChildren(...STATUSES.map((status) => {
    const item = document.createElement("li");
    item.className = status;
    item.textContent = word(`${status}s`);
    return item;
  }));
}
