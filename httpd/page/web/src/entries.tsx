// One entry: as a line of the list, or as a tile.
import { useState } from "preact/hooks";
import { type Entry, type Media } from "./api";
import { bytes, clock, count, date, fullDate } from "./format";
import { Icon } from "./icons";
import { kindIcon, kindName, shown } from "./kinds";
import { mediaInfo } from "./mediainfo";
import { type At, below } from "./menu";
import { poster } from "./posters";
import { watched } from "./resume";
import { addressOf } from "./route";

/** On is what an entry's parts do when they are used. */
export interface On {
  open: (index: number, e: MouseEvent) => void;
  toggle: (index: number, range: boolean) => void;
  menu: (index: number, at: At) => void;
  focus: (index: number) => void;
}

interface Props {
  e: Entry | undefined;
  index: number;
  dir: string;
  selected: boolean;
  focused: boolean;
  selecting: boolean;
  on: On;
}

/** hrefOfEntry is where an entry's link leads: to the page where that shows it, else to the file. */
export const hrefOfEntry = (dir: string, e: Entry): string => (shown(e) ? addressOf({ dir, view: e.name }) : e.href);

/** picture is the address of an entry's picture; undefined: there is none, or not yet. */
function picture(e: Entry, m: Media | undefined): string | undefined {
  if (m?.thumb) return m.thumb;
  return e.kind === "image" && e.size < 1_500_000 ? e.href : undefined;
}

function sizeOf(e: Entry): string {
  return e.type === "dir" ? count(e.size, "item") : e.type === "file" ? bytes(e.size) : "";
}

function Progress({ path }: { path: string }) {
  const part = watched(path);
  return part > 0 ? (
    <span class="progress" title={`Watched to ${Math.round(part * 100)}%`}>
      <span style={{ width: `${part * 100}%` }} />
    </span>
  ) : null;
}

/** Face is an entry's picture, or its icon where there is none or it cannot be shown. */
function Face({ e, pic, size }: { e: Entry; pic: string | undefined; size: number }) {
  const [bad, set] = useState<string | undefined>();
  if (!pic || pic === bad) return <Icon name={kindIcon(e)} size={size} />;
  return <img src={pic} alt="" loading="lazy" decoding="async" onError={() => set(pic)} />;
}

/** common is what lines and tiles do alike. */
function common(p: Props) {
  const { index, on } = p;
  return {
    "data-index": index,
    tabIndex: p.focused ? 0 : -1,
    "aria-selected": p.selected,
    onFocus: () => on.focus(index),
    onContextMenu: (ev: MouseEvent) => {
      if (ev.shiftKey) return; // the browser's own
      ev.preventDefault();
      on.menu(index, { x: ev.clientX + 200, y: ev.clientY });
    },
    onClick: (ev: MouseEvent) => {
      if (ev.ctrlKey || ev.metaKey || ev.shiftKey) {
        ev.preventDefault();
        on.toggle(index, ev.shiftKey);
      } else if (!(ev.target as Element).closest("button, input")) on.open(index, ev);
    },
  };
}

function Check({ p, e }: { p: Props; e: Entry }) {
  return (
    <label class="check" onClick={(ev) => ev.stopPropagation()}>
      <input
        type="checkbox"
        tabIndex={-1}
        checked={p.selected}
        aria-label={`Select ${e.name}`}
        onClick={(ev) => {
          ev.preventDefault();
          p.on.toggle(p.index, ev.shiftKey);
        }}
      />
    </label>
  );
}

function More({ p, e }: { p: Props; e: Entry }) {
  return (
    <button class="quiet more" tabIndex={-1} aria-label={`Actions for ${e.name}`} aria-haspopup="menu" onClick={(ev) => p.on.menu(p.index, below(ev.currentTarget))}>
      <Icon name="more" />
    </button>
  );
}

export function Line(p: Props) {
  const { e, dir } = p;
  const place = { "aria-rowindex": p.index + 2, role: "row" as const, class: `row${p.selected ? " selected" : ""}${p.selecting ? " selecting" : ""}` };
  if (!e)
    return (
      <div {...place} class="row waiting" data-index={p.index} tabIndex={p.focused ? 0 : -1}>
        <div role="gridcell" class="name">
          <span class="ghost" />
        </div>
      </div>
    );
  const path = dir + e.name;
  const m = mediaInfo(path, e);
  const pic = picture(e, m);
  return (
    <div {...place} {...common(p)} data-name={e.name} aria-label={e.name}>
      <div role="gridcell" class="select">
        <Check p={p} e={e} />
      </div>
      <div role="gridcell" class="name">
        <span class={`face ${e.kind}`}><Face e={e} pic={pic} size={22} /></span>
        <span class="words">
          <a href={hrefOfEntry(dir, e)} tabIndex={-1} title={e.name}>
            {e.name}
          </a>
          <span class="small">
            {sizeOf(e)}
            {m?.duration && e.kind !== "image" ? ` · ${clock(m.duration)}` : ""} · {date(Date.parse(e.modified))}
          </span>
          <Progress path={path} />
        </span>
      </div>
      <div role="gridcell" class="length">
        {m?.duration && e.kind !== "image" ? clock(m.duration) : ""}
      </div>
      <div role="gridcell" class="kind">
        {kindName(e)}
      </div>
      <div role="gridcell" class="date" title={fullDate(Date.parse(e.modified))}>
        {date(Date.parse(e.modified))}
      </div>
      <div role="gridcell" class="size">
        {sizeOf(e)}
      </div>
      <div role="gridcell" class="act">
        <More p={p} e={e} />
      </div>
    </div>
  );
}

export function Tile(p: Props) {
  const { e, dir } = p;
  if (!e)
    return (
      <div role="gridcell" class="tile waiting" data-index={p.index} tabIndex={p.focused ? 0 : -1}>
        <span class="face" />
        <span class="ghost" />
      </div>
    );
  const path = dir + e.name;
  const m = mediaInfo(path, e);
  const pic = e.type === "dir" ? poster(path, e) : picture(e, m);
  return (
    <div role="gridcell" class={`tile${p.selected ? " selected" : ""}${p.selecting ? " selecting" : ""}`} {...common(p)} data-name={e.name}>
      <span class={`face ${e.kind}`}>
        <Face e={e} pic={pic} size={40} />
        {m?.duration && e.kind !== "image" ? <span class="badge">{clock(m.duration)}</span> : null}
        <Progress path={path} />
      </span>
      <span class="words">
        <a href={hrefOfEntry(dir, e)} tabIndex={-1} title={e.name}>
          {e.name}
        </a>
        <span class="small">
          {sizeOf(e)} · {date(Date.parse(e.modified))}
        </span>
      </span>
      <Check p={p} e={e} />
      <More p={p} e={e} />
    </div>
  );
}
