// A list of any length: only the rows that are visible are in the page. The rows have one height.

import { h } from "./dom.js";

const AROUND = 8;
const NEAR_ROWS = 40;

export class VirtualList {
  /**
   * `render(item)` returns the children of a row; `select(item)` is called for a chosen row; `more()` is called
   * near the end, until `isComplete`.
   */
  constructor({ label, render, select, more }) {
    this.items = [];
    this.isComplete = false;
    this.selected = -1;
    this._render = render;
    this._select = select;
    this._more = more;
    this._rows = new Map();
    this._space = h("div", { class: "space", role: "presentation" });
    this.element = h(
      "div",
      {
        class: "rows",
        role: "listbox",
        tabindex: 0,
        "aria-label": label,
        onscroll: () => this._ask(),
        onkeydown: (event) => this._key(event),
        onclick: (event) => this._click(event),
      },
      this._space,
    );
    this._observer = new ResizeObserver(() => this._draw());
    this._observer.observe(this.element);
  }

  close() {
    this._observer.disconnect();
  }

  get isAtTop() {
    return this.element.scrollTop < this.rowHeight;
  }

  get rowHeight() {
    return parseFloat(getComputedStyle(this.element).getPropertyValue("--row")) || 40;
  }

  /** Replaces all items. */
  set(items, isComplete) {
    this.items = items;
    this.isComplete = isComplete;
    this.selected = -1;
    this.element.scrollTop = 0;
    this._draw();
  }

  append(items, isComplete) {
    this.items.push(...items);
    this.isComplete = isComplete;
    this._draw();
  }

  /**
   * Adds items at the top; what is visible stays where it is, unless the top itself is visible. Beyond `most`
   * items the last ones go.
   */
  prepend(items, most) {
    const isAtTop = this.isAtTop;
    this.items.unshift(...items);
    this.items.length = Math.min(this.items.length, most);
    if (this.selected >= 0) {
      this.selected += items.length;
    }
    if (!isAtTop) {
      this.element.scrollTop += items.length * this.rowHeight;
    }
    this._draw();
  }

  /** Marks the first item that fits. */
  mark(fits) {
    this.selected = this.items.findIndex(fits);
    this._draw();
  }

  redraw() {
    this._rows.forEach((row) => row.element.remove());
    this._rows.clear();
    this._draw();
  }

  _ask() {
    this._frame ??= requestAnimationFrame(() => {
      this._frame = null;
      this._draw();
    });
  }

  _draw() {
    const height = this.rowHeight;
    const { scrollTop, clientHeight } = this.element;
    const first = Math.max(0, Math.floor(scrollTop / height) - AROUND);
    const end = Math.min(this.items.length, Math.ceil((scrollTop + clientHeight) / height) + AROUND);
    this._space.style.height = `${this.items.length * height}px`;
    for (const [index, row] of this._rows) {
      if (index < first || index >= end || this.items[index] !== row.item) {
        row.element.remove();
        this._rows.delete(index);
      }
    }
    for (let index = end - 1; index >= first; index -= 1) {
      this._place(index, height); // from the end, since each row goes before the next one
    }
    const active = this._rows.get(this.selected);
    if (active) {
      this.element.setAttribute("aria-activedescendant", active.element.id);
    } else {
      this.element.removeAttribute("aria-activedescendant");
    }
    if (!this.isComplete && end + NEAR_ROWS >= this.items.length && clientHeight > 0) {
      this._more();
    }
  }

  _place(index, height) {
    let row = this._rows.get(index);
    if (!row) {
      const item = this.items[index];
      row = { item, element: h("div", { class: "row", role: "option", id: `row-${index}` }, this._render(item)) };
      row.element.dataset.index = index;
      this._rows.set(index, row);
      this._space.insertBefore(row.element, this._rows.get(index + 1)?.element ?? null);
    }
    row.element.style.transform = `translateY(${index * height}px)`;
    row.element.setAttribute("aria-selected", index === this.selected);
    row.element.setAttribute("aria-posinset", index + 1);
    row.element.setAttribute("aria-setsize", this.isComplete ? this.items.length : -1);
  }

  _click(event) {
    const row = event.target.closest(".row");
    if (row && !event.target.closest("a")) {
      this._choose(Number(row.dataset.index), true);
    }
  }

  _key(event) {
    const page = Math.max(1, Math.floor(this.element.clientHeight / this.rowHeight) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.key in steps) {
      event.preventDefault();
      const wanted = this.selected + steps[event.key];
      this._choose(Math.min(this.items.length - 1, Math.max(0, wanted)), false);
    } else if (event.key === "Enter" && this.selected >= 0) {
      this._select(this.items[this.selected], true);
    }
  }

  _choose(index, isClick) {
    if (index < 0 || index >= this.items.length) {
      return;
    }
    this.selected = index;
    const [top, height] = [index * this.rowHeight, this.rowHeight];
    const { scrollTop, clientHeight } = this.element;
    if (top < scrollTop) {
      this.element.scrollTop = top;
    } else if (top + height > scrollTop + clientHeight) {
      this.element.scrollTop = top + height - clientHeight;
    }
    this._draw();
    this._select(this.items[index], isClick);
  }
}
