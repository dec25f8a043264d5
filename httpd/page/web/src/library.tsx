// A directory: its entries, and all that is done with them.
import { useCallback, useEffect, useMemo, useRef, useState } from "preact/hooks";
import { deleteAll, makeDir, moveAll, rename } from "./actions";
import { me as whoAmI, type Entry, type ListQuery, type Me } from "./api";
import { watch } from "./changes";
import { Chooser } from "./chooser";
import { AskName, Confirm } from "./dialog";
import { Line, Tile, type On } from "./entries";
import { count } from "./format";
import { Header, plainClick } from "./header";
import { Beneath } from "./found";
import { Help, useKeys } from "./keys";
import { shown } from "./kinds";
import { Listing } from "./listing";
import { onMedia } from "./mediainfo";
import { Menu, type At, type Choice } from "./menu";
import { onPoster } from "./posters";
import { navigate, nameOf, parentOf } from "./route";
import { Rows, type Layout, type Scroller } from "./rows";
import { useSetting } from "./settings";
import { Share } from "./share";
import { complain } from "./toasts";
import { Columns, Selection, Toolbar, type Order, type Sort } from "./toolbar";
import { TrashDialog } from "./trash";
import { onFinished } from "./upload";
import { Drop } from "./uploads";

/** Asking is the question that stands above the page. */
type Asking =
  | { what: "rename" | "share"; e: Entry }
  | { what: "move" | "delete"; names: string[] }
  | { what: "folder" | "trash" | "help" };

/** selectMost is how many entries are selected at once, at most. */
const selectMost = 10_000;

/** useListing holds the listing of a query; the one before it stays until it is there. */
function useListing(query: ListQuery): [Listing, () => void] {
  const [, tick] = useState(0);
  const draw = useCallback(() => tick((n) => n + 1), []);
  const shownNow = useRef<Listing | undefined>(undefined);
  const key = JSON.stringify(query);
  const listing = useMemo(() => new Listing(query, draw), [key]);
  useEffect(() => {
    listing.see(0, 60);
    return () => listing.close();
  }, [listing]);
  useEffect(() => watch(query.path, () => void listing.refresh()), [listing]);
  useEffect(() => {
    const ends = [onMedia(draw), onPoster(draw), onFinished((u) => parentOf(u.path).startsWith(query.path) && void listing.refresh())];
    return () => ends.forEach((end) => end());
  }, [listing]);
  if (listing.loaded || listing.error || shownNow.current?.query.path !== query.path) shownNow.current = listing;
  return [shownNow.current, draw];
}

function useMe(dir: string): [Me | undefined, () => void] {
  const [me, set] = useState<Me | undefined>();
  const [turn, again] = useState(0);
  useEffect(() => {
    const abort = new AbortController();
    whoAmI(dir, abort.signal).then(set, (err) => !abort.signal.aborted && complain("The server does not answer as it should", err));
    return () => abort.abort();
  }, [dir, turn]);
  return [me, () => again((n) => n + 1)];
}

export function Library({ dir, view }: { dir: string; view: string | null }) {
  const quiet = view !== null; // something else is looked at
  const [sort, setSort] = useSetting<Sort>("sort", "name", ["name", "size", "modified", "type"]);
  const [order, setOrder] = useSetting<Order>("order", "asc", ["asc", "desc"]);
  const [layout, setLayout] = useSetting<Layout>("layout", "list", ["list", "tiles"]);
  const [typed, setTyped] = useState("");
  const [q, setQ] = useState("");
  const [focus, setFocus] = useState(0);
  const [selected, select] = useState<ReadonlySet<string>>(new Set());
  const [menu, openMenu] = useState<{ e: Entry; at: At } | undefined>();
  const [asking, ask] = useState<Asking | undefined>();
  const scroller = useRef<Scroller | null>(null);
  const anchor = useRef(0);
  const [me, lookAgain] = useMe(dir);
  const [listing] = useListing({ path: dir, sort, order, q: q || undefined });
  const refresh = () => void listing.refresh();

  useEffect(() => {
    const timer = setTimeout(() => setQ(typed.trim()), typed === "" ? 0 : 120);
    return () => clearTimeout(timer);
  }, [typed]);
  useEffect(() => {
    setTyped("");
    setQ("");
    setFocus(0);
    select(new Set());
    document.title = dir === "/" ? "Library" : nameOf(dir);
  }, [dir]);

  const last = useRef(view);
  useEffect(() => {
    if (view === null && last.current !== null) {
      const index = listing.indexOf(last.current); // the one that was looked at last
      goTo(index < 0 ? focus : index);
    }
    last.current = view;
  }, [view]);

  const choose = (names: Iterable<string>) => select(new Set(names));
  const paths = (names: Iterable<string>) => [...names].map((n) => dir + n);
  const toggle = async (index: number, range: boolean) => {
    const e = listing.at(index);
    if (!e) return;
    setFocus(index);
    if (!range) {
      anchor.current = index;
      const set = new Set(selected);
      if (!set.delete(e.name)) set.add(e.name);
      return select(set);
    }
    const [from, to] = [Math.min(anchor.current, index), Math.max(anchor.current, index) + 1];
    const some = await listing.all(from, Math.min(to, from + selectMost));
    choose([...selected, ...some.map((s) => s.name)]);
  };
  const openEntry = (e: Entry) => {
    if (e.type === "dir") navigate({ dir: `${dir}${e.name}/` });
    else if (shown(e)) navigate({ dir, view: e.name });
    else location.assign(e.href);
  };
  const on: On = {
    open: (index, ev) => {
      const e = listing.at(index);
      if (!e || !plainClick(ev)) return;
      ev.preventDefault();
      openEntry(e);
    },
    toggle: (index, range) => void toggle(index, range),
    menu: (index, at) => {
      const e = listing.at(index);
      setFocus(index);
      if (e) openMenu({ e, at });
    },
    focus: setFocus,
  };
  const writable = listing.writable;
  /** acted is what an action is for: the selection if the entry is part of it, else the entry. */
  const acted = (e: Entry): string[] => (selected.has(e.name) ? [...selected] : [e.name]);
  const askDelete = (names: string[]) => {
    if (me?.features.trash) {
      select(new Set());
      void deleteAll(paths(names), me, refresh);
    } else ask({ what: "delete", names });
  };
  const choices = (e: Entry): Choice[] => [
    { label: "Open", icon: "play", run: () => openEntry(e) },
    ...(e.type === "dir" || shown(e) ? [{ label: "Open in VLC", icon: "external" as const, href: `${e.href}?m3u` }] : []),
    ...(e.type === "file" ? [{ label: "Download", icon: "download" as const, href: `${e.href}?download`, download: true }] : []),
    ...(me?.can_share ? [{ label: "Share…", icon: "external" as const, run: () => ask({ what: "share", e }) }] : []),
    ...(writable
      ? [
          { label: "Rename…", icon: "rename" as const, run: () => ask({ what: "rename", e }) },
          { label: "Move…", icon: "move" as const, run: () => ask({ what: "move", names: acted(e) }) },
          { label: "Delete", icon: "trash" as const, danger: true, run: () => askDelete(acted(e)) },
        ]
      : []),
  ];

  const goTo = (index: number) => {
    if (listing.total === 0) return;
    const to = Math.max(0, Math.min(listing.total - 1, index));
    setFocus(to);
    scroller.current?.show(to);
  };
  useKeys(!quiet && !asking && !menu, {
    perLine: () => scroller.current?.perLine ?? 1,
    perPage: () => scroller.current?.perPage ?? 10,
    focus,
    total: listing.total,
    go: goTo,
    open: () => {
      const e = listing.at(focus);
      if (e) openEntry(e);
    },
    up: () => dir !== "/" && navigate({ dir: parentOf(dir) }),
    toggle: (range) => void toggle(focus, range),
    all: () => void listing.all(0, Math.min(listing.total, selectMost)).then((all) => choose(all.map((e) => e.name))),
    none: () => (typed ? setTyped("") : select(new Set())),
    search: () => document.getElementById("search")?.focus(),
    remove: () => {
      const e = listing.at(focus);
      if (writable && (selected.size > 0 || e)) askDelete(selected.size > 0 ? [...selected] : [e!.name]);
    },
    rename: () => {
      const e = listing.at(focus);
      if (writable && e) ask({ what: "rename", e });
    },
    help: () => ask({ what: "help" }),
  });

  const sortBy = (by: Sort) => {
    if (by === sort) setOrder(order === "asc" ? "desc" : "asc");
    else {
      setSort(by);
      setOrder(by === "name" || by === "type" ? "asc" : "desc");
    }
  };
  const entry = (e: Entry | undefined, index: number) => {
    const p = { e, index, dir, on, selected: e !== undefined && selected.has(e.name), focused: index === focus, selecting: selected.size > 0 };
    return layout === "list" ? <Line key={index} {...p} /> : <Tile key={index} {...p} />;
  };

  return (
    <div class="library" inert={quiet}>
      <a class="skip" href="#files">
        Skip to the files
      </a>
      <Header dir={dir} q={typed} me={me} onSearch={setTyped} onDown={() => goTo(0)} onTrash={() => ask({ what: "trash" })} onMe={() => (lookAgain(), refresh())} />
      <main id="files" tabIndex={-1}>
        <Toolbar
          dir={dir}
          listing={listing}
          q={q}
          sort={sort}
          order={order}
          layout={layout}
          poster={listing.poster}
          uploads={writable && (me?.features.uploads ?? false)}
          onSort={setSort}
          onOrder={setOrder}
          onLayout={setLayout}
          onFolder={() => ask({ what: "folder" })}
        />
        {listing.error && !listing.loaded ? (
          <p class="empty" role="alert">
            {listing.error.message}
          </p>
        ) : listing.loaded && listing.total === 0 ? (
          <p class="empty">{q ? `Nothing here is called “${q}”.` : writable ? "This folder is empty. Drop files here to upload them." : "This folder is empty."}</p>
        ) : (
          <Rows
            listing={listing}
            layout={layout}
            focus={focus}
            scroller={scroller}
            columns={7}
            label={dir === "/" ? "Files of the library" : `Files of ${nameOf(dir)}`}
            head={<Columns sort={sort} order={order} onSort={sortBy} />}
            entry={entry}
          />
        )}
        {listing.truncated && <p class="small">Only {count(listing.total, "entry").replace("entrys", "entries")} are shown; search finds the others.</p>}
        <Beneath dir={dir} q={q} />
      </main>
      {selected.size > 0 && (
        <Selection
          n={selected.size}
          writable={writable}
          onMove={() => ask({ what: "move", names: [...selected] })}
          onDelete={() => askDelete([...selected])}
          onClear={() => select(new Set())}
        />
      )}
      {writable && me?.features.uploads && <Drop dir={dir} />}
      {menu && <Menu label={menu.e.name} at={menu.at} choices={choices(menu.e)} onClose={() => openMenu(undefined)} />}
      <Question asking={asking} dir={dir} listing={listing} me={me} refresh={refresh} done={() => select(new Set())} onClose={() => ask(undefined)} />
    </div>
  );
}

function Question(p: { asking: Asking | undefined; dir: string; listing: Listing; me: Me | undefined; refresh: () => void; done: () => void; onClose: () => void }) {
  const { asking, dir, refresh, onClose } = p;
  const taken = (name: string) => p.listing.indexOf(name) >= 0;
  switch (asking?.what) {
    case "rename":
      return <AskName title={`Rename “${asking.e.name}”`} verb="Rename" value={asking.e.name} taken={taken} onDone={(to) => void rename(dir, asking.e.name, to, refresh)} onClose={onClose} />;
    case "folder":
      return <AskName title="New folder" verb="Make" value="" taken={taken} onDone={(name) => void makeDir(dir + name, refresh)} onClose={onClose} />;
    case "move":
      return (
        <Chooser
          title={asking.names.length === 1 ? `Move “${asking.names[0]}”` : `Move ${count(asking.names.length, "item")}`}
          start={dir}
          not={asking.names.map((n) => dir + n)}
          onDone={(to) => {
            p.done();
            void moveAll(
              asking.names.map((n) => dir + n),
              to,
              refresh,
            );
          }}
          onClose={onClose}
        />
      );
    case "delete":
      return (
        <Confirm
          title="Delete for good?"
          text={`${asking.names.length === 1 ? `“${asking.names[0]}”` : count(asking.names.length, "item")} cannot be put back.`}
          verb="Delete"
          onDone={() => {
            p.done();
            void deleteAll(
              asking.names.map((n) => dir + n),
              p.me,
              refresh,
            );
          }}
          onClose={onClose}
        />
      );
    case "share":
      return <Share path={dir + asking.e.name} name={asking.e.name} onClose={onClose} />;
    case "trash":
      return <TrashDialog onChanged={refresh} onClose={onClose} />;
    case "help":
      return <Help onClose={onClose} />;
  }
  return null;
}
