// Where one stopped, kept in this browser alone: seconds by path, of the last so many films.
const key = "tnv.resume";
const most = 500;

interface Mark {
  t: number; // seconds
  d: number; // the film's length
  at: number; // when, in ms
}
let marks: Record<string, Mark> | undefined;

function load(): Record<string, Mark> {
  if (marks) return marks;
  try {
    marks = JSON.parse(localStorage.getItem(key) ?? "{}") as Record<string, Mark>;
  } catch {
    marks = {};
  }
  return marks;
}

function save(): void {
  const all = Object.entries(load());
  if (all.length > most) marks = Object.fromEntries(all.sort((a, b) => b[1].at - a[1].at).slice(0, most));
  try {
    localStorage.setItem(key, JSON.stringify(marks));
  } catch {
    // A browser that keeps nothing: films begin at their start.
  }
}

/** remember notes a place; the first and last seconds of a film are no place to resume. */
export function remember(path: string, t: number, d: number): void {
  if (!Number.isFinite(d) || d < 60) return;
  const m = load();
  if (t < 15 || t > d - Math.max(20, d * 0.03)) {
    if (!(path in m)) return;
    delete m[path];
  } else {
    m[path] = { t: Math.floor(t), d: Math.floor(d), at: Date.now() };
  }
  save();
}

/** resumeAt tells where one stopped; 0: at the start. */
export const resumeAt = (path: string): number => load()[path]?.t ?? 0;

/** watched tells which part of a film was seen, 0 to 1. */
export function watched(path: string): number {
  const m = load()[path];
  return m ? m.t / m.d : 0;
}

/** moved keeps the place of a film, or of all below a directory, that has another path now. */
export function moved(from: string, to: string): void {
  const m = load();
  let any = false;
  for (const [p, mark] of Object.entries(m)) {
    if (p !== from && !p.startsWith(from + "/")) continue;
    delete m[p];
    m[to + p.slice(from.length)] = mark;
    any = true;
  }
  if (any) save();
}
