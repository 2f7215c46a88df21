// The connected proxies: what each was sent, has acknowledged or refused and why, and whether all of its workers act by it.

import { useState } from "preact/hooks";
import { ago } from "../format";
import { Badge, Empty, Search, Table } from "../parts";
import { usePolled } from "../polled";

interface Type {
  type: string;
  sent: string;
  acked: string;
  rejected: string;
  reason: string;
  /** Of the type: whether what was sent is in force on every worker, and if not, why. */
  state: "SYNCED" | "STALE" | "NOT SENT";
  why: string;
  resources: number;
}

interface Proxy {
  id: string;
  cluster: string;
  identity: string | null;
  agent: string;
  peer: string;
  connectedAt: string;
  state: "SYNCED" | "STALE" | "NACK";
  /** Which of its workers run the newest snapshot; only our own proxies tell. */
  workers: { current: number; total: number } | null;
  metricsProblem: string | null;
  types: Type[];
}

const TONES = { SYNCED: "good", STALE: "degraded", NACK: "failing" } as const;
const ORDER = { NACK: 0, STALE: 1, SYNCED: 2 };
/** Versions are hashes: so much of one tells it from another. */
const SHORT = 10;

export function ProxiesPage() {
  const { answer, problem } = usePolled<Proxy[]>("/api/v1/proxies", 1500);
  const [filter, setFilter] = useState("");
  const [open, setOpen] = useState<string | null>(null);
  if (!answer) return <section class="page"><header><h1>Proxies</h1></header><Empty>{problem ?? "Loading…"}</Empty></section>;
  const shown = answer
    .filter((one) => `${one.id} ${one.identity} ${one.state}`.toLowerCase().includes(filter.trim().toLowerCase()))
    .sort((a, b) => ORDER[a.state] - ORDER[b.state] || name(a).localeCompare(name(b)));
  const chosen = answer.find((one) => one.id === open);
  return (
    <section class="page proxies">
      <header>
        <h1>Proxies</h1>
        <Search value={filter} set={setFilter} label="Filter by name or state" />
      </header>
      <Table
        label="Proxies"
        rows={shown}
        id={(one) => one.id}
        chosen={open}
        open={(one) => setOpen(open === one.id ? null : one.id)}
        empty={filter ? "No proxy matches." : "No proxy is connected."}
        columns={[
          { title: "Proxy", by: name, cell: (one) => name(one) },
          { title: "Role", by: (one) => one.id.split("~")[0] ?? "", cell: (one) => (one.id.startsWith("router~") ? "gateway" : "sidecar") },
          { title: "State", by: (one) => ORDER[one.state], cell: (one) => <Badge tone={TONES[one.state]}>{one.state}</Badge> },
          { title: "In force", cell: (one) => <Types of={one} /> },
          { title: "Program", by: (one) => one.agent, cell: (one) => one.agent },
          { title: "Connected", numeric: true, by: (one) => Date.parse(one.connectedAt), cell: (one) => ago(one.connectedAt) },
          { title: "Metrics", cell: (one) => (one.metricsProblem ? <span title={one.metricsProblem}><Badge tone="degraded">none</Badge></span> : <span class="muted">read</span>) },
          { title: "Workers", numeric: true, cell: (one) => (one.workers ? `${one.workers.current}/${one.workers.total}` : <span class="muted">?</span>) },
        ]}
      />
      {chosen && <Details of={chosen} />}
    </section>
  );
}

function Types({ of }: { of: Proxy }) {
  return (
    <span class="types">
      {of.types.map((one) => {
        const tone = one.reason ? "failing" : one.state === "STALE" ? "degraded" : "good";
        const text = { failing: "refused", good: "in force", degraded: one.why }[tone];
        return <span class={tone} title={`${one.type}: ${text}`}><i aria-hidden="true" />{one.type.toUpperCase()}<span class="hidden"> {text}</span></span>;
      })}
    </span>
  );
}

function Details({ of }: { of: Proxy }) {
  return (
    <section aria-label={`Sync state of ${name(of)}`}>
      <h2>{name(of)}</h2>
      <dl class="facts">
        <dt>Node</dt><dd><code>{of.id}</code></dd>
        <dt>Identity</dt><dd><code>{of.identity ?? "not authenticated"}</code></dd>
        <dt>Address</dt><dd><code>{of.peer}</code></dd>
        {of.metricsProblem && <><dt>Metrics</dt><dd>{of.metricsProblem}</dd></>}
      </dl>
      <Table
        label="Types"
        rows={of.types}
        id={(one) => one.type}
        empty="It has asked for nothing yet."
        columns={[
          { title: "Type", cell: (one) => one.type.toUpperCase() },
          { title: "Resources", numeric: true, cell: (one) => one.resources },
          { title: "Sent", cell: (one) => <code>{one.sent.slice(0, SHORT) || "–"}</code> },
          { title: "Acknowledged", cell: (one) => <code>{one.acked.slice(0, SHORT) || "–"}</code> },
          { title: "Refused", cell: (one) => (one.reason ? <span class="reason"><code>{one.rejected.slice(0, SHORT)}</code> {one.reason}</span> : "–") },
          { title: "In force", cell: (one) => (one.state === "SYNCED" ? one.why || "on all workers" : one.state === "STALE" ? <span class="reason">{one.why}</span> : "–") },
        ]}
      />
    </section>
  );
}

function name(of: Proxy): string {
  return of.id.split("~")[2] ?? of.id;
}
