// The page: one script for every directory, what is looked at in it, and the status.
import { render } from "preact";
import { Library } from "./library";
import { useRoute } from "./route";
import { StatusPage } from "./status";
import { Toasts } from "./toasts";
import { Uploads } from "./uploads";
import { Viewer } from "./viewer";

function App() {
  const { dir, view } = useRoute();
  if (dir === "/.tnv/") return <StatusPage />;
  return (
    <>
      <Library dir={dir} view={view} />
      {view !== null && <Viewer dir={dir} name={view} />}
      <Uploads />
      <Toasts />
    </>
  );
}

render(<App />, document.getElementById("app")!);
