// A chart over the last minutes, drawn by uPlot. Its legend has the values as text.

import { h, setText } from "./dom.js";
import { time } from "./format.js";
import { WINDOW_SECONDS } from "./rates.js";

const HEIGHT = 150;
const SYNC = "now";
const ticks = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/**
 * Makes a chart. `series` are `{ label, colour }` with the name of a colour; `format` writes a value, and
 * `formatTick` a value at the axis.
 * Returns the element, `show(table)` and `close()`.
 */
export function chart({ title, series, format, formatTick = format }) {
  const values = series.map(() => h("b", { class: "number" }, "–"));
  const legend = series.map((one, index) =>
    h("li", {}, h("i", { class: `key ${one.colour.slice(2)}` }), h("span", {}, one.label), values[index]),
  );
  const plot = h("div", { class: "plot", role: "img", "aria-label": `${title}: a line chart of the last minutes` });
  const when = h("span", { class: "soft number" });
  const element = h(
    "section",
    { class: "chart card" },
    h("h2", {}, title, when),
    h("ul", { class: "legend" }, legend),
    plot,
  );
  let uplot = null;
  let table = [[], ...series.map(() => [])];

  function showValues(index) {
    const isLast = index === null || index === undefined;
    const place = isLast ? table[0].length - 1 : index;
    for (const [column, value] of values.entries()) {
      const number = table[column + 1][place];
      setText(value, number === null || number === undefined ? "–" : format(number));
    }
    setText(when, isLast || place < 0 ? "" : time(new Date(table[0][place] * 1000)));
  }

  const observer = new ResizeObserver(([entry]) => {
    const width = Math.floor(entry.contentRect.width);
    if (width === 0) {
      return;
    }
    if (!globalThis.uPlot) {
      setText(plot, "The charts are not installed: make setup installs them.");
      return;
    }
    if (uplot === null) {
      uplot = new globalThis.uPlot(options(width, series, formatTick, showValues), table, plot);
    } else {
      uplot.setSize({ width, height: HEIGHT });
    }
  });
  observer.observe(plot);

  return {
    element,
    show(shown) {
      table = shown;
      uplot?.setData(table);
      showValues(uplot?.cursor.idx);
    },
    close() {
      observer.disconnect();
      uplot?.destroy();
    },
  };
}

function options(width, series, formatTick, showValues) {
  const axis = {
    stroke: () => colour("--soft"),
    grid: { stroke: () => colour("--line"), width: 1 },
    ticks: { show: false },
    font: "11px system-ui, sans-serif",
  };
  return {
    width,
    height: HEIGHT,
    padding: [8, 4, 0, 0],
    legend: { show: false },
    cursor: { y: false, sync: { key: SYNC }, drag: { x: false, y: false }, points: { size: 6 } },
    hooks: { setCursor: [(uplot) => showValues(uplot.cursor.idx)] },
    scales: {
      x: { time: true, range: (uplot, first, last) => [(last ?? Date.now() / 1000) - WINDOW_SECONDS, last ?? Date.now() / 1000] },
      y: { range: (uplot, least, most) => [0, most > 0 ? most * 1.15 : 1] },
    },
    axes: [
      { ...axis, size: 26, space: 70, values: (uplot, splits) => splits.map((at) => ticks.format(at * 1000)) },
      { ...axis, size: 58, space: 34, values: (uplot, splits) => splits.map((value) => formatTick(value)) },
    ],
    series: [
      {},
      ...series.map((one, index) => ({
        label: one.label,
        stroke: () => colour(one.colour),
        width: 1.75,
        fill: index === 0 ? () => `color-mix(in srgb, ${colour(one.colour)} 12%, transparent)` : undefined,
        points: { show: false },
      })),
    ],
  };
}
