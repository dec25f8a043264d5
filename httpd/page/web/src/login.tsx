// Who one is, and signing in and out.
import { useState } from "preact/hooks";
import { login, logout, type Me } from "./api";
import { Dialog } from "./dialog";
import { Icon } from "./icons";
import { below, Menu, type At } from "./menu";
import { complain } from "./toasts";

function LoginDialog(props: { onDone: () => void; onClose: () => void }) {
  const [wrong, set] = useState("");
  return (
    <Dialog title="Sign in" onClose={props.onClose}>
      <form
        onSubmit={(e) => {
          e.preventDefault();
          const form = new FormData(e.currentTarget);
          login(String(form.get("user")), String(form.get("password"))).then(
            () => {
              props.onClose();
              props.onDone();
            },
            (err: { status?: number; message: string }) => set(err.status === 401 ? "That name and password do not match." : err.message),
          );
        }}
      >
        <label>
          Name
          <input name="user" autocomplete="username" autofocus required />
        </label>
        <label>
          Password
          <input name="password" type="password" autocomplete="current-password" required />
        </label>
        <p class="wrong" role="alert">
          {wrong}
        </p>
        <footer>
          <button type="button" onClick={props.onClose}>
            Cancel
          </button>
          <button class="primary">Sign in</button>
        </footer>
      </form>
    </Dialog>
  );
}

/** Person is the button at the page's corner; nothing where there is nobody to be. */
export function Person(props: { me: Me | undefined; onChanged: () => void }) {
  const [asking, ask] = useState(false);
  const [menu, open] = useState<At | undefined>();
  const { me } = props;
  if (!me || (!me.user && !me.can_login)) return null;
  const leave = () => void logout().then(props.onChanged, (err) => complain("Signing out failed", err));
  return (
    <>
      <button class="quiet" aria-haspopup={me.user ? "menu" : "dialog"} aria-label={me.user ? `Signed in as ${me.user}` : "Sign in"} title={me.user || "Sign in"} onClick={(e) => (me.user ? open(below(e.currentTarget)) : ask(true))}>
        <Icon name="person" />
      </button>
      {menu && <Menu label={me.user} at={menu} choices={[{ label: `Sign out ${me.user}`, icon: "external", run: leave }]} onClose={() => open(undefined)} />}
      {asking && <LoginDialog onDone={props.onChanged} onClose={() => ask(false)} />}
    </>
  );
}
