// Where to? A walk through the directories, to choose one.
import { useEffect, useState } from "preact/hooks";
import { list, type Entry } from "./api";
import { Dialog } from "./dialog";
import { count } from "./format";
import { Icon } from "./icons";
import { nameOf, parentOf } from "./route";

export function Chooser(props: { title: string; start: string; not: string[]; onDone: (dir: string) => void; onClose: () => void }) {
  const [dir, go] = useState(props.start);
  const [found, set] = useState<{ of: string; entries: Entry[]; total: number; writable: boolean } | undefined>();
  const dirs = found?.of === dir ? found : undefined; // what is in the one before says nothing of this one
  const [wrong, complain] = useState("");
  useEffect(() => {
    const abort = new AbortController();
    list({ path: dir, sort: "name", order: "asc", kind: "dir" }, 0, 1000, undefined, abort.signal).then(
      (l) => {
        complain("");
        set({ of: dir, entries: l.entries, total: l.total, writable: l.can_write ?? false });
      },
      (err: Error) => !abort.signal.aborted && complain(err.message),
    );
    return () => abort.abort();
  }, [dir]);
  const inside = props.not.some((p) => dir.startsWith(p + "/")); // a directory does not move into itself
  return (
    <Dialog title={props.title} onClose={props.onClose}>
      <p class="where">
        <button class="quiet" aria-label="Folder above" disabled={dir === "/"} onClick={() => go(parentOf(dir))}>
          <Icon name="up" />
        </button>
        <strong>{dir === "/" ? "Library" : nameOf(dir)}</strong>
      </p>
      <ul class="dirs" aria-label="Folders">
        {dirs?.entries
          .filter((e) => !props.not.includes(dir + e.name))
          .map((e) => (
            <li key={e.name}>
              <button onClick={() => go(`${dir}${e.name}/`)}>
                <Icon name="dir" /> {e.name}
              </button>
            </li>
          ))}
        {dirs && dirs.entries.length === 0 && <li class="small">No folders here</li>}
        {dirs && dirs.total > dirs.entries.length && <li class="small">and {count(dirs.total - dirs.entries.length, "more folder")}</li>}
      </ul>
      <p class="wrong" role="alert">
        {wrong}
      </p>
      <footer>
        <button onClick={props.onClose}>Cancel</button>
        <button
          class="primary"
          disabled={!dirs?.writable || inside || dir === props.start}
          onClick={() => {
            props.onClose();
            props.onDone(dir);
          }}
        >
          Move here
        </button>
      </footer>
    </Dialog>
  );
}
