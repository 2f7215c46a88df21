// Bundles the UI into control/ui/static, from where the wheel takes it. What is there before is removed.
import { cp, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const target = here("../control/ui/static/");
const shared = { bundle: true, minify: true, target: "es2022", legalComments: "none", logLevel: "warning" };

await rm(target, { recursive: true, force: true });
await mkdir(target, { recursive: true });
await build({
  ...shared,
  entryPoints: { app: here("src/main.tsx") },
  format: "esm",
  jsx: "automatic",
  jsxImportSource: "preact",
  outdir: target,
});
// Runs before the first paint, so that no page flashes in the other theme.
await build({ ...shared, entryPoints: { theme: here("src/theme.ts") }, format: "iife", outdir: target });
for (const file of ["index.html", "icon.svg"]) await cp(here(file), target + file);

// What is in the bundle asks for its licences to go with it.
const { dependencies } = JSON.parse(await readFile(here("package.json"), "utf8"));
const licences = ["The bundle contains these packages.\n"];
for (const name of Object.keys(dependencies)) {
  const folder = here(`node_modules/${name}/`);
  const { version, license } = JSON.parse(await readFile(`${folder}package.json`, "utf8"));
  licences.push(`== ${name} ${version} (${license})\n`, await readFile(`${folder}LICENSE`, "utf8"));
}
await writeFile(`${target}LICENSES.txt`, licences.join("\n"));
