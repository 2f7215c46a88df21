// One service: its four golden signals over time, its versions, who calls it and whom it calls.

import { useEffect, useState } from "preact/hooks";
import { Chart, type Column as Values } from "../chart";
import { DASH, milliseconds, percent, rate, shortName } from "../format";
import { useLive } from "../live";
import type { Edge, Node, Service } from "../model";
import { Badge, type Column, Empty, Lock, Success, Table } from "../parts";
import { toService } from "../routes";

interface History {
  at: number[];
  rate: Values;
  errors: Values;
  p50: Values;
  p99: Values;
  inFlight: Values;
}

const SIGNALS = ["rate", "errors", "p50", "p99", "inFlight"] as const;
/** As many as the control plane remembers. */
const MOST = 600;

export function ServicePage({ id }: { id: string }) {
  const live = useLive();
  const { state, namespace: shown } = live;
  const service = state.services.get(id);
  const history = useHistory(id, service, live.at);
  const [namespace = "", ...rest] = id.split("/");
  const name = rest.join("/");
  if (!service) {
    const why = live.sequence === 0 ? "Waiting for the control plane…" : shown && shown !== namespace ? `Only ${shown} is shown; choose ${namespace || "all namespaces"} above.` : "There is no such service.";
    return <section class="page"><header><h1>{name}</h1></header><Empty>{why}</Empty></section>;
  }
  const versions = [...state.nodes.values()].filter((node) => `${node.namespace}/${node.service}` === id);
  const own = new Set(versions.map((node) => node.id));
  const edges = [...state.edges.values()];
  const answers = Object.entries(service.answers);
  const { at } = history;
  return (
    <section class="page service">
      <header>
        <nav aria-label="Breadcrumb"><a href="#/services">Services</a> <span aria-hidden="true">/</span> {namespace || "outside"}</nav>
        <h1>{name}</h1>
        {service.kind !== "service" && <Badge tone="plain">{service.kind}</Badge>}
        <span class="muted">{service.workloads > 0 && `${service.proxies} of ${service.workloads} proxies connected`}</span>
      </header>
      <div class="charts">
        <Chart title="Traffic" now={`${rate(service.rate)}/s`} about="requests a second" at={at} shown={rate} least={1}
          series={[{ label: "requests", values: history.rate, colour: "accent", fill: true }]} />
        <Chart title="Errors" now={service.success === null ? DASH : percent(service.success)} about="success · failures a second" at={at} shown={rate} least={1}
          series={[{ label: "failures", values: history.errors, colour: "failing", fill: true }]} />
        <Chart title="Latency" now={milliseconds(service.p99)} about="99th percentile · median" at={at} shown={milliseconds} least={1}
          series={[{ label: "p99", values: history.p99, colour: "accent" }, { label: "p50", values: history.p50, colour: "edge" }]} />
        <Chart title="Saturation" now={String(service.inFlight)} about="requests in flight" at={at} least={2} shown={(value) => (value === null ? DASH : String(Math.round(value * 10) / 10))}
          series={[{ label: "in flight", values: history.inFlight, colour: "accent", fill: true }]} />
      </div>
      <div class="columns">
        <section><h2>Called by</h2>
          <Edges label="Called by" edges={edges.filter((one) => own.has(one.target))} side="source" namespace={namespace} nodes={state.nodes} empty="Nobody in the mesh has called it." /></section>
        <section><h2>Calls</h2>
          <Edges label="Calls" edges={edges.filter((one) => own.has(one.source))} side="target" namespace={namespace} nodes={state.nodes} empty="It has called nobody." /></section>
        <section><h2>Versions</h2>
          <Table label="Versions" rows={versions} id={(node) => node.id} empty=""
            columns={[
              { title: "Version", by: (node) => node.version, cell: (node) => node.version || DASH },
              { title: "Requests/s", numeric: true, by: (node) => node.rate, cell: (node) => rate(node.rate) },
              { title: "Success", numeric: true, by: (node) => node.success, cell: (node) => <Success of={node} /> },
              { title: "p99", numeric: true, by: (node) => node.p99, cell: (node) => milliseconds(node.p99) },
              { title: "Proxies", numeric: true, cell: (node) => (node.workloads ? `${node.proxies} of ${node.workloads}` : DASH) },
            ]} /></section>
        <section><h2>Answers</h2>
          <Table label="Answers" rows={answers} id={([answer]) => answer} empty="No answers in the last seconds."
            columns={[
              { title: "Status, response flags", by: ([answer]) => answer, cell: ([answer]) => <code>{answer}</code> },
              { title: "A second", numeric: true, by: ([, count]) => count, cell: ([, count]) => rate(count) },
            ]} /></section>
      </div>
    </section>
  );
}

function Edges({ label, edges, side, namespace, nodes, empty }: { label: string; edges: Edge[]; side: "source" | "target"; namespace: string; nodes: Map<string, Node>; empty: string }) {
  const service = (edge: Edge) => {
    const node = nodes.get(edge[side]);
    return node && `${node.namespace}/${node.service}`;
  };
  const other = side === "source" ? "target" : "source";
  // Where more than one of its versions takes part, each row says which.
  const both = new Set(edges.map((one) => one[other])).size > 1;
  const columns: Column<Edge>[] = [
    { title: side === "source" ? "From" : "To", by: (one) => one[side], cell: (one) => <>{shortName(one[side], namespace)} {both && <small>{side === "source" ? "to" : "from"} {nodes.get(one[other])?.version}</small>}</> },
    { title: "Requests/s", numeric: true, by: (one) => one.rate, cell: (one) => rate(one.rate) },
    { title: "Success", numeric: true, by: (one) => one.success, cell: (one) => <Success of={one} /> },
    { title: "p99", numeric: true, by: (one) => one.p99, cell: (one) => milliseconds(one.p99) },
    { title: "Security", by: (one) => one.mtls, cell: (one) => <Lock mtls={one.mtls} /> },
  ];
  return (
    <Table label={label} rows={edges.sort((a, b) => a.id.localeCompare(b.id))} columns={columns} id={(one) => one.id} empty={empty}
      open={(one) => {
        const to = service(one);
        if (to) location.hash = toService(to);
      }} />
  );
}

/** What the control plane remembers, once, and each tick since. */
function useHistory(id: string, service: Service | undefined, at: number): History {
  const [history, set] = useState<History>({ at: [], rate: [], errors: [], p50: [], p99: [], inFlight: [] });
  useEffect(() => {
    const [namespace, ...name] = id.split("/");
    let left = false;
    fetch(`/api/v1/services/${encodeURIComponent(namespace || "-")}/${encodeURIComponent(name.join("/"))}/history`)
      .then((answer) => answer.json() as Promise<History>)
      .then((past) => !left && set((now) => joined(past, now)))
      .catch(() => undefined);
    return () => {
      left = true;
      set({ at: [], rate: [], errors: [], p50: [], p99: [], inFlight: [] });
    };
  }, [id]);
  useEffect(() => {
    if (!service || !at) return;
    const tick: History = { at: [Math.round(at * 10) / 10], rate: [service.rate], errors: [service.errors], p50: [service.p50], p99: [service.p99], inFlight: [service.inFlight] };
    set((past) => joined(past, tick));
  }, [at, service === undefined]);
  return history;
}

/** What is later than the past, after it. */
function joined(past: History, now: History): History {
  const last = past.at.at(-1) ?? 0;
  const first = now.at.findIndex((at) => at > last);
  if (first < 0) return past;
  const after = { at: [...past.at, ...now.at.slice(first)].slice(-MOST) } as History;
  for (const name of SIGNALS) after[name] = [...past[name], ...now[name].slice(first)].slice(-MOST);
  return after;
}
