// A menu that hangs from a button or from where the pointer is.
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { Icon, type IconName } from "./icons";

export interface Choice {
  label: string;
  icon?: IconName;
  checked?: boolean; // of one among several
  danger?: boolean;
  href?: string; // a link instead of an action
  download?: boolean;
  run?: () => void;
}

export interface At {
  x: number;
  y: number;
  above?: boolean; // the menu's lower edge is at y
}

/** below is where a menu of a button hangs. */
export function below(button: Element): At {
  const r = button.getBoundingClientRect();
  return { x: r.right, y: r.bottom + 4 };
}
export function above(button: Element): At {
  const r = button.getBoundingClientRect();
  return { x: r.right, y: r.top - 8, above: true };
}

export function Menu(props: { label: string; at: At; choices: Choice[]; onClose: () => void }) {
  const ref = useRef<HTMLDivElement>(null);
  useLayoutEffect(() => {
    const m = ref.current!;
    const back = document.activeElement as HTMLElement | null;
    const { width, height } = m.getBoundingClientRect();
    const x = Math.min(Math.max(8, props.at.x - width), innerWidth - width - 8);
    const y = props.at.above ? props.at.y - height : props.at.y;
    m.style.left = `${x}px`;
    m.style.top = `${Math.max(8, Math.min(y, innerHeight - height - 8))}px`;
    (m.querySelector<HTMLElement>("[aria-checked=true]") ?? m.querySelector<HTMLElement>("[role^=menuitem]"))?.focus({ preventScroll: true });
    return () => back?.isConnected && back.focus({ preventScroll: true });
  }, []);
  useEffect(() => {
    const away = (e: Event) => !ref.current?.contains(e.target as Node) && props.onClose();
    addEventListener("pointerdown", away, true);
    addEventListener("scroll", props.onClose, { once: true });
    return () => {
      removeEventListener("pointerdown", away, true);
      removeEventListener("scroll", props.onClose);
    };
  }, []);
  const keys = (e: KeyboardEvent) => {
    const items = [...ref.current!.querySelectorAll<HTMLElement>("[role^=menuitem]")];
    const i = items.indexOf(document.activeElement as HTMLElement);
    const to = { ArrowDown: i + 1, ArrowUp: i - 1, Home: 0, End: items.length - 1 }[e.key];
    e.stopPropagation();
    if (e.key === "Escape" || e.key === "Tab") props.onClose();
    else if (to !== undefined) items[(to + items.length) % items.length]?.focus();
    else return;
    e.preventDefault();
  };
  return (
    <div ref={ref} class="menu" role="menu" aria-label={props.label} onKeyDown={keys} onClick={(e) => e.stopPropagation()}>
      {props.choices.map((c) => {
        const role = c.checked === undefined ? "menuitem" : "menuitemradio";
        const inside = (
          <>
            {c.checked !== undefined ? <span class="tick">{c.checked && <Icon name="check" size={16} />}</span> : c.icon && <Icon name={c.icon} size={18} />}
            <span>{c.label}</span>
          </>
        );
        const close = () => props.onClose();
        if (c.href !== undefined)
          return (
            <a key={c.label} role={role} tabIndex={-1} href={c.href} download={c.download ? "" : undefined} onClick={close}>
              {inside}
            </a>
          );
        return (
          <button
            key={c.label}
            role={role}
            aria-checked={c.checked}
            tabIndex={-1}
            class={c.danger ? "danger" : ""}
            onClick={() => {
              close();
              c.run?.();
            }}
          >
            {inside}
          </button>
        );
      })}
    </div>
  );
}
