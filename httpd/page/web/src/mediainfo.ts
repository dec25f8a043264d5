// What is known of the films and music in view: asked for in batches, kept by
// path and version, asked for again while the daemon is still at it.
import { mediaOf, type Entry, type Media } from "./api";

const most = 2000;
const known = new Map<string, Media>();
const wanted = new Map<string, string>(); // key: path
const listeners = new Set<() => void>();
let timer: ReturnType<typeof setTimeout> | undefined;

const keyOf = (path: string, e: Entry) => `${path} ${e.etag ?? e.modified}`;

/** mediaInfo is what is known by now; it is asked for if it is not. */
export function mediaInfo(path: string, e: Entry): Media | undefined {
  if (e.kind !== "video" && e.kind !== "audio" && e.kind !== "image") return undefined;
  const key = keyOf(path, e);
  const m = known.get(key);
  if (m === undefined || m.state === "pending") {
    if (wanted.size < 400) wanted.set(key, path);
    timer ??= setTimeout(ask, m === undefined ? 150 : 4000);
  }
  return m;
}

async function ask(): Promise<void> {
  const batch = [...wanted].slice(0, 200);
  wanted.clear();
  try {
    const { items } = await mediaOf(batch.map(([, path]) => path));
    batch.forEach(([key], i) => known.set(key, items[i] ?? { path: "", state: "none" }));
  } catch {
    batch.forEach(([key, path]) => known.set(key, { path, state: "pending" })); // asked again, later
  }
  for (const key of known.keys()) {
    if (known.size <= most) break;
    known.delete(key);
  }
  timer = undefined;
  listeners.forEach((f) => f());
}

/** onMedia calls back when more is known; it returns what ends that. */
export function onMedia(f: () => void): () => void {
  listeners.add(f);
  return () => void listeners.delete(f);
}
