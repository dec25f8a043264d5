// The pictures of directories in view: each costs a question of its own, so few are asked at a time.
import { stat, type Entry } from "./api";

const known = new Map<string, string | undefined>();
const queue: [key: string, path: string][] = [];
const listeners = new Set<() => void>();
let running = 0;

/** poster is the address of a directory's picture, as known by now. */
export function poster(path: string, e: Entry): string | undefined {
  const key = `${path} ${e.modified}`;
  if (!known.has(key)) {
    if (known.size > 5000) known.clear();
    known.set(key, undefined);
    queue.push([key, path]);
    if (queue.length > 200) known.delete(queue.shift()![0]); // out of view by now
    while (running < 4 && queue.length > 0) void next();
  }
  return known.get(key);
}

async function next(): Promise<void> {
  running++;
  for (let job = queue.pop(); job; job = queue.pop()) {
    try {
      const found = (await stat(job[1])).poster;
      if (!found) continue;
      known.set(job[0], found);
      listeners.forEach((f) => f());
    } catch {
      // Gone meanwhile, or not to be seen: it has no picture.
    }
  }
  running--;
}

export function onPoster(f: () => void): () => void {
  listeners.add(f);
  return () => void listeners.delete(f);
}
