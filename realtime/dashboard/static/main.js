// The page: what is looked at is in the address, what happens comes by the stream.
import { draw, fillLegend, fillTable, forget } from "./chart.js";
import { Live } from "./live.js";
import { duration, language, money, nameOf, number, percent, reasonOf, speak, time, word } from "./words.js";

const $ = (id) => document.getElementById(id);
const STATUSES = ["in_review", "approved", "rejected", "cancelled"];
const WINDOWS = ["hour", "day", "yesterday", "month"];
const PAGE = 50; // orders that are shown at first, and each time that more are wanted
const FETCHED = 100; // orders of an answer
const PAUSE = 100; // ms between two drawings, at least: a reader sees no more

const scope = document.body.dataset.partner;
const texts = JSON.parse(document.body.dataset.reasons);
const orders = new Map(); // by id: what is known of each
const rows = new Map(); // by id: its line in the table
let summary = null;
let drawn = null; // the summary that is on the page
let limit = PAGE;
let paused = false;
let standing = "connecting";
let timer = 0;
let drawnAt = 0;
let opener = null;

// ---------- what is looked at

function view() {
  const given = new URLSearchParams(location.search);
  const window = WINDOWS.includes(given.get("window")) ? given.get("window") : "hour";
  const status = STATUSES.includes(given.get("status")) ? given.get("status") : "";
  return { window, partner: given.get("partner") ?? "", product: given.get("product") ?? "", status, order: given.get("order") ?? "" };
}

function queryOf({ window, partner, product, status, order }) {
  const query = new URLSearchParams({ window });
  for (const [name, value] of Object.entries({ partner, product, status, order })) if (value) query.set(name, value);
  return query;
}

function look(change) {
  history.pushState(null, "", `/dashboard?${queryOf({ ...view(), ...change })}`);
  follow();
}

let followed = {};

function follow() {
  const before = followed;
  const now = followed = view();
  if (["window", "partner", "product", "status"].some((name) => now[name] !== before[name])) {
    limit = PAGE;
    live.open(queryOf({ ...now, order: "" }).toString());
    $("csv").href = `/dashboard/api/orders.csv?${queryOf({ ...now, order: "" })}`;
    drawFilters();
  }
  if (now.order !== before.order) showStory(now.order);
}

// ---------- what happens

const live = new Live({
  standing(how) {
    standing = how;
    drawStanding();
  },
  state(data) {
    orders.clear();
    data.orders.forEach(take);
    summary = data.summary;
    drawFilters();
    drawSoon();
    if (orders.size < PAGE) loadMore(PAGE);
  },
  orders(data) {
    data.forEach(take);
    trim();
    drawSoon();
    const { order } = view();
    if (order && data.some(([id]) => id === order)) showStory(order);
  },
  summary(data) {
    const options = JSON.stringify(summary?.options);
    summary = data;
    if (JSON.stringify(data.options) !== options) drawFilters();
    drawSoon();
  },
});

function take([id, seq, event, from, status, partner, product, currency, requested, approved, created, at, reasons]) {
  const known = orders.get(id);
  if (known && known.seq > seq) return;
  orders.set(id, { id, seq, status, partner, product, currency, requested, approved, created, at, reasons });
}

function visible() {
  const { window, status } = view();
  const first = summary?.series.start[0] ?? 0;
  const last = window === "yesterday" ? (summary?.series.start.at(-1) ?? 0) + 3600e3 : Infinity;
  return [...orders.values()]
    .filter((o) => (!status || o.status === status) && o.created >= first && o.created < last)
    .sort((a, b) => b.created - a.created || (a.id < b.id ? 1 : -1));
}

function trim() {
  if (orders.size < limit * 4) return;
  const kept = new Set(visible().slice(0, limit * 2).map((o) => o.id));
  for (const id of orders.keys()) if (!kept.has(id)) orders.delete(id);
}

async function loadMore(wanted) {
  const asked = location.search;
  const shown = visible();
  const last = shown.at(Math.min(shown.length, limit) - 1);
  const query = queryOf({ ...view(), order: "" });
  if (last) query.set("after", `${last.created}.${last.id}`);
  const answer = await fetch(`/dashboard/api/orders?${query}`).catch(() => null);
  if (!answer?.ok || location.search !== asked) return;
  const found = await answer.json();
  for (const row of found) if (!orders.has(row[0])) take(row);
  limit = Math.max(wanted, Math.min(limit, orders.size));
  $("more").dataset.over = found.length < FETCHED ? "yes" : "";
  drawSoon();
}

// ---------- drawing

function drawSoon() {
  if (paused || timer) return;
  const wait = Math.max(0, drawnAt + PAUSE - performance.now());
  timer = setTimeout(() => {
    timer = 0;
    drawnAt = performance.now();
    drawAll();
  }, wait);
}

function drawAll() {
  drawOrders();
  if (!summary || summary === drawn) return;
  drawn = summary;
  drawFigures();
  drawChart();
  drawHealth();
  drawReasons();
  drawAmounts("products", summary.products, "product", nameOf);
  drawAmounts("partners", summary.partners, "partner", (name) => name);
}

function make(tag, given = {}, ...children) {
  const made = Object.assign(document.createElement(tag), given);
  made.append(...children);
  return made;
}

function set(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function drawFigures() {
  const { counts, totals } = summary;
  const all = STATUSES.reduce((sum, status) => sum + counts[status], 0);
  const sums = (place) => totals.length ? totals.map((line) => money(line[place], line[0], true)) : ["–"];
  const tiles = [
    ["total", [number(all)]],
    ...STATUSES.map((status) => [`${status}s`, [number(counts[status])], status]),
    ["rate", [percent(summary.approval_rate)]], ["requested", sums(2)], ["approved_amount", sums(3)],
    ["p50", [duration(summary.decision_seconds.p50)]], ["p95", [duration(summary.decision_seconds.p95)]],
  ];
  const list = $("figures");
  if (list.children.length !== tiles.length) {
    list.replaceChildren(...tiles.map(([, , status]) =>
      make("div", { className: status ? `tile ${status}` : "tile" }, make("dt"), make("dd"))));
  }
  tiles.forEach(([name, lines], place) => {
    const [term, value] = list.children[place].children;
    list.children[place].id = `figure-${name}`;
    set(term, word(name));
    if (value.dataset.text === lines.join("\n")) return;
    value.dataset.text = lines.join("\n");
    value.replaceChildren(...lines.map((text) => make("span", { textContent: text })));
  });
}

function theme() {
  return document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}

function drawChart() {
  set($("chart-title"), word(`chart_${summary.window}`));
  const all = STATUSES.reduce((sum, status) => sum + summary.series[status].reduce((a, b) => a + b, 0), 0);
  set($("chart-summary"), word("chart_text", number(all), STATUSES.map((s) => `${word(`${s}s`)}: ${number(summary.counts[s])}`).join(", ")));
  draw($("chart"), summary, theme());
  if ($("chart-table").closest("details").open) fillTable($("chart-table"), summary);
}

function drawHealth() {
  const { health } = summary;
  const bureau = health.bureau_is_up == null ? "unknown" : health.bureau_is_up ? "up" : "down";
  const shown = [[word("bureau"), word(bureau), { up: "good", down: "bad", unknown: "idle" }[bureau]]];
  if (health.waiting !== undefined) {
    const late = health.oldest_seconds > 15;
    shown.push([word("queue"), health.waiting ? word("waiting", number(health.waiting), duration(health.oldest_seconds)) : word("empty_queue"), late ? "bad" : "good"]);
    shown.push([word("dead"), number(health.dead_letters), health.dead_letters ? "bad" : "good"]);
  }
  if (health.workers !== undefined) shown.push([word("workers"), number(health.workers ?? 0), health.workers ? "good" : "bad"]);
  const text = JSON.stringify(shown);
  if ($("health").dataset.text === text) return;
  $("health").dataset.text = text;
  $("health").replaceChildren(...shown.map(([term, value, how]) =>
    make("div", {}, make("dt", { textContent: term }), make("dd", { className: how, textContent: value }))));
}

function drawReasons() {
  const text = language + JSON.stringify(summary.reasons);
  if ($("reasons").dataset.text === text) return;
  $("reasons").dataset.text = text;
  const most = Math.max(1, ...summary.reasons.map(([, n]) => n));
  const items = summary.reasons.map(([code, n]) => {
    const bar = make("span", { className: "fill" });
    bar.style.width = `${(100 * n) / most}%`;
    return make("li", { title: texts[code] ?? code }, make("span", { textContent: reasonOf(code) }),
      make("strong", { textContent: number(n) }), make("span", { className: "track", ariaHidden: "true" }, bar));
  });
  $("reasons").replaceChildren(...(items.length ? items : [make("li", { className: "muted", textContent: word("no_reasons") })]));
}

function drawAmounts(id, lines, term, name) {
  const table = $(id);
  const text = language + JSON.stringify(lines);
  if (table.dataset.text === text) return;
  table.dataset.text = text;
  const head = [term, "count", "requested", "approved_amount"];
  const sorted = [...lines].sort((a, b) => b[2] - a[2] || b[3] - a[3]);
  table.replaceChildren(
    make("thead", {}, make("tr", {}, ...head.map((h) => make("th", { scope: "col", textContent: word(h) })))),
    make("tbody", {}, ...sorted.map(([what, currency, count, requested, approved]) => {
      const button = make("button", { type: "button", className: "link", textContent: name(what) });
      button.addEventListener("click", () => look({ [term]: what }));
      return make("tr", {}, make("th", { scope: "row" }, term === "partner" && scope ? name(what) : button),
        make("td", { textContent: number(count) }), make("td", { textContent: money(requested, currency) }),
        make("td", { textContent: money(approved, currency) }));
    })),
  );
}

const COLUMNS = ["time", "order", "partner", "product", "amount", "status", "detail"];

function drawOrders() {
  const all = visible();
  const shown = all.slice(0, limit);
  const body = $("orders").tBodies[0];
  const wanted = new Set(shown.map((o) => o.id));
  for (const [id, line] of rows) if (!wanted.has(id)) { line.remove(); rows.delete(id); }
  let next = body.firstElementChild;
  for (const order of shown) {
    let line = rows.get(order.id);
    if (!line) rows.set(order.id, line = makeLine(order));
    fillLine(line, order);
    if (line === next) next = line.nextElementSibling;
    else body.insertBefore(line, next);
  }
  $("none").hidden = shown.length > 0;
  set($("none"), word("no_orders"));
  set($("shown"), shown.length ? word("shown", number(shown.length)) : "");
  $("more").hidden = !shown.length || (all.length <= limit && $("more").dataset.over === "yes");
}

function makeLine(order) {
  const button = make("button", { type: "button", className: "link mono", textContent: order.id.slice(0, 8) });
  button.setAttribute("aria-label", `${word("order")} ${order.id}`);
  button.addEventListener("click", () => { opener = button; look({ order: order.id }); });
  const line = make("tr", {}, ...COLUMNS.map(() => make("td")));
  line.dataset.order = order.id;
  line.cells[1].append(button);
  return line;
}

function fillLine(line, order) {
  const stamp = `${order.seq}${order.status}${language}`;
  if (line.dataset.stamp === stamp) return;
  if (line.dataset.stamp) { line.classList.remove("changed"); void line.offsetWidth; line.classList.add("changed"); }
  line.dataset.stamp = stamp;
  const [at, , partner, product, amount, status, detail] = line.cells;
  const today = time(order.created, "day") === time(summary?.as_of ?? order.created, "day");
  at.textContent = time(order.created, today ? "second" : "full");
  partner.textContent = order.partner;
  product.textContent = nameOf(order.product);
  amount.textContent = money(order.requested, order.currency);
  status.replaceChildren(make("span", { className: `chip ${order.status}`, textContent: word(order.status) }));
  detail.textContent = order.status === "approved" && order.approved !== null && order.approved !== order.requested
    ? money(order.approved, order.currency) : order.reasons.map(reasonOf).join("; ");
}

function drawStanding() {
  const how = paused ? "paused" : standing;
  $("live").className = `pill ${how}`;
  set($("live"), word(how));
}

function drawFilters() {
  const now = view();
  const options = summary?.options ?? { partners: [], products: [] };
  $("windows").setAttribute("aria-label", word("window"));
  $("windows").replaceChildren(...WINDOWS.map((name) => {
    const button = make("button", { type: "button", textContent: word(name) });
    button.setAttribute("aria-pressed", String(name === now.window));
    button.addEventListener("click", () => { look({ window: name }); $("windows").querySelector("[aria-pressed=true]").focus(); });
    return button;
  }));
  choose($("partner"), options.partners, now.partner, (name) => name);
  choose($("product"), options.products, now.product, nameOf);
  choose($("status"), STATUSES, now.status, word);
  $("clear").hidden = !(now.partner || now.product || now.status);
}

function choose(select, values, chosen, name) {
  const all = chosen && !values.includes(chosen) ? [...values, chosen] : values;
  const text = language + all.join() + chosen;
  if (select.dataset.text === text) return;
  select.dataset.text = text;
  select.replaceChildren(make("option", { value: "", textContent: word("all") }),
    ...all.map((value) => make("option", { value, textContent: name(value) })));
  select.value = chosen;
}

// ---------- one order

async function showStory(id) {
  const dialog = $("story");
  if (!id) {
    if (dialog.open) dialog.close();
    return;
  }
  if (!dialog.open) {
    set($("story-title"), word("order"));
    $("story-body").replaceChildren(make("p", { className: "muted", textContent: word("loading") }));
    dialog.showModal();
  }
  const answer = await fetch(`/dashboard/api/orders/${encodeURIComponent(id)}`).catch(() => null);
  if (view().order !== id) return;
  if (!answer?.ok) {
    $("story-body").replaceChildren(make("p", { role: "alert", textContent: word(answer?.status === 404 ? "not_found" : "failed") }));
    return;
  }
  fillStory(await answer.json());
}

function facts(pairs) {
  return make("dl", { className: "facts" }, ...pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([term, value]) => make("div", {}, make("dt", { textContent: term }), make("dd", { textContent: value }))));
}

function fillStory(order) {
  $("story-title").replaceChildren(`${word("order")} `, make("span", { className: "mono", textContent: order.order_id }));
  const events = order.events.map((event) => {
    const who = event.reviewer ?? word(event.actor);
    return make("li", { className: event.to },
      make("strong", { textContent: word(event.type) }),
      make("span", { className: "muted", textContent: ` ${time(event.at, "full")} · ${word("by")} ${who}` }),
      ...(event.reason ? [make("p", { textContent: event.reason })] : []));
  });
  const evaluations = order.evaluations.map((e) => make("article", { className: "evaluation" },
    make("h4", {}, `${word(e.provider === "policy" ? "policy_provider" : e.provider)}: ${word(e.decision)}`),
    facts([[word("time"), time(e.at, "full")], [word("score"), e.score === undefined || e.score === null ? "" : number(e.score)],
      [word("model"), e.model_version], [word("latency"), e.latency_ms == null ? "" : duration(e.latency_ms / 1000)]]),
    ...(e.reasons.length ? [make("ul", {}, ...e.reasons.map((r) => make("li", {}, language === "en" ? reasonOf(r.code) : r.text, " ", make("code", { textContent: r.code }))))] : []),
    ...(e.inputs ? [make("details", {}, make("summary", { textContent: word("inputs") }), inputs(e.inputs))] : [])));
  $("story-body").replaceChildren(
    make("p", {}, make("span", { className: `chip ${order.status}`, textContent: word(order.status) })),
    facts([[word("partner"), order.partner_id], [word("product"), nameOf(order.product)],
      [word("requested"), money(order.requested_amount, order.currency)],
      [word("approved_amount"), order.approved_amount === null ? "" : money(order.approved_amount, order.currency)],
      [word("term"), word("months", order.term_months)],
      [word("interest"), order.interest_rate === null ? "" : percent(order.interest_rate)],
      [word("purpose"), order.purpose ? nameOf(order.purpose) : ""], [word("policy"), order.policy_version]]),
    make("h3", { textContent: word("events") }), make("ol", { className: "timeline" }, ...events),
    ...(evaluations.length ? [make("h3", { textContent: word("evaluations") }), ...evaluations] : []));
}

function inputs(given) {
  const flat = Object.entries(given).flatMap(([name, value]) =>
    value && typeof value === "object" ? Object.entries(value) : [[name, value]]);
  return make("table", { className: "inputs" }, make("tbody", {}, ...flat.map(([name, value]) =>
    make("tr", {}, make("th", { scope: "row", textContent: name.replaceAll("_", " ") }), make("td", { textContent: value === null ? "–" : String(value) })))));
}

// ---------- the page itself

function drawWords() {
  document.title = word("title");
  for (const node of document.querySelectorAll("[data-word]")) set(node, word(node.dataset.word));
  set($("who"), scope ? `${document.body.dataset.name} · ${scope}` : `${document.body.dataset.name} · ${word("staff")}`);
  set($("language"), word("language"));
  $("language").lang = language === "en" ? "pt-BR" : "en";
  set($("theme"), word(theme() === "dark" ? "light" : "dark"));
  set($("pause"), word(paused ? "resume" : "pause"));
  set($("csv"), word("csv"));
  set($("close"), word("close"));
  const head = $("orders").tHead.rows[0];
  head.replaceChildren(...COLUMNS.map((name) => make("th", { scope: "col", textContent: word(name) })));
  fillLegend($("legend"));
  drawFilters();
  drawStanding();
  drawn = null;
  drawAll();
}

function keep(name, value) {
  try { localStorage.setItem(name, value); } catch { /* a browser that keeps nothing */ }
}

function kept(name) {
  try { return localStorage.getItem(name); } catch { return null; }
}

for (const name of ["partner", "product", "status"]) $(name).addEventListener("change", (event) => look({ [name]: event.target.value }));
$("clear").addEventListener("click", () => { look({ partner: "", product: "", status: "" }); $("status").focus(); });
$("more").addEventListener("click", () => { const all = visible().length; limit += PAGE; if (all < limit) { limit -= PAGE; loadMore(limit + PAGE); } else drawSoon(); });
$("pause").addEventListener("click", () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", String(paused));
  set($("pause"), word(paused ? "resume" : "pause"));
  drawStanding();
  drawSoon();
});
$("language").addEventListener("click", () => {
  speak(language === "en" ? "pt-BR" : "en");
  keep("language", language);
  forget();
  drawWords();
  if (view().order) showStory(view().order);
});
$("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = theme() === "dark" ? "light" : "dark";
  keep("theme", document.documentElement.dataset.theme);
  forget();
  drawWords();
});
$("close").addEventListener("click", () => $("story").close());
$("story").addEventListener("close", () => {
  if (view().order) look({ order: "" });
  (opener?.isConnected ? opener : $("orders-title")).focus?.();
});
$("chart-table").closest("details").addEventListener("toggle", () => summary && drawChart());
new ResizeObserver(() => summary && drawChart()).observe($("chart"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { forget(); drawWords(); });
addEventListener("popstate", follow);

if (scope) $("partner-field").hidden = $("partners-card").hidden = true;
speak(kept("language") ?? (navigator.language.startsWith("pt") ? "pt-BR" : "en"));
drawWords();
follow();
