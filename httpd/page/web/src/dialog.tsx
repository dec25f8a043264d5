// Questions to the user. One stands at a time, above the page, which waits.
import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { Icon } from "./icons";

/** Dialog is a modal window: Escape and the space around it close it. */
export function Dialog(props: { title: string; onClose: () => void; wide?: boolean; children: ComponentChildren }) {
  const ref = useRef<HTMLDialogElement>(null);
  useLayoutEffect(() => {
    const d = ref.current;
    if (d && !d.open) d.showModal();
    return () => d?.close();
  }, []);
  return (
    <dialog
      ref={ref}
      class={props.wide ? "wide" : ""}
      aria-label={props.title}
      onCancel={(e) => {
        e.preventDefault();
        props.onClose();
      }}
      onClick={(e) => e.target === ref.current && props.onClose()}
    >
      <div class="sheet">
        <header>
          <h2>{props.title}</h2>
          <button class="quiet" aria-label="Close" onClick={props.onClose}>
            <Icon name="close" />
          </button>
        </header>
        {props.children}
      </div>
    </dialog>
  );
}

/** badName tells what is wrong with a name for a file; empty: nothing. */
export function badName(name: string): string {
  if (name === "" || name === "." || name === "..") return "A name is needed.";
  if (name.includes("/")) return "A name has no slash.";
  if (new TextEncoder().encode(name).length > 255) return "That name is too long.";
  return "";
}

/** AskName asks for the name of something new or old. */
export function AskName(props: { title: string; verb: string; value: string; taken: (name: string) => boolean; onDone: (name: string) => void; onClose: () => void }) {
  const [name, set] = useState(props.value);
  const input = useRef<HTMLInputElement>(null);
  useLayoutEffect(() => {
    const dot = props.value.lastIndexOf(".");
    input.current?.focus();
    input.current?.setSelectionRange(0, dot > 0 ? dot : props.value.length);
  }, []);
  const wrongWith = (name: string) => badName(name) || (name !== props.value && props.taken(name) ? "That name is taken." : "");
  const wrong = wrongWith(name);
  return (
    <Dialog title={props.title} onClose={props.onClose}>
      <form
        onSubmit={(e) => {
          e.preventDefault();
          const now = input.current?.value ?? name; // Enter may come before what was typed is drawn
          set(now);
          if (wrongWith(now)) return;
          if (now !== props.value) props.onDone(now);
          props.onClose();
        }}
      >
        <label>
          Name
          <input ref={input} value={name} onInput={(e) => set(e.currentTarget.value)} aria-invalid={wrong !== "" && name !== ""} aria-describedby="name-wrong" spellcheck={false} autocomplete="off" />
        </label>
        <p id="name-wrong" class="wrong" role="alert">
          {name === "" ? "" : wrong}
        </p>
        <footer>
          <button type="button" onClick={props.onClose}>
            Cancel
          </button>
          <button class="primary" disabled={wrong !== ""}>
            {props.verb}
          </button>
        </footer>
      </form>
    </Dialog>
  );
}

/** Confirm asks before what cannot be taken back. */
export function Confirm(props: { title: string; text: string; verb: string; onDone: () => void; onClose: () => void }) {
  return (
    <Dialog title={props.title} onClose={props.onClose}>
      <p>{props.text}</p>
      <footer>
        <button onClick={props.onClose}>Cancel</button>
        <button
          class="primary"
          onClick={() => {
            props.onClose();
            props.onDone();
          }}
        >
          {props.verb}
        </button>
      </footer>
    </Dialog>
  );
}
