// Line charts as SVG, redrawn in place: the first series solid, the second dashed.
const NS = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [360, 120, 40, 16, 8];

export class Chart {
  // names: what the series are, the second one optional; unit: what stands behind numbers.
  constructor(title, names, unit) {
    [this.title, this.names, this.unit] = [title, names, unit];
    this.figure = document.createElement("figure");
    const caption = document.createElement("figcaption");
    const head = document.createElement("span");
    head.textContent = title;
    const keys = document.createElement("span");
    names.forEach((name, index) => {
      const key = document.createElement("span");
      key.className = index ? "key two-key" : "key one-key";
      key.textContent = name;
      keys.append(key);
    });
    caption.append(head, keys);
    this.svg = this.#make("svg", {viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", preserveAspectRatio: "none"});
    this.figure.append(caption, this.svg);
    this.parts = {
      axis: this.#make("path", {class: "axis"}),
      top: this.#make("text", {class: "tick", x: LEFT - 4, y: TOP + 8, "text-anchor": "end"}),
      zero: this.#make("text", {class: "tick", x: LEFT - 4, y: HEIGHT - BOTTOM, "text-anchor": "end"}),
      start: this.#make("text", {class: "tick", x: LEFT, y: HEIGHT - 3}),
      end: this.#make("text", {class: "tick", x: WIDTH, y: HEIGHT - 3, "text-anchor": "end"}),
      two: this.#make("path", {class: "line two"}),
      one: this.#make("path", {class: "line one"}),
    };
    this.parts.axis.setAttribute("d", `M${LEFT} ${TOP}V${HEIGHT - BOTTOM}H${WIDTH}`);
    this.svg.append(...Object.values(this.parts));
  }

  // times: Unix milliseconds; series: arrays of numbers or null, as long as times; least: the smallest top of the axis.
  draw(times, series, least = 0) {
    const known = series.flat().filter(value => value !== null);
    const top = niceTop(Math.max(least, ...known, 0));
    const [first, last] = [times[0] ?? 0, times[times.length - 1] ?? 1];
    const x = at => LEFT + (last > first ? (at - first) / (last - first) : 1) * (WIDTH - LEFT);
    const y = value => HEIGHT - BOTTOM - (value / top) * (HEIGHT - BOTTOM - TOP);
    [this.parts.one, this.parts.two].forEach((path, index) => path.setAttribute("d", pathOf(times, series[index] ?? [], x, y)));
    this.parts.top.textContent = short(top);
    this.parts.zero.textContent = "0";
    this.parts.start.textContent = times.length ? clock(first) : "";
    this.parts.end.textContent = times.length ? clock(last) : "";
    const said = this.names.map((name, index) => {
      const values = (series[index] ?? []).filter(value => value !== null);
      if (!values.length) return `${name}: no values yet`;
      return `${name}: now ${short(values[values.length - 1])}${this.unit}, from ${short(Math.min(...values))} to ${short(Math.max(...values))}`;
    });
    this.svg.setAttribute("aria-label", `${this.title}. ${said.join(". ")}`);
  }

  #make(name, attributes) {
    const element = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  }
}

function pathOf(times, values, x, y) {
  let path = "", pen = "M";
  values.forEach((value, index) => {
    if (value === null) { pen = "M"; return; }
    path += `${pen}${x(times[index]).toFixed(1)} ${y(value).toFixed(1)}`;
    pen = "L";
  });
  return path;
}

function niceTop(value) {
  if (value <= 0) return 1;
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].map(factor => factor * unit).find(candidate => candidate >= value * 0.999);
}

export const short = value => Number(value.toPrecision(3)).toString();
export const clock = ms => new Date(ms).toLocaleTimeString([], {hour12: false});
