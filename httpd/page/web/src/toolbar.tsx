// Above the entries: what directory this is, and how it is shown. Below them: what
// is done with the selection.
import { useRef } from "preact/hooks";
import { count } from "./format";
import { Icon } from "./icons";
import type { Listing } from "./listing";
import { hrefOf, nameOf } from "./route";
import type { Layout } from "./rows";
import { addChosen } from "./uploads";

export type Sort = "name" | "size" | "modified" | "type";
export type Order = "asc" | "desc";

export function Toolbar(p: {
  dir: string;
  listing: Listing;
  q: string;
  sort: Sort;
  order: Order;
  layout: Layout;
  poster?: string;
  uploads: boolean;
  onSort: (s: Sort) => void;
  onOrder: (o: Order) => void;
  onLayout: (l: Layout) => void;
  onFolder: () => void;
}) {
  const files = useRef<HTMLInputElement>(null);
  return (
    <div class="bar">
      {p.poster && <img class="cover" src={p.poster} alt="" />}
      <div class="title">
        <h1>{p.dir === "/" ? "Library" : nameOf(p.dir)}</h1>
        <p class="small" aria-live="polite">
          {p.listing.loaded ? (p.q ? `${count(p.listing.total, "result")} in this folder` : count(p.listing.total, "item")) : "…"}
        </p>
      </div>
      <div class="tools">
        <a class="button quiet" href={`${hrefOf(p.dir)}?m3u`} title="Open all in VLC" aria-label="Open all in VLC">
          <Icon name="external" />
        </a>
        {p.listing.writable && (
          <button class="quiet" title="New folder" aria-label="New folder" onClick={p.onFolder}>
            <Icon name="folderplus" />
          </button>
        )}
        <select class="sort" aria-label="Sort by" value={`${p.sort} ${p.order}`} onChange={(e) => {
          const [sort, order] = e.currentTarget.value.split(" ") as [Sort, Order];
          p.onSort(sort);
          p.onOrder(order);
        }}>
          <option value="name asc">Name, A to Z</option>
          <option value="name desc">Name, Z to A</option>
          <option value="modified desc">Newest first</option>
          <option value="modified asc">Oldest first</option>
          <option value="size desc">Largest first</option>
          <option value="size asc">Smallest first</option>
          <option value="type asc">Kind</option>
          <option value="type desc">Kind, backwards</option>
        </select>
        <button class="quiet" aria-pressed={p.layout === "tiles"} title={p.layout === "list" ? "Show pictures" : "Show a list"} aria-label="Show pictures" onClick={() => p.onLayout(p.layout === "list" ? "tiles" : "list")}>
          <Icon name={p.layout === "list" ? "grid" : "list"} />
        </button>
        {p.uploads && (
          <button class="primary" onClick={() => files.current?.click()}>
            <Icon name="upload" size={18} /> <span>Upload</span>
          </button>
        )}
        <input
          ref={files}
          id="upload-files"
          type="file"
          multiple
          hidden
          aria-label="Files to upload"
          onChange={(e) => {
            if (e.currentTarget.files) addChosen(e.currentTarget.files, p.dir);
            e.currentTarget.value = "";
          }}
        />
      </div>
    </div>
  );
}

const columns: [string, string, Sort | undefined][] = [
  ["select", "", undefined],
  ["name", "Name", "name"],
  ["length", "Length", undefined],
  ["kind", "Kind", "type"],
  ["date", "Changed", "modified"],
  ["size", "Size", "size"],
  ["act", "", undefined],
];

/** Columns is the head of the list; its cells sort it. */
export function Columns(p: { sort: Sort; order: Order; onSort: (s: Sort) => void }) {
  return (
    <div role="rowgroup" class="head">
      <div role="row" class="row" aria-rowindex={1}>
        {columns.map(([name, label, sort]) => (
          <div key={name} role="columnheader" class={name} aria-sort={sort !== p.sort ? undefined : p.order === "asc" ? "ascending" : "descending"}>
            {sort ? (
              <button class="text" onClick={() => p.onSort(sort)}>
                {label}
                {sort === p.sort && <Icon name={p.order === "asc" ? "up" : "down"} size={14} />}
              </button>
            ) : (
              label || <span class="unseen">{name === "act" ? "Actions" : "Selection"}</span>
            )}
          </div>
        ))}
      </div>
    </div>
  );
}

export function Selection(p: { n: number; writable: boolean; onMove: () => void; onDelete: () => void; onClear: () => void }) {
  return (
    <section class="selection" aria-label="Selection">
      <span aria-live="polite">{count(p.n, "item")} selected</span>
      {p.writable && (
        <>
          <button onClick={p.onMove}>
            <Icon name="move" size={18} /> Move
          </button>
          <button class="danger" onClick={p.onDelete}>
            <Icon name="trash" size={18} /> Delete
          </button>
        </>
      )}
      <button class="quiet" aria-label="Select nothing" onClick={p.onClear}>
        <Icon name="close" size={18} />
      </button>
    </section>
  );
}
