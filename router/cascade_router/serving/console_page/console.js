// The view "Now": reads what the router tells, every second or as ?every=MS says, and shows it in place.
import {Chart, clock, short} from "/console/charts.js";
import {at, call, chosen, show} from "/console/parts.js";

const EVERY_MS = Number(new URLSearchParams(location.search).get("every")) || 1000;
const KEPT = 720;
const DECISIONS_KEPT = 100;
const percent = value => value === undefined || value === null ? "–" : Math.round(100 * value) + " %";
const seconds = value => value === undefined || value === null ? "–" : short(value) + " s";
const charts = {
  demand: new Chart("Requests a second", ["asked", "planned"], ""),
  latency: new Chart("Latency of 99 %", ["seconds", "objective"], " s"),
  heavy: new Chart("Share of heavy images", ["realised", "planned"], " %"),
  waiting: new Chart("Waiting requests", ["waiting"], ""),
  violations: new Chart("Late or refused, in 5 s", ["requests"], ""),
  quality: new Chart("Quality that the plan expects", ["quality"], ""),
};
at("charts").append(...Object.values(charts).map(chart => chart.figure));
const samples = new Map();
const decisions = new Map();
let last = null;

async function look() {
  const newest = Math.max(0, ...[...samples.values()].map(list => list[list.length - 1]?.atMs ?? 0));
  const view = await call(`/console/state?since=${newest}`);
  for (const cascade of view.cascades) {
    const list = samples.get(cascade.cascade) ?? [];
    const from = list[list.length - 1]?.atMs ?? 0;
    list.push(...cascade.samples.filter(sample => sample.atMs > from));
    samples.set(cascade.cascade, list.slice(-KEPT));
    const decided = decisions.get(cascade.cascade) ?? [];
    const known = new Set(decided.map(decision => decision.generation));
    decided.push(...cascade.decisions.filter(decision => !known.has(decision.generation)));
    decisions.set(cascade.cascade, decided.slice(-DECISIONS_KEPT));
  }
  chosen.offer(view.cascades.map(cascade => ({name: cascade.name, sizes: cascade.sizes})));
  last = view;
  draw();
}

function draw() {
  if (last === null) return;
  const cascade = last.cascades.find(each => each.name === chosen.name) ?? last.cascades[0];
  show("source", `router ${last.router}, ${clock(last.atMs)}` + (last.storeAway ? ": Redis is away, so this is what the router knows alone" : ""));
  if (!cascade) return show("why", "No cascade is served yet.");
  show("reason", cascade.decision.reason);
  show("why", cascade.decision.why);
  show("decided", `Plan ${cascade.decision.generation}, decided at ${clock(cascade.decision.atMs)}.`);
  show("chains", cascade.rows.map(way).join("; ") + ".");
  tiles(cascade);
  curves(cascade);
  tables(cascade);
  timeline(decisions.get(cascade.cascade));
}

function way(row) {
  const shares = row.chain.length > 1 ? ` (${percent(row.share * row.direct)} of all direct, ${percent(row.share * (1 - row.direct) * row.escalation)} escalated)` : "";
  return `${percent(row.share)} of all prompts: ${row.chain.join(", then ")}${shares}`;
}

function tiles(cascade) {
  const {expected, work} = cascade;
  const late = cascade.latencyP99S > cascade.objectiveS;
  const refused = Object.entries(cascade.refusals).map(([reason, count]) => `${count} ${reason}`).join(", ");
  const confidence = Object.values(cascade.confidence);
  const {floor} = expected;
  const wanted = floor ? `no worse than ${floor.noWorseThan}: ${floor.held ? "held" : "not held"}; ` : "";
  const told = [
    ["Requests a second", short(cascade.demand), `planned for ${short(expected.demand)}`],
    ["Latency of 99 %", seconds(cascade.latencyP99S), `objective ${seconds(cascade.objectiveS)}, half within ${seconds(cascade.latencyP50S)}; expected ${seconds(expected.latencyP99)}${expected.degraded >= 0.005 ? ", " + percent(expected.degraded) + " degraded" : ""}`, late],
    ["Late or refused", String(cascade.violations), `of ${cascade.answered} answered; ${cascade.degraded} degraded${refused ? "; refused: " + refused : ""}`, cascade.violations > 0],
    ["Quality expected", short(expected.quality), wanted + (confidence.length ? `light images' confidence ${short(confidence[0])}` : "no light images lately"), floor && !floor.held],
    ["Accelerators at work", short(work.planned), `${short(work.allHeavy)} if all images were heavy`],
    ["Cost an hour", expected.costPerHour, work.planned > 0 && Number(expected.costPerHour) > 0 ? `all-heavy: ${short(Number(expected.costPerHour) * work.allHeavy / work.planned)} for the same work` : ""],
  ];
  rows(at("tiles"), told, told.map(each => each[0]), () => {
    const tile = document.createElement("div");
    tile.append(...["dt", "dd", "dd"].map(name => document.createElement(name)));
    return tile;
  }, (tile, [name, value, more, bad]) => {
    [name, value, more].forEach((text, index) => show(tile.children[index], text));
    tile.classList.toggle("bad", Boolean(bad));
  });
}

function curves(cascade) {
  const list = samples.get(cascade.cascade);
  const times = list.map(sample => sample.atMs);
  const of = field => list.map(sample => sample[field] ?? null);
  const share = field => of(field).map(value => value === null ? null : 100 * value);
  charts.demand.draw(times, [of("demand"), of("plannedDemand")], 1);
  charts.latency.draw(times, [of("latencyP99S"), list.map(() => cascade.objectiveS)]);
  charts.heavy.draw(times, [share("heavy"), share("plannedHeavy")], 100);
  charts.waiting.draw(times, [of("waiting")], 5);
  charts.violations.draw(times, [of("violations")], 5);
  charts.quality.draw(times, [of("quality")]);
}

function tables(cascade) {
  table("shares", Object.entries(cascade.plannedShares), ([route]) => route, ([route, planned]) => {
    const realised = cascade.realisedShares[route];
    return [route, percent(planned), percent(realised), {share: realised ?? 0}];
  });
  table("variants", cascade.variants, variant => variant.name, variant => [
    variant.name, String(variant.steps), percent(variant.share),
    cascade.confidence[variant.name] === undefined ? "–" : short(cascade.confidence[variant.name])]);
  table("queues", cascade.queues, queue => queue.name, queue => [
    `${queue.variants.join(" and ")} on ${queue.class}`, String(queue.waiting), String(queue.inFlight),
    queue.expectedWaitS === null ? {warn: "nothing serves it"} : seconds(queue.expectedWaitS), short(queue.imageS), String(queue.batch)]);
  show("worker-count", String(cascade.workers.length));
  table("workers", cascade.workers, worker => worker.id, worker => [
    worker.id, worker.class,
    worker.trusted && worker.state === "ready" ? worker.state : {warn: worker.state + (worker.trusted ? "" : ", not trusted")},
    worker.hosts.join(" and ") || "nothing",
    Object.entries(worker.inUse).map(([name, used]) => `${name} ${used} of ${worker.credits[name] ?? 0}`).join(", ") || "none"]);
}

function timeline(decided) {
  rows(at("decisions"), [...decided].reverse(), decided.map(each => each.generation).reverse(), () => {
    const item = document.createElement("li");
    item.append(document.createElement("time"), document.createElement("span"));
    return item;
  }, (item, decision) => {
    show(item.children[0], clock(decision.atMs));
    show(item.children[1], decision.why);
  });
}

function table(id, list, key, cells) {
  rows(at(id), list, list.map(key), () => document.createElement("tr"), (row, entry) => {
    cells(entry).forEach((cell, index) => {
      const box = row.children[index] ?? row.appendChild(document.createElement(index ? "td" : "th"));
      if (!index) box.scope = "row";
      if (typeof cell === "string") { show(box, cell); box.classList.remove("warn"); return; }
      if (cell.warn !== undefined) { show(box, cell.warn); box.classList.add("warn"); return; }
      const bar = box.firstChild ?? box.appendChild(Object.assign(document.createElement("span"), {className: "bar"}));
      bar.style.setProperty("--share", cell.share);
    });
  });
}

// One child of a parent for each entry, in order; a child stays with its key, so that nothing is made anew in vain.
function rows(parent, entries, keys, make, fill) {
  const known = new Map([...parent.children].map(child => [child.dataset.key, child]));
  entries.forEach((entry, index) => {
    const key = String(keys[index]);
    const child = known.get(key) ?? Object.assign(make(), {});
    child.dataset.key = key;
    known.delete(key);
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
    fill(child, entry);
  });
  for (const gone of known.values()) gone.remove();
}

chosen.onChange(draw);
async function watch() {
  for (;;) {
    try {
      if (!document.hidden) { await look(); show("trouble", ""); }
    } catch (error) {
      show("trouble", error.message);
    }
    await new Promise(wake => setTimeout(wake, EVERY_MS));
  }
}
watch();
