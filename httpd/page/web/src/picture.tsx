// One picture, and its neighbours by keys, buttons and swipes.
import { useEffect, useRef, useState } from "preact/hooks";
import { Icon } from "./icons";
import { hrefOf, parentOf } from "./route";
import type { Looking } from "./viewer";

export function Picture({ found, around, go, close }: Looking) {
  const box = useRef<HTMLDivElement>(null);
  const [natural, zoom] = useState(false);
  const [wrong, fail] = useState(false);
  const start = useRef<{ x: number; y: number } | undefined>(undefined);
  useEffect(() => box.current?.focus(), []);
  useEffect(() => {
    for (const name of [around.next, around.previous]) if (name) new Image().src = hrefOf(parentOf(found.path) + name);
  }, [around]);
  const keys = (e: KeyboardEvent) => {
    const act = { ArrowRight: () => go(around.next), ArrowLeft: () => go(around.previous), Escape: close, Backspace: close, z: () => zoom(!natural) }[e.key];
    if (!act || e.ctrlKey || e.metaKey || e.altKey) return;
    e.preventDefault();
    act();
  };
  return (
    <div
      ref={box}
      class={`viewer picture${natural ? " natural" : ""}`}
      role="dialog"
      aria-modal="true"
      aria-label={found.name}
      tabIndex={-1}
      onKeyDown={keys}
      onPointerDown={(e) => (start.current = { x: e.clientX, y: e.clientY })}
      onPointerUp={(e) => {
        const [dx, dy] = [e.clientX - (start.current?.x ?? e.clientX), e.clientY - (start.current?.y ?? e.clientY)];
        if (!natural && Math.abs(dx) > 60 && Math.abs(dx) > 2 * Math.abs(dy)) go(dx < 0 ? around.next : around.previous);
      }}
    >
      <header class="over">
        <button class="quiet" aria-label="Back to the folder" onClick={close}>
          <Icon name="back" />
        </button>
        <h1>{found.name}</h1>
        <span class="small">{around.place > 0 && `${around.place} of ${around.total}`}</span>
        <a class="button quiet" href={`${found.href}?download`} download="" aria-label="Download">
          <Icon name="download" />
        </a>
      </header>
      <div class="canvas" onDblClick={() => zoom(!natural)}>
        {wrong ? <p class="empty">This picture cannot be shown.</p> : <img src={found.href} alt={found.name} draggable={false} onError={() => fail(true)} />}
      </div>
      {around.previous && (
        <button class="quiet side left" aria-label="Previous picture" onClick={() => go(around.previous)}>
          <Icon name="back" size={28} />
        </button>
      )}
      {around.next && (
        <button class="quiet side right" aria-label="Next picture" onClick={() => go(around.next)}>
          <Icon name="back" size={28} />
        </button>
      )}
    </div>
  );
}
