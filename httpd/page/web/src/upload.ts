// Uploads by the tus protocol (tus.io, 1.0.0): the file's bytes go in one request,
// and after an interruption in another one, from where the daemon says that it
// stands. An upload that this browser began is found again by the same file.
import { base, Refusal, stat } from "./api";
import { read, write } from "./settings";

export type State = "waiting" | "sending" | "paused" | "retrying" | "done" | "failed";

export interface Upload {
  readonly id: number;
  readonly file: File;
  readonly path: string;
  state: State;
  sent: number; // bytes
  rate: number; // bytes per second of late
  error: string;
  taken: boolean; // failed because the name is taken
}

const tus = { "Tus-Resumable": "1.0.0" };
const atOnce = 2;
const longestWait = 30_000;

const all: Upload[] = [];
const listeners = new Set<() => void>();
const requests = new Map<Upload, AbortController>();
let next = 1;

export const uploads = (): readonly Upload[] => all;
export function onUploads(f: () => void): () => void {
  listeners.add(f);
  return () => void listeners.delete(f);
}
const tell = () => listeners.forEach((f) => f());
const finished = new Set<(u: Upload) => void>();
export function onFinished(f: (u: Upload) => void): () => void {
  finished.add(f);
  return () => void finished.delete(f);
}

/** add begins to send files to their paths. */
export function add(files: { file: File; path: string }[]): void {
  for (const f of files) all.push({ id: next++, ...f, state: "waiting", sent: 0, rate: 0, error: "", taken: false });
  tell();
  startMore();
}

export function pause(u: Upload): void {
  if (u.state === "done" || u.state === "failed") return;
  u.state = "paused";
  requests.get(u)?.abort();
  tell();
  startMore();
}

export function resume(u: Upload, overwrite = false): void {
  if (u.state !== "paused" && u.state !== "failed") return;
  if (overwrite) forget(u);
  u.state = "waiting";
  u.error = "";
  overwriting[overwrite ? "add" : "delete"](u);
  tell();
  startMore();
}
const overwriting = new WeakSet<Upload>();

/** drop takes an upload off the list, and what was sent of it off the daemon. */
export function drop(u: Upload): void {
  const begun = read(keyOf(u));
  const wasDone = u.state === "done";
  u.state = "failed";
  requests.get(u)?.abort();
  all.splice(all.indexOf(u), 1);
  if (!wasDone && begun) void fetch(begun, { method: "DELETE", headers: tus }).catch(() => undefined);
  forget(u);
  tell();
  startMore();
}

export function clearDone(): void {
  for (let i = all.length - 1; i >= 0; i--) if (all[i]!.state === "done") all.splice(i, 1);
  tell();
}

/** keyOf is what an upload is found by again: the same file for the same place. */
const keyOf = (u: Upload) => `tnv.upload ${u.path} ${u.file.size} ${u.file.lastModified}`;
const forget = (u: Upload) => write(keyOf(u), null);

function startMore(): void {
  let running = all.filter((u) => u.state === "sending" || u.state === "retrying").length;
  for (const u of all) {
    if (running >= atOnce) break;
    if (u.state !== "waiting") continue;
    running++;
    u.state = "sending";
    void run(u);
  }
}

const isPaused = (u: Upload) => u.state !== "sending" && u.state !== "retrying";

/** run sends one file, again and again until it is there, is paused, or cannot be. */
async function run(u: Upload): Promise<void> {
  let wait = 500;
  while (!isPaused(u)) {
    const abort = new AbortController();
    requests.set(u, abort);
    const before = u.sent;
    try {
      const where = await findOrBegin(u, abort.signal);
      u.state = "sending";
      tell();
      if (u.sent < u.file.size) await send(u, where, abort.signal);
      if (u.sent >= u.file.size) finish(u);
    } catch (err) {
      if (isPaused(u)) break;
      if (err instanceof Refusal && isFinal(err)) fail(u, err);
      else {
        if (u.sent > before) wait = 500;
        u.state = "retrying";
        u.error = (err as Error).message;
        u.rate = 0;
        tell();
        await new Promise((r) => setTimeout(r, Math.max(wait, err instanceof Refusal ? err.retryAfter * 1000 : 0)));
        wait = Math.min(wait * 2, longestWait);
      }
    } finally {
      requests.delete(u);
    }
  }
  startMore();
}

/** isFinal tells whether a refusal stands however often one asks. */
const isFinal = (r: Refusal) => r.status >= 400 && r.status < 500 && ![404, 408, 410, 423, 429].includes(r.status) && !(r.status === 409 && r.kind === "offset");

function fail(u: Upload, r: Refusal): void {
  u.state = "failed";
  u.taken = r.status === 409;
  u.error = u.taken ? "there is a file of that name" : r.message;
  if (!u.taken) forget(u);
  tell();
}

function finish(u: Upload): void {
  u.state = "done";
  u.sent = u.file.size;
  u.rate = 0;
  forget(u);
  tell();
  finished.forEach((f) => f(u));
}

const encoded = (text: string) => btoa(String.fromCharCode(...new TextEncoder().encode(text)));

async function failure(r: Response): Promise<Refusal> {
  const text = await r.text();
  try {
    const { error } = JSON.parse(text) as { error: { kind: string; message: string } };
    return new Refusal(r.status, error.kind, error.message || error.kind, Number(r.headers.get("Retry-After")) || 0);
  } catch {
    return new Refusal(r.status, "", text.trim().slice(0, 200) || `the server answered ${r.status}`, Number(r.headers.get("Retry-After")) || 0);
  }
}

/**
 * arrived tells whether a file that the daemon knows no upload of any more is there
 * as a whole: the answer to its last byte was lost. It has the time that it was sent with.
 */
async function arrived(u: Upload): Promise<boolean> {
  try {
    const there = await stat(u.path);
    return there.size === u.file.size && Math.abs(Date.parse(there.modified) - u.file.lastModified) < 1000;
  } catch {
    return false;
  }
}

/** findOrBegin finds the daemon's side of an upload, and how far it is; or begins one. */
async function findOrBegin(u: Upload, signal: AbortSignal): Promise<string> {
  const begun = read(keyOf(u));
  if (begun) {
    const r = await fetch(begun, { method: "HEAD", headers: tus, signal, cache: "no-store" });
    if (r.ok) {
      u.sent = Number(r.headers.get("Upload-Offset"));
      tell();
      return begun;
    }
    if (r.status !== 404 && r.status !== 410) throw new Refusal(r.status, "", `the server answered ${r.status}`, Number(r.headers.get("Retry-After")) || 0);
    forget(u);
    if (await arrived(u)) {
      u.sent = u.file.size;
      return begun;
    }
  }
  const about = [`path ${encoded(u.path)}`, `modified ${encoded(new Date(u.file.lastModified).toISOString())}`];
  if (overwriting.has(u)) about.push(`overwrite ${encoded("true")}`);
  const r = await fetch(`${base}uploads`, {
    method: "POST",
    headers: { ...tus, "Upload-Length": String(u.file.size), "Upload-Metadata": about.join(",") },
    signal,
  });
  if (!r.ok) throw await failure(r);
  const where = new URL(r.headers.get("Location") ?? "", location.href).pathname;
  u.sent = Number(r.headers.get("Upload-Offset")) || 0;
  write(keyOf(u), where);
  return where;
}

/** send sends what is left. XMLHttpRequest alone tells how far a request's body is. */
function send(u: Upload, where: string, signal: AbortSignal): Promise<void> {
  const from = u.sent;
  const meter = newMeter(from);
  return new Promise((resolve, reject) => {
    const x = new XMLHttpRequest();
    x.open("PATCH", where);
    x.setRequestHeader("Tus-Resumable", "1.0.0");
    x.setRequestHeader("Upload-Offset", String(from));
    x.setRequestHeader("Content-Type", "application/offset+octet-stream");
    x.upload.onprogress = (e) => {
      u.sent = Math.min(from + e.loaded, u.file.size);
      u.rate = meter(u.sent);
      tell();
    };
    x.onload = () => {
      if (x.status === 204 || x.status === 200) {
        u.sent = Number(x.getResponseHeader("Upload-Offset") ?? u.file.size);
        resolve();
      } else reject(new Refusal(x.status, kindIn(x.responseText), x.responseText.trim().slice(0, 200) || `the server answered ${x.status}`, Number(x.getResponseHeader("Retry-After")) || 0));
    };
    x.onerror = () => reject(new Refusal(0, "unreachable", "the connection broke"));
    x.onabort = () => reject(new Refusal(0, "aborted", "stopped"));
    signal.addEventListener("abort", () => x.abort());
    x.send(u.file.slice(from));
  });
}

/** kindIn reads the kind of a refusal; a wrong offset is asked for again, a taken name is not. */
function kindIn(text: string): string {
  try {
    const { error } = JSON.parse(text) as { error: { kind: string } };
    return error.kind === "file exists" ? error.kind : "offset";
  } catch {
    return "offset";
  }
}

/** newMeter tells the rate over the last some seconds. */
function newMeter(start: number): (sent: number) => number {
  const points: [number, number][] = [[performance.now(), start]];
  return (sent) => {
    const now = performance.now();
    points.push([now, sent]);
    while (points.length > 2 && points[0]![0] < now - 4000) points.shift();
    const [t, s] = points[0]!;
    return now > t ? ((sent - s) / (now - t)) * 1000 : 0;
  };
}

addEventListener("beforeunload", (e) => {
  if (all.some((u) => u.state === "sending" || u.state === "waiting" || u.state === "retrying")) e.preventDefault();
});
