// A directory's entries, however many: the daemon sorts and counts them, and pages
// of them are fetched as they come into view. All pages are of one snapshot; when
// the directory has changed, a new one takes the old one's place as a whole.
import { list, Refusal, type Entry, type ListQuery } from "./api";

export const pageSize = 250;
const keepPages = 40; // of those that are out of sight

export class Listing {
  total = 0;
  loaded = false; // total and the first page are known
  writable = false;
  truncated = false;
  poster: string | undefined;
  error: Error | undefined;

  private pages = new Map<number, Entry[]>();
  private snapshot: string | undefined;
  private asked = new Set<number>();
  private abort = new AbortController();
  private generation = 0;
  private seen: [number, number] = [0, 0];
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    readonly query: ListQuery,
    private changed: () => void,
  ) {}

  /** at is the entry at an index; undefined while it is on its way. */
  at(i: number): Entry | undefined {
    return this.pages.get(Math.floor(i / pageSize))?.[i % pageSize];
  }

  /** see says which entries are in view, and has those fetched that are not there. */
  see(from: number, to: number): void {
    this.seen = [from, to];
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.fetchSeen(), this.loaded ? 60 : 0); // what one scrolls past is not asked for
  }

  /** indexOf finds an entry among those that are there. */
  indexOf(name: string): number {
    for (const [p, entries] of this.pages) {
      const i = entries.findIndex((e) => e.name === name);
      if (i >= 0) return p * pageSize + i;
    }
    return -1;
  }

  /** refresh looks at the directory again; what is shown stays until the answer is there. */
  async refresh(): Promise<void> {
    const generation = ++this.generation;
    this.asked.clear();
    const fresh = new Map<number, Entry[]>();
    const first = Math.floor(this.seen[0] / pageSize);
    const last = Math.min(Math.floor(Math.max(0, this.seen[1] - 1) / pageSize), first + 3);
    try {
      let snapshot: string | undefined;
      for (let p = first; p <= last; p++) {
        const l = await list(this.query, p * pageSize, pageSize, snapshot, this.abort.signal);
        if (generation !== this.generation) return;
        snapshot = l.snapshot;
        this.take(l);
        fresh.set(p, l.entries);
      }
      this.snapshot = snapshot;
      this.pages = fresh;
      this.error = undefined;
      this.loaded = true;
    } catch (err) {
      if (this.abort.signal.aborted || generation !== this.generation) return;
      this.error = err as Error;
      if (err instanceof Refusal && (err.status === 503 || err.status === 0)) setTimeout(() => !this.abort.signal.aborted && this.refresh(), 3000);
    }
    this.changed();
  }

  /** all fetches the entries from one index to another, for a selection. */
  async all(from: number, to: number): Promise<Entry[]> {
    const out: Entry[] = [];
    for (let at = from; at < to; ) {
      const l = await list(this.query, at, Math.min(5000, to - at), this.snapshot, this.abort.signal);
      if (l.entries.length === 0) break;
      out.push(...l.entries);
      at += l.entries.length;
    }
    return out;
  }

  close(): void {
    clearTimeout(this.timer);
    this.abort.abort();
  }

  private take(l: { total: number; can_write?: boolean; truncated?: boolean; poster?: string }): void {
    this.total = l.total;
    this.writable = l.can_write ?? false;
    this.truncated = l.truncated ?? false;
    this.poster = l.poster;
  }

  private fetchSeen(): void {
    const last = Math.floor(Math.max(0, this.seen[1] - 1) / pageSize);
    for (let p = Math.floor(this.seen[0] / pageSize); p <= last; p++) {
      if (!this.pages.has(p) && !this.asked.has(p)) void this.fetchPage(p);
    }
  }

  private async fetchPage(p: number): Promise<void> {
    const generation = this.generation;
    this.asked.add(p);
    try {
      const l = await list(this.query, p * pageSize, pageSize, this.snapshot, this.abort.signal);
      if (generation !== this.generation) return;
      if (this.snapshot !== undefined && l.snapshot !== this.snapshot) {
        void this.refresh(); // the old snapshot is gone
        return;
      }
      this.snapshot = l.snapshot;
      this.take(l);
      this.pages.set(p, l.entries);
      this.forget();
      this.error = undefined;
      this.loaded = true;
    } catch (err) {
      if (this.abort.signal.aborted || generation !== this.generation) return;
      this.error = err as Error;
      setTimeout(() => !this.abort.signal.aborted && this.fetchSeen(), 3000);
    }
    this.asked.delete(p);
    this.changed();
  }

  /** forget lets go of pages that are far from view. */
  private forget(): void {
    const middle = (this.seen[0] + this.seen[1]) / 2 / pageSize;
    if (this.pages.size <= keepPages) return;
    const far = [...this.pages.keys()].sort((a, b) => Math.abs(b - middle) - Math.abs(a - middle));
    for (const p of far.slice(0, this.pages.size - keepPages)) this.pages.delete(p);
  }
}
