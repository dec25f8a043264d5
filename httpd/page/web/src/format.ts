// Numbers, sizes and times as people read them.

const units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];

/** bytes writes a size with three digits: 0 B, 1.46 GB, 212 MB. */
export function bytes(n: number): string {
  let unit = 0;
  for (; n >= 999.5 && unit < units.length - 1; unit++) n /= 1000;
  const digits = unit === 0 || n >= 99.95 ? 0 : n >= 9.995 ? 1 : 2;
  return `${n.toFixed(digits)} ${units[unit]}`;
}

/** rate writes bytes per second. */
export const rate = (n: number): string => `${bytes(n)}/s`;

/** clock writes seconds as a player shows them: 0:07, 1:02:03. */
export function clock(seconds: number): string {
  if (!Number.isFinite(seconds)) return "–:––";
  const s = Math.max(0, Math.floor(seconds));
  const two = (n: number) => String(n).padStart(2, "0");
  const [h, m] = [Math.floor(s / 3600), Math.floor(s / 60) % 60];
  return h > 0 ? `${h}:${two(m)}:${two(s % 60)}` : `${m}:${two(s % 60)}`;
}

/** span writes a length of time roughly, as in "3 min left". */
export function span(seconds: number): string {
  if (!Number.isFinite(seconds)) return "";
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  if (seconds < 86400) return `${Number((seconds / 3600).toFixed(1))} h`;
  return `${Math.round(seconds / 86400)} d`;
}

const sameYear = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const otherYear = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", year: "numeric" });
const whole = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });

/** date writes a time of change shortly; fullDate with all there is. */
export function date(ms: number): string {
  if (!ms) return "";
  const d = new Date(ms);
  return (d.getFullYear() === new Date().getFullYear() ? sameYear : otherYear).format(d);
}
export const fullDate = (ms: number): string => (ms ? whole.format(new Date(ms)) : "");

const plain = new Intl.NumberFormat();

/** number writes a number with its thousands apart; what the daemon left out is none. */
export const number = (n: number | undefined): string => plain.format(n ?? 0);

/** count writes a number and its noun: 1 item, 2,048 items. */
export const count = (n: number, noun: string): string => `${plain.format(n)} ${noun}${n === 1 ? "" : "s"}`;
