// What happened between two figures: the server sends sums since its start.

export const WINDOW_SECONDS = 300;

/** The figures of the last seconds, of the same life of the server. */
export function recent(kept, seconds) {
  const last = kept.at(-1);
  if (!last) {
    return [];
  }
  return kept.filter((one) => one.process === last.process && one.at >= last.at - seconds);
}

/** The growth of a sum between the first and the last of some figures. */
export function growth(figures, sum) {
  return figures.length < 2 ? 0 : Math.max(0, sum(figures.at(-1)) - sum(figures[0]));
}

/** The growth of each number of an object, without those that did not grow. */
export function growths(figures, name) {
  const grown = {};
  if (figures.length > 1) {
    for (const [key, value] of Object.entries(figures.at(-1)[name])) {
      const more = value - (figures[0][name][key] ?? 0);
      if (more > 0) {
        grown[key] = more;
      }
    }
  }
  return grown;
}

/** A share of all commits between two figures took at most so many seconds; null without a commit. */
export function commitQuantile(before, after, share) {
  const counts = after.commits.map((value, index) => value - before.commits[index]);
  const total = counts.reduce((sum, value) => sum + value, 0);
  if (total <= 0) {
    return null;
  }
  let rest = share * total;
  for (const [index, number] of counts.entries()) {
    if (rest <= number && number > 0) {
      const lower = index === 0 ? 0 : after.bounds[index - 1];
      const upper = after.bounds[index] ?? lower;
      return lower + (upper - lower) * (rest / number);
    }
    rest -= number;
  }
  return after.bounds.at(-1);
}

/** The columns of a chart: times, then one column for each function of two neighbouring figures. */
export function columns(kept, ...functions) {
  const table = [[], ...functions.map(() => [])];
  for (let index = 1; index < kept.length; index += 1) {
    const [before, after] = [kept[index - 1], kept[index]];
    const isGap = after.process !== before.process || after.at - before.at > 5 || after.at <= before.at;
    table[0].push(after.at);
    for (const [column, value] of functions.entries()) {
      table[column + 1].push(isGap ? null : value(before, after));
    }
  }
  return table;
}

/** A rate in each second of a sum. */
export const perSecond = (sum) => (before, after) =>
  Math.max(0, sum(after) - sum(before)) / (after.at - before.at);
