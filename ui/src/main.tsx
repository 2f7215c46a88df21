// The frame of the pages: where one can go, which namespaces are shown, what is wrong anywhere, light or dark.

import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import "./app.css";
import "uplot/dist/uPlot.min.css";
import * as live from "./live";
import { useLive } from "./live";
import { ConfigurationPage } from "./pages/configuration";
import { GraphPage } from "./pages/graph";
import { ProxiesPage } from "./pages/proxies";
import { ServicePage } from "./pages/service";
import { ServicesPage } from "./pages/services";
import { type Route, useRoute } from "./routes";
import { choose, chosen, type Theme } from "./theme";

const PAGES = [
  { page: "graph", title: "Graph" },
  { page: "services", title: "Services" },
  { page: "configuration", title: "Configuration" },
  { page: "proxies", title: "Proxies" },
] as const;

function App() {
  const route = useRoute();
  const now = useLive();
  const totals = now.state.mesh.get("mesh");
  const marks: Record<string, number> = { configuration: totals?.errors ?? 0, proxies: totals?.rejected ?? 0 };
  const current = route.page === "service" ? "services" : route.page;
  useEffect(() => {
    document.title = `${PAGES.find((one) => one.page === current)?.title} · pymesh`;
  }, [current]);
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => { event.preventDefault(); document.querySelector<HTMLElement>("main")?.focus(); }}>Skip to the page</a>
      <header class="bar">
        <a class="brand" href="#/graph"><img src="icon.svg" alt="" width="22" height="22" />pymesh</a>
        <nav aria-label="Pages">
          {PAGES.map(({ page, title }) => (
            <a href={`#/${page}`} aria-current={page === current ? "page" : undefined}>
              {title}
              {marks[page] ? <b class="mark" aria-label={`${marks[page]} problems`}>{marks[page]}</b> : null}
            </a>
          ))}
        </nav>
        <div class="right">
          <Namespaces />
          <span class={`pulse ${now.connected ? "on" : "off"}`} role="status">
            <i aria-hidden="true" />{now.connected ? "live" : "not connected"}
          </span>
          <Themes />
        </div>
      </header>
      <main id="main" tabIndex={-1}><Page route={route} /></main>
    </>
  );
}

function Page({ route }: { route: Route }) {
  switch (route.page) {
    case "services": return <ServicesPage />;
    case "service": return <ServicePage key={route.id} id={route.id} />;
    case "configuration": return <ConfigurationPage />;
    case "proxies": return <ProxiesPage />;
    default: return <GraphPage />;
  }
}

function Namespaces() {
  const { state, namespace } = useLive();
  const names = new Set([...state.namespaces.keys(), ...(namespace ? [namespace] : [])]);
  return (
    <label class="namespaces">
      <span>Namespace</span>
      <select
        value={namespace}
        onChange={(event) => live.choose((event.target as HTMLSelectElement).value)}
      >
        <option value="">all</option>
        {[...names].sort().map((name) => {
          const known = state.namespaces.get(name);
          return <option value={name} selected={name === namespace}>{known ? `${name} (${known.services})` : name}</option>;
        })}
      </select>
    </label>
  );
}

const THEMES: Record<Theme, { next: Theme; icon: string }> = {
  system: { next: "dark", icon: "M8 1.500a6.500 6.500 0 1 0 0 13zM8 1.500a6.500 6.500 0 0 1 0 13" },
  dark: { next: "light", icon: "M13.500 9.800A6 6 0 0 1 6.200 2.500a6 6 0 1 0 7.300 7.300z" },
  light: { next: "system", icon: "M8 4.800a3.200 3.200 0 1 0 0 6.400 3.200 3.200 0 0 0 0-6.400zM8 .8v1.700M8 13.500v1.700M.8 8h1.700M13.500 8h1.700M2.900 2.900l1.200 1.200M11.900 11.900l1.200 1.200M2.900 13.100l1.200-1.200M11.900 4.100l1.200-1.200" },
};

function Themes() {
  const [theme, set] = useState(chosen());
  const { next, icon } = THEMES[theme];
  return (
    <button
      type="button"
      class="theme"
      aria-label={`Theme: ${theme}. Change to ${next}`}
      title={`Theme: ${theme}`}
      onClick={() => { choose(next); set(next); }}
    >
      <svg viewBox="0 0 16 16" aria-hidden="true"><path d={icon} fill={theme === "light" ? "none" : "currentColor"} fill-opacity={theme === "system" ? 0.35 : 1} stroke="currentColor" stroke-width="1.300" stroke-linecap="round" /></svg>
    </button>
  );
}

void live.start();
render(<App />, document.getElementById("app")!);
