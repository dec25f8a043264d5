// Short messages at the page's edge, which go by themselves; an error stays until
// it is closed. One that offers an action (undo) is there for as long as the action is.
import { useEffect, useState } from "preact/hooks";
import { Icon } from "./icons";

interface Toast {
  id: number;
  text: string;
  bad: boolean;
  action?: { label: string; run: () => void };
}

let toasts: Toast[] = [];
let next = 1;
const changed = new Set<(t: Toast[]) => void>();

function set(list: Toast[]): void {
  toasts = list;
  changed.forEach((f) => f(toasts));
}

/** dismiss takes a message away. */
export const dismiss = (id: number): void => set(toasts.filter((t) => t.id !== id));

/** say shows a message for some time. */
export function say(text: string, action?: Toast["action"], ms = action ? 10_000 : 4_000): number {
  const id = next++;
  set([...toasts.slice(-3), { id, text, bad: false, action }]);
  setTimeout(() => dismiss(id), ms);
  return id;
}

/** complain shows what went wrong, until it is closed. */
export function complain(what: string, err: unknown): void {
  const why = err instanceof Error ? err.message : String(err);
  set([...toasts.slice(-3), { id: next++, text: why ? `${what}: ${why}` : what, bad: true }]);
}

export function Toasts() {
  const [list, update] = useState(toasts);
  useEffect(() => {
    changed.add(update);
    return () => void changed.delete(update);
  }, []);
  return (
    <div class="toasts" role="status" aria-live="polite">
      {list.map((t) => (
        <div key={t.id} class={t.bad ? "toast bad" : "toast"}>
          {t.bad && <Icon name="warning" />}
          <span>{t.text}</span>
          {t.action && (
            <button
              class="text"
              onClick={() => {
                dismiss(t.id);
                t.action?.run();
              }}
            >
              {t.action.label}
            </button>
          )}
          <button class="quiet" aria-label="Close this message" onClick={() => dismiss(t.id)}>
            <Icon name="close" size={16} />
          </button>
        </div>
      ))}
    </div>
  );
}
