// What comes before and after a file, among those of its kind in its directory.
import { list, type Entry, type ListQuery } from "./api";
import type { Shown } from "./kinds";
import { read } from "./settings";

export interface Neighbours {
  previous?: string;
  next?: string;
  place: number; // from 1 on; 0: unknown
  total: number;
}

const step = 5000;

/** order is how the directory is sorted on this page; media go by their names unless that was changed. */
function order(): Pick<ListQuery, "sort" | "order"> {
  const sort = read("tnv.sort") as ListQuery["sort"] | null;
  const way = read("tnv.order") as ListQuery["order"] | null;
  return { sort: sort ?? "name", order: way ?? "asc" };
}

/** neighbours looks for them page by page, until the file and the one behind it are found. */
export async function neighbours(dir: string, name: string, kind: Shown, signal: AbortSignal): Promise<Neighbours> {
  const query: ListQuery = { path: dir, kind, ...order() };
  let snapshot: string | undefined;
  let last: Entry | undefined;
  for (let at = 0; ; ) {
    const l = await list(query, at, step, snapshot, signal);
    snapshot = l.snapshot;
    const i = l.entries.findIndex((e) => e.name === name);
    if (i >= 0) {
      const next = i + 1 < l.entries.length ? l.entries[i + 1] : (await list(query, at + i + 1, 1, snapshot, signal)).entries[0];
      return { previous: (i > 0 ? l.entries[i - 1] : last)?.name, next: next?.name, place: at + i + 1, total: l.total };
    }
    last = l.entries.at(-1);
    at += l.entries.length;
    if (l.entries.length === 0 || at >= l.total) return { place: 0, total: l.total };
  }
}
