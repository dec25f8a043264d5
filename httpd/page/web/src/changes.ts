// What changes beneath a directory, as the daemon tells it.
import { base, stat, type Change } from "./api";

/**
 * watch calls back some time after changes in a directory itself: at once after
 * the first one, then at most every second. It listens while the page is seen:
 * a browser has six connections to a daemon, for all its tabs together, and looks
 * anew when it is seen again. What others change by other ways, the daemon may not
 * tell of: so the directory's own time is looked at now and then. It returns what ends it.
 */
export function watch(dir: string, changed: () => void): () => void {
  let source: EventSource | undefined;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let again: ReturnType<typeof setTimeout> | undefined;
  let last = 0;
  const soon = () => {
    timer ??= setTimeout(
      () => {
        timer = undefined;
        last = Date.now();
        changed();
      },
      Math.max(100, last + 1000 - Date.now()),
    );
  };
  const isHere = (path?: string) => path !== undefined && path.startsWith(dir) && !path.slice(dir.length).replace(/\/$/, "").includes("/");
  const open = () => {
    const s = new EventSource(`${base}events?${new URLSearchParams({ path: dir })}`);
    s.addEventListener("change", (e) => {
      const c = JSON.parse(e.data as string) as Change;
      if (isHere(c.path) || isHere(c.from)) soon();
    });
    s.addEventListener("lost", soon);
    s.addEventListener("error", () => {
      if (s.readyState !== EventSource.CLOSED || s !== source) return; // the browser connects again by itself
      again = setTimeout(() => {
        soon();
        open();
      }, 15_000);
    });
    source = s;
  };
  const close = () => {
    clearTimeout(again);
    source?.close();
    source = undefined;
  };
  const seen = () => {
    close();
    if (document.hidden) return;
    open();
    soon();
  };
  let modified: string | undefined;
  const glance = async () => {
    if (document.hidden) return;
    const now = (await stat(dir).catch(() => undefined))?.modified;
    if (modified !== undefined && now !== undefined && now !== modified) soon();
    modified = now ?? modified;
  };
  open();
  void glance();
  const glances = setInterval(() => void glance(), 8_000);
  document.addEventListener("visibilitychange", seen);
  return () => {
    clearInterval(glances);
    document.removeEventListener("visibilitychange", seen);
    clearTimeout(timer);
    close();
  };
}
