// The daemon's JSON interface (docs/openapi.yaml), as this page uses it.

export interface Entry {
  name: string;
  href: string; // percent-encoded path, with a slash at a directory's end
  type: "dir" | "file" | "other";
  link?: boolean;
  broken?: boolean;
  kind: "dir" | "video" | "audio" | "image" | "subtitle" | "playlist" | "text" | "document" | "archive" | "other";
  mime?: string;
  size: number;
  modified: string;
  etag?: string;
  poster?: string;
}
export interface Found extends Entry {
  path: string;
}

export interface Listing {
  path: string;
  snapshot: string;
  total: number;
  offset: number;
  entries: Entry[];
  truncated?: boolean;
  can_write?: boolean;
  poster?: string;
}

export interface Me {
  user: string;
  path: string;
  role: "none" | "read" | "write" | "admin";
  can_write: boolean;
  can_share: boolean;
  can_login: boolean;
  link_expires?: string;
  features: { thumbnails?: boolean; hls?: boolean; trash?: boolean; uploads?: boolean; webdav?: boolean };
  trash_life_seconds?: number;
}

export interface Stream {
  index: number;
  type: "video" | "audio" | "subtitle";
  codec?: string;
  width?: number;
  height?: number;
  channels?: number;
  language?: string;
  title?: string;
  default?: boolean;
  text?: boolean;
}

export interface Media {
  path: string;
  state: "ready" | "pending" | "none" | "failed";
  duration?: number;
  title?: string;
  artist?: string;
  album?: string;
  thumb?: string;
  streams?: Stream[];
  mime?: string;
  subtitles?: { url: string; label: string; language?: string }[];
}

export interface Trash {
  id: string;
  path: string;
  deleted: string;
  by?: string;
  size: number;
  type: "dir" | "file" | "other";
  expires?: string;
}

export interface Change {
  op: "create" | "change" | "remove" | "move";
  path: string;
  from?: string;
  dir?: boolean;
}

export interface Outcome {
  path: string;
  trash?: string;
  error?: { kind: string; message: string };
}

/** Refusal is an answer that is none: its status and what the daemon says of it. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    readonly kind: string,
    message: string,
    readonly retryAfter = 0,
  ) {
    super(message);
  }
}

/** refusal reads what a failed request says. */
export async function refusal(r: Response): Promise<Refusal> {
  const wait = Number(r.headers.get("Retry-After")) || 0;
  try {
    const { error } = (await r.json()) as { error: { kind: string; message: string } };
    return new Refusal(r.status, error.kind, error.message || error.kind, wait);
  } catch {
    return new Refusal(r.status, "", `the server answered ${r.status}`, wait);
  }
}

export const base = "/.tnv/api/";

async function call<T>(method: string, what: string, o: { query?: Record<string, string | number>; body?: unknown; signal?: AbortSignal } = {}): Promise<T> {
  const query = new URLSearchParams(Object.entries(o.query ?? {}).map(([k, v]) => [k, String(v)]));
  let r: Response;
  try {
    r = await fetch(base + what + (query.size > 0 ? `?${query}` : ""), {
      method,
      signal: o.signal,
      headers: o.body === undefined ? { Accept: "application/json" } : { Accept: "application/json", "Content-Type": "application/json" },
      body: o.body === undefined ? undefined : JSON.stringify(o.body),
    });
  } catch (err) {
    if (o.signal?.aborted) throw err;
    throw new Refusal(0, "unreachable", "the server cannot be reached");
  }
  if (!r.ok) throw await refusal(r);
  return (r.status === 204 ? undefined : await r.json()) as T;
}

export interface ListQuery {
  path: string;
  sort: "name" | "size" | "modified" | "type";
  order: "asc" | "desc";
  q?: string;
  kind?: string;
}

export const me = (path: string, signal?: AbortSignal) => call<Me>("GET", "me", { query: { path }, signal });
export const login = (user: string, password: string) => call<Me>("POST", "login", { body: { user, password } });
export const logout = () => call<void>("POST", "logout", { body: {} });

export function list(q: ListQuery, offset: number, limit: number, snapshot?: string, signal?: AbortSignal): Promise<Listing> {
  const query: Record<string, string | number> = { path: q.path, sort: q.sort, order: q.order, offset, limit };
  if (q.q) query.q = q.q;
  if (q.kind) query.kind = q.kind;
  if (snapshot) query.snapshot = snapshot;
  return call("GET", "list", { query, signal });
}

export const stat = (path: string, signal?: AbortSignal) => call<Found>("GET", "stat", { query: { path }, signal });
export const search = (path: string, q: string, signal?: AbortSignal) =>
  call<{ results: Found[]; complete: boolean; scanned: number }>("GET", "search", { query: { path, q, limit: 200 }, signal });
export const mkdir = (path: string) => call<Found>("POST", "mkdir", { body: { path } });
export const move = (from: string, to: string) => call<Found>("POST", "move", { body: { from, to } });
export const media = (path: string, signal?: AbortSignal) => call<Media>("GET", "media", { query: { path }, signal });
export const mediaOf = (paths: string[]) => call<{ items: (Media | null)[] }>("POST", "media", { body: { paths } });
export const hls = (path: string, audio?: number) => call<{ url: string; mode: string }>("POST", "hls", { body: { path, audio } });
export const share = (path: string, seconds: number) => call<{ url: string; expires: string }>("POST", "links", { body: { path, seconds } });
export const trash = () => call<{ life_seconds: number; items: Trash[] }>("GET", "trash");
export const purge = (id: string) => call<void>("DELETE", "trash", { query: { id } });

/** inPieces asks for many things in requests of bounded size. */
async function inPieces(what: string, key: string, all: string[]): Promise<Outcome[]> {
  const out: Outcome[] = [];
  for (let i = 0; i < all.length; i += 1000) {
    const { items } = await call<{ items: Outcome[] }>("POST", what, { body: { [key]: all.slice(i, i + 1000) } });
    out.push(...items);
  }
  return out;
}
export const remove = (paths: string[]) => inPieces("delete", "paths", paths);
export const undo = (ids: string[]) => inPieces("undo", "trash", ids);

/** thumb is the address of an entry's picture; with its etag it may be cached for good. */
export const thumb = (path: string, etag?: string): string => `${base}thumb?${new URLSearchParams(etag ? { path, v: etag } : { path })}`;

export interface Node {
  id: string;
  addr: string;
  host?: string;
  state: string;
  used_bytes: number;
  capacity_bytes: number;
  blocks: number;
  behind_blocks?: number;
  behind_bytes?: number;
  corrupt_blocks?: number;
  mended_blocks?: number;
  last_beat_ms?: number;
}

export interface Status {
  volume: { name: string; files: number; bytes: number; capacity_bytes: number; free_bytes: number };
  daemon: { started: string; connections: number; transfers: number; requests: number; sent_bytes: number; received_bytes: number; transcodes: number };
  traffic: { step_seconds: number; sent: number[]; received: number[]; requests: number[] };
  streams?: { path: string; user: string; client: string; started: string; sent_bytes: number; rate: number }[];
  trackers?: { addr: string; alive: boolean; engine?: string }[];
  volumes?: { id: number; name: string; owner: string; epoch: number; files: number; bytes: number; sessions: number; pending_deletions: number; unlinked: number }[];
  groups?: { id: number; name: string; state: "whole" | "degraded" | "down"; behind_blocks: number; behind_bytes: number; nodes: Node[] }[];
}

export const status = (signal?: AbortSignal) => call<Status>("GET", "status", { signal });
