// Light or dark: as the system has it, unless the person has chosen. Also built as a script of its own for the head.

export type Theme = "system" | "light" | "dark";

const KEY = "pymesh.theme";
const dark = matchMedia("(prefers-color-scheme: dark)");

export function chosen(): Theme {
  const kept = localStorage.getItem(KEY);
  return kept === "light" || kept === "dark" ? kept : "system";
}

export function choose(theme: Theme): void {
  if (theme === "system") localStorage.removeItem(KEY);
  else localStorage.setItem(KEY, theme);
  apply();
}

/** Call when the colours of the page have changed. */
export function onChange(changed: () => void): () => void {
  addEventListener("pymesh:theme", changed);
  return () => removeEventListener("pymesh:theme", changed);
}

function apply(): void {
  const theme = chosen();
  document.documentElement.dataset["theme"] = theme === "system" ? (dark.matches ? "dark" : "light") : theme;
  dispatchEvent(new Event("pymesh:theme"));
}

dark.addEventListener("change", apply);
apply();
