// What changes beneath a directory, as the daemon tells it.
import { base, type Change } from "./api";

/**
 * watch calls back some time after changes in a directory itself: at once after
 * the first one, then at most every second. It returns what ends it.
 */
export function watch(dir: string, changed: () => void): () => void {
  let source: EventSource;
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
    source = new EventSource(`${base}events?${new URLSearchParams({ path: dir })}`);
    source.addEventListener("change", (e) => {
      const c = JSON.parse(e.data as string) as Change;
      if (isHere(c.path) || isHere(c.from)) soon();
    });
    source.addEventListener("lost", soon);
    source.addEventListener("error", () => {
      if (source.readyState !== EventSource.CLOSED) return; // the browser connects again by itself
      again = setTimeout(() => {
        soon();
        open();
      }, 15_000);
    });
  };
  open();
  return () => {
    clearTimeout(timer);
    clearTimeout(again);
    source.close();
  };
}
