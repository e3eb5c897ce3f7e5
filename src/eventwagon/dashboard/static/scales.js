// From figures to heights and widths, and the ticks beside them. Pure.

/** Round steps: about `most` of them up to `top`. */
export function ticks(top, most = 3) {
  if (!(top > 0)) return [0];
  const power = 10 ** Math.floor(Math.log10(top / most));
  const step = [1, 2, 5, 10].map((n) => n * power).find((each) => top / each <= most + 0.01);
  const found = [];
  for (let i = 0; i * step <= top * 1.0001; i++) found.push(Number((i * step).toPrecision(6)));
  return found;
}

export function linear(top) {
  const most = top > 0 ? top * 1.08 : 1;
  return { at: (value) => clip(value / most), ticks: ticks(top > 0 ? top : 1) };
}

/** Even up to the promise, which takes a third of the height; logarithmic beyond. So a wait below the promise and a
 * backlog of hours are both readable. */
export function waits(promise, top) {
  const most = Math.max(top, 2 * promise) * 1.05;
  const at = (value) =>
    value <= promise
      ? clip(value / promise / 3)
      : clip(1 / 3 + ((2 / 3) * Math.log(value / promise)) / Math.log(most / promise));
  const found = [0, promise];
  let last = 1 / 3;
  for (const round of [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200, 18000, 43200, 86400, 604800])
    if (round > promise && round <= most && at(round) > last + 0.17) {
      last = at(round);
      found.push(round);
    }
  return { at, ticks: found };
}

const clip = (share) => Math.max(0, Math.min(1, share));

const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];

/** Round moments between two times, in seconds since the epoch, by the local clock: {time, at (a share), step}. */
export function moments(from, to, most = 6) {
  const step = STEPS.find((each) => (to - from) / each <= most) ?? 604800;
  const shift = new Date(from * 1000).getTimezoneOffset() * 60;
  const found = [];
  for (let at = Math.ceil((from - shift) / step) * step + shift; at <= to; at += step) found.push({ time: at, at: (at - from) / (to - from), step });
  return found.filter(({ at }) => at > 0.03 && at < 0.96);
}

/** At most `most` of the indices of a list of that length, with the last one. */
export function sampled(length, most) {
  if (length <= most) return Array.from({ length }, (_, i) => i);
  const step = (length - 1) / (most - 1);
  return Array.from({ length: most }, (_, i) => Math.round(i * step));
}
