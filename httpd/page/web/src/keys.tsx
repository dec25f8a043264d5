// The keyboard in a directory.
import { useEffect, useRef } from "preact/hooks";
import { Dialog } from "./dialog";

export interface Keys {
  perLine: () => number;
  perPage: () => number;
  focus: number;
  total: number;
  go: (index: number) => void;
  open: () => void;
  up: () => void;
  toggle: (range: boolean) => void;
  all: () => void;
  none: () => void;
  search: () => void;
  remove: () => void;
  rename: () => void;
  help: () => void;
}

/** action finds what a key does; undefined: nothing of ours. */
function action(e: KeyboardEvent, k: Keys, inFiles: boolean): (() => void) | undefined {
  const ctrl = e.ctrlKey || e.metaKey;
  if (e.altKey) return e.key === "ArrowUp" ? k.up : undefined;
  if (ctrl) return e.key === "a" ? k.all : undefined;
  const to: Record<string, number> = {
    ArrowDown: k.focus + k.perLine(),
    ArrowUp: k.focus - k.perLine(),
    PageDown: k.focus + k.perPage(),
    PageUp: k.focus - k.perPage(),
    Home: 0,
    End: k.total - 1,
  };
  if (k.perLine() > 1) Object.assign(to, { ArrowRight: k.focus + 1, ArrowLeft: k.focus - 1 });
  const index = to[e.key];
  if (index !== undefined) return () => k.go(index);
  const anywhere: Record<string, () => void> = { "/": k.search, Backspace: k.up, Escape: k.none, "?": k.help };
  if (anywhere[e.key]) return anywhere[e.key];
  if (!inFiles) return undefined;
  const here: Record<string, () => void> = { Enter: k.open, " ": () => k.toggle(e.shiftKey), Delete: k.remove, F2: k.rename };
  return here[e.key];
}

/** useKeys listens while the directory is what one works on. */
export function useKeys(active: boolean, keys: Keys): void {
  const now = useRef(keys);
  now.current = keys;
  useEffect(() => {
    if (!active) return;
    const pressed = (e: KeyboardEvent) => {
      const at = e.target as HTMLElement;
      if (e.defaultPrevented || at.closest("input:not([type=checkbox]), select, textarea, [role=menu], dialog")) return;
      const act = action(e, now.current, at.closest("[data-index]") === at || at.matches("[data-index] *:not(button)"));
      if (!act) return;
      e.preventDefault();
      act();
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, [active]);
}

const table: [string, string][] = [
  ["↑ ↓ Page Home End", "walk through the files"],
  ["Enter", "open"],
  ["Backspace", "the folder above"],
  ["/", "search"],
  ["Space", "select; with Shift, all up to here"],
  ["Ctrl A · Esc", "select all, nothing"],
  ["F2 · Delete", "rename, delete"],
  ["Shift F10", "all actions"],
  ["In the player", ""],
  ["Space · K", "play and pause"],
  ["← → · J L", "5 and 10 seconds back and forward"],
  ["↑ ↓ · M", "louder, softer, mute"],
  ["0 – 9", "to a tenth of the film"],
  ["C · A · F · P", "subtitles, audio, full screen, picture in picture"],
  ["Shift N · Shift P", "next, previous"],
];

export function Help(props: { onClose: () => void }) {
  return (
    <Dialog title="Keyboard" onClose={props.onClose}>
      <dl class="keys" tabIndex={0}>
        {table.map(([keys, what]) => (
          <div key={keys}>
            <dt>{what ? <kbd>{keys}</kbd> : <strong>{keys}</strong>}</dt>
            <dd>{what}</dd>
          </div>
        ))}
      </dl>
    </Dialog>
  );
}
