// The entries in view, as lines or as tiles. Only those are in the document,
// however many the directory has; the window scrolls over the height of all.
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { Entry } from "./api";
import type { Listing } from "./listing";

export type Layout = "list" | "tiles";

/** tallest is what browsers can scroll over; a longer list scrolls faster. */
const tallest = 12_000_000;
const overscan = 4;

interface Geometry {
  perLine: number;
  lineHeight: number;
}

/** geometry says how many entries a line has and how high it is; the style sheet draws it so. */
export function geometry(layout: Layout, width: number): Geometry {
  if (layout === "list") return { perLine: 1, lineHeight: width < 640 ? 64 : 52 };
  const gap = width < 640 ? 12 : 18;
  const least = width < 640 ? 150 : 210;
  const perLine = Math.max(1, Math.floor((width + gap) / (least + gap)));
  const tile = (width - gap * (perLine - 1)) / perLine;
  return { perLine, lineHeight: Math.round(tile * 0.5625 + 66 + gap) };
}

export interface Scroller {
  /** perLine and perPage tell the keyboard how far its keys go. */
  perLine: number;
  perPage: number;
  /** show scrolls an entry into view, and focuses it. */
  show: (index: number) => void;
}

export function Rows(props: {
  listing: Listing;
  layout: Layout;
  focus: number;
  scroller: { current: Scroller | null };
  columns: number;
  label: string;
  head?: preact.ComponentChildren;
  entry: (e: Entry | undefined, index: number) => preact.ComponentChildren;
}) {
  const { listing, layout } = props;
  const box = useRef<HTMLDivElement>(null);
  const [size, setSize] = useState({ width: 0, height: innerHeight });
  const [scroll, setScroll] = useState(0);
  const wanted = useRef<number | null>(null);

  useLayoutEffect(() => {
    const measure = () => {
      const width = box.current!.clientWidth;
      setSize((s) => (s.width === width && s.height === innerHeight ? s : { width, height: innerHeight }));
    };
    measure();
    const watch = new ResizeObserver(measure);
    watch.observe(box.current!);
    addEventListener("resize", measure);
    return () => {
      watch.disconnect();
      removeEventListener("resize", measure);
    };
  }, []);
  useEffect(() => {
    let frame = 0;
    const scrolled = () => {
      frame ||= requestAnimationFrame(() => {
        frame = 0;
        setScroll(-box.current!.getBoundingClientRect().top);
      });
    };
    scrolled();
    addEventListener("scroll", scrolled, { passive: true });
    return () => {
      removeEventListener("scroll", scrolled);
      cancelAnimationFrame(frame);
    };
  }, []);

  const { perLine, lineHeight } = geometry(layout, size.width || 1);
  const lines = Math.ceil(listing.total / perLine);
  const whole = lines * lineHeight;
  const height = Math.min(whole, tallest);
  const factor = height < whole ? (whole - size.height) / (height - size.height) : 1;
  const top = Math.max(0, Math.min(scroll, height - size.height)) * factor;
  const first = Math.max(0, Math.floor(top / lineHeight) - overscan);
  const last = Math.min(lines, Math.ceil((top + size.height) / lineHeight) + overscan);
  const offset = first * lineHeight - top + top / factor;

  useEffect(() => listing.see(first * perLine, Math.min(listing.total || 1, last * perLine)), [listing, first, last, perLine, listing.total]);
  useLayoutEffect(() => {
    if (wanted.current === null) return;
    const element = box.current?.querySelector<HTMLElement>(`[data-index="${wanted.current}"]`);
    if (!element) return;
    wanted.current = null;
    element.focus({ preventScroll: true });
  });
  props.scroller.current = {
    perLine,
    perPage: Math.max(1, Math.floor((size.height * 0.8) / lineHeight)) * perLine,
    show: (index) => {
      wanted.current = index;
      const line = Math.floor(index / perLine);
      const y = (line * lineHeight) / factor;
      const base = box.current!.getBoundingClientRect().top + scrollY;
      const [head, foot] = [130, 90]; // what lies over the window's edges
      if (base + y < scrollY + head) scrollTo(0, base + y - head);
      else if (base + y + lineHeight > scrollY + size.height - foot) scrollTo(0, base + y + lineHeight - size.height + foot);
      setScroll(-box.current!.getBoundingClientRect().top);
      box.current?.querySelector<HTMLElement>(`[data-index="${index}"]`)?.focus({ preventScroll: true });
    },
  };

  const shown = [];
  for (let line = first; line < last; line++) {
    const cells = [];
    for (let i = line * perLine; i < Math.min(listing.total, (line + 1) * perLine); i++) cells.push(props.entry(listing.at(i), i));
    shown.push(
      layout === "list" ? (
        cells
      ) : (
        <div class="line" role="row" key={line} aria-rowindex={line + 1} style={{ gridTemplateColumns: `repeat(${perLine}, 1fr)`, height: `${lineHeight}px` }}>
          {cells}
        </div>
      ),
    );
  }
  return (
    <div class={`rows ${layout}`} role="grid" aria-label={props.label} aria-rowcount={layout === "list" ? lines + 1 : lines} aria-colcount={layout === "list" ? props.columns : perLine} aria-multiselectable="true">
      {layout === "list" && props.head}
      <div ref={box} role="rowgroup" class="space" style={{ height: `${height}px` }}>
        <div role="presentation" class="window" style={{ transform: `translateY(${offset}px)` }}>
          {shown}
        </div>
      </div>
    </div>
  );
}
