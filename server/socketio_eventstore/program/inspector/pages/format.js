// Numbers, times and sizes for people.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const exact = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const UNITS = [
  ["d", 86400],
  ["h", 3600],
  ["min", 60],
  ["s", 1],
];
const SIZES = ["B", "kB", "MB", "GB", "TB"];
const THIN = "\u202f";

export const count = (value) => whole.format(value);

/** A rate or another number that may be a fraction. */
export const amount = (value) => (Math.abs(value) < 100 ? exact : whole).format(value);

/** A duration in its two largest units: "2 h 5 min". */
export function duration(seconds) {
  if (seconds < 1) {
    return seconds <= 0 ? `0${THIN}s` : `${whole.format(seconds * 1000)}${THIN}ms`;
  }
  let rest = Math.round(seconds);
  const parts = [];
  for (const [unit, size] of UNITS) {
    const number = Math.floor(rest / size);
    if (number > 0 && parts.length < 2) {
      parts.push(`${number}${THIN}${unit}`);
      rest -= number * size;
    } else if (parts.length > 0) {
      break;
    }
  }
  return parts.join(" ");
}

/** A short duration, such as that of a commit. */
export function milliseconds(seconds) {
  const value = seconds * 1000;
  const digits = value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${value.toFixed(digits)}${THIN}ms`;
}

export function bytes(value) {
  let unit = 0;
  while (value >= 1000 && unit < SIZES.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? whole.format(value) : exact.format(value)}${THIN}${SIZES[unit]}`;
}

/** A time of today as hours, minutes and seconds; of another day with the day. */
export function time(date, withFraction = false) {
  const fraction = withFraction ? `.${String(date.getMilliseconds()).padStart(3, "0")}` : "";
  const text = clock.format(date) + fraction;
  return date.toDateString() === new Date().toDateString() ? text : `${day.format(date)} ${text}`;
}

export const plural = (number, one, several = `${one}s`) => `${count(number)} ${number === 1 ? one : several}`;

/** The name of a room as people write it; a number is told from the same text. */
export const room = (name) => (typeof name === "number" ? `#${name}` : name);
