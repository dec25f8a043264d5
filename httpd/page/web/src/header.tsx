// The head of the page: where one is, the search, and ways to elsewhere.
import { useEffect, useRef } from "preact/hooks";
import type { Me } from "./api";
import { Icon } from "./icons";
import { Person } from "./login";
import { hrefOf, navigate } from "./route";

/** plainClick tells a click that stays in this page from one for another tab. */
export const plainClick = (e: MouseEvent): boolean => e.button === 0 && !(e.ctrlKey || e.metaKey || e.shiftKey || e.altKey);

export function Crumbs({ dir }: { dir: string }) {
  const names = dir.split("/").filter((n) => n !== "");
  const list = useRef<HTMLOListElement>(null);
  useEffect(() => {
    if (list.current) list.current.scrollLeft = list.current.scrollWidth;
  }, [dir]);
  const link = (to: string, text: preact.ComponentChildren, here: boolean, label?: string) => (
    <a
      href={hrefOf(to)}
      aria-current={here ? "page" : undefined}
      aria-label={label}
      onClick={(e) => {
        if (!plainClick(e)) return;
        e.preventDefault();
        navigate({ dir: to });
      }}
    >
      {text}
    </a>
  );
  return (
    <nav aria-label="Folders above" class="crumbs">
      <ol ref={list}>
        <li>{link("/", <Icon name="home" />, names.length === 0, "Library")}</li>
        {names.map((n, i) => {
          const to = `/${names.slice(0, i + 1).join("/")}/`;
          return <li key={to}>{link(to, n, i === names.length - 1)}</li>;
        })}
      </ol>
    </nav>
  );
}

export function Search(props: { value: string; where: string; onInput: (q: string) => void; onDown: () => void }) {
  return (
    <div class="search" role="search">
      <Icon name="search" size={18} />
      <input
        type="search"
        id="search"
        value={props.value}
        placeholder="Search"
        aria-label={`Search in ${props.where}`}
        autocomplete="off"
        spellcheck={false}
        enterkeyhint="search"
        onInput={(e) => props.onInput(e.currentTarget.value)}
        onKeyDown={(e) => {
          if (e.key === "Escape") {
            props.onInput("");
            e.currentTarget.blur();
          } else if (e.key === "ArrowDown" || e.key === "Enter") {
            e.preventDefault();
            props.onDown();
          } else return;
          e.stopPropagation();
        }}
      />
      {props.value === "" && <kbd aria-hidden="true">/</kbd>}
    </div>
  );
}

export function Header(props: { dir: string; q: string; me: Me | undefined; onSearch: (q: string) => void; onDown: () => void; onTrash: () => void; onMe: () => void }) {
  return (
    <header class="top">
      <Crumbs dir={props.dir} />
      <Search value={props.q} where={props.dir === "/" ? "the library" : props.dir} onInput={props.onSearch} onDown={props.onDown} />
      <span class="corner">
        {props.me?.can_write && props.me.features.trash && (
          <button class="quiet" aria-label="Trash" title="Trash" onClick={props.onTrash}>
            <Icon name="trash" />
          </button>
        )}
        <a class="button quiet" href="/.tnv/" aria-label="Status" title="Status">
          <Icon name="status" />
        </a>
        <Person me={props.me} onChanged={props.onMe} />
      </span>
    </header>
  );
}
