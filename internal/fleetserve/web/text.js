// How figures are written, and paths are drawn. A figure that is not known is "-".

export const unknown = "-";

const whole = new Intl.NumberFormat("en");

export const number = (n) => (n == null || n < 0 ? unknown : whole.format(n));

// short is a figure in about four characters.
export function short(n) {
  if (n == null || n < 0) return unknown;
  if (n < 10_000) return whole.format(n);
  if (n < 999_500) return `${Math.round(n / 1000)}k`;
  return `${(n / 1e6).toFixed(1).replace(/\.0$/, "")}M`;
}

export function percent(share) {
  if (share == null) return unknown;
  return `${share > 0 && share < 9.95 ? share.toFixed(1) : Math.round(Math.min(share, 999_999))} %`;
}

export function bytes(n) {
  if (n == null) return unknown;
  let unit = 0;
  for (; n >= 1023.5 && unit < 4; unit++) n /= 1024;
  return `${n < 9.95 && unit > 0 ? n.toFixed(1) : Math.round(n)} ${["B", "KiB", "MiB", "GiB", "TiB"][unit]}`;
}

export function span(seconds) {
  if (seconds == null) return unknown;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  if (seconds < 48 * 3600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

export const plural = (n, noun) => `${number(n)} ${noun}${n === 1 ? "" : "s"}`;

export function clock(time) {
  const at = new Date(time);
  if (Number.isNaN(at.getTime())) return unknown;
  const two = (n) => String(n).padStart(2, "0");
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

// setText writes a text where it is not there already.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// element makes one with a text. All that comes from elsewhere is text, never markup.
export function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

// draw draws points, the oldest first, -1 for one that is not known, into an SVG of 360 x
// 100: its width is `most` points, the newest is at the right. limit is a line across, full
// what the height is at least.
export function draw(svg, points, most, limit = null, full = 0) {
  const known = points.filter((n) => n >= 0);
  const top = Math.max(1, limit ?? 0, full, ...known) * 1.08;
  const x = (i) => (360 * (most - points.length + i)) / Math.max(1, most - 1);
  const y = (n) => 97 - (94 * n) / top;
  let line = "", area = "", start = -1;
  points.forEach((n, i) => {
    if (n < 0) return;
    const at = `${x(i).toFixed(1)} ${y(n).toFixed(1)}`;
    if (i === 0 || points[i - 1] < 0) {
      start = i;
      line += `M${at}`;
      area += `M${x(i).toFixed(1)} 100L${at}`;
    } else {
      line += `L${at}`;
      area += `L${at}`;
    }
    if (i + 1 === points.length || points[i + 1] < 0) {
      if (start === i) line += "h.1";
      area += `L${x(i).toFixed(1)} 100Z`;
    }
  });
  svg.querySelector(".line").setAttribute("d", line);
  svg.querySelector(".area").setAttribute("d", area);
  svg.querySelector(".limit")?.setAttribute("d", limit ? `M0 ${y(limit).toFixed(1)}H360` : "");
}
