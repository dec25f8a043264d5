// Builds the page: src/ and what package-lock.json pins go in, ../dist (or the
// directory that is named) comes out. The same sources give the same bytes,
// wherever they lie: names carry a hash of their content and nothing else.
import { build } from "esbuild";
import { cp, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const out = process.argv[2] ?? join(here, "../dist");
process.chdir(here); // the names of modules in the result are relative to this
await rm(out, { recursive: true, force: true });
await mkdir(out, { recursive: true });

const shared = {
  bundle: true,
  minify: true,
  write: true,
  metafile: true,
  outdir: out,
  absWorkingDir: here,
  target: ["chrome111", "firefox115", "safari16.4"],
  legalComments: "none", // their whole licenses are written below
  entryNames: "[name]-[hash]",
  chunkNames: "[name]-[hash]",
  logLevel: "warning",
};

/** one names the one file that was built for an entry point. */
function one(result, ext) {
  const found = Object.entries(result.metafile.outputs).find(([name, o]) => o.entryPoint && name.endsWith(ext));
  return basename(found[0]);
}

const worker = await build({ ...shared, entryPoints: ["node_modules/hls.js/dist/hls.worker.js"], format: "iife" });
const script = await build({
  ...shared,
  entryPoints: ["src/main.tsx"],
  format: "esm",
  splitting: true,
  jsx: "automatic",
  jsxImportSource: "preact",
  define: { HLS_WORKER: JSON.stringify(one(worker, ".js")) },
});
const style = await build({ ...shared, entryPoints: ["src/style.css"] });

// Who runs no scripts is sent from a directory to its plain listing, from the status page to its figures.
const source = await readFile("src/index.html", "utf8");
const html = source.replace("main.js", one(script, ".js")).replace("style.css", one(style, ".css"));
await writeFile(join(out, "index.html"), html.replaceAll("PLAIN", "?plain"));
await writeFile(join(out, "status.html"), html.replaceAll("PLAIN", "/.tnv/api/status"));
await cp("src/icon.svg", join(out, "icon.svg"));
const licenses = await Promise.all(
  ["preact", "hls.js"].map(async (name) => {
    const { version } = JSON.parse(await readFile(`node_modules/${name}/package.json`, "utf8"));
    return `${name} ${version}\n\n${await readFile(`node_modules/${name}/LICENSE`, "utf8")}`;
  }),
);
await writeFile(join(out, "LICENSES.txt"), licenses.join("\n\n"));
