// The topology, twice: as a drawing, and as a table that says the same.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { milliseconds, percent, rate, shortName } from "../format";
import { type Drawing, gathered } from "../graph/gather";
import { GraphView, type Chosen } from "../graph/view";
import { choose, useLive } from "../live";
import type { Edge, Node } from "../model";
import { type Column, Lock, Search, Success, Table } from "../parts";
import { toService } from "../routes";
import { onChange } from "../theme";

export function GraphPage() {
  const live = useLive();
  const [filter, setFilter] = useState("");
  const [chosen, setChosen] = useState<Chosen | null>(null);
  const container = useRef<HTMLDivElement>(null);
  const view = useRef<GraphView | null>(null);
  const shownOf = useRef<string | null>(null);
  const { state, namespace } = live;
  // Where there is one namespace, nobody needs to be told which.
  const here = state.namespaces.size === 1 ? [...state.namespaces.keys()][0]! : namespace;

  const drawing = useMemo(() => gathered(state, namespace), [state.nodes, state.edges, namespace]);

  useEffect(() => {
    const made = new GraphView(container.current!, setChosen, open);
    view.current = made;
    // The browser tests ask it what can be seen, since a canvas tells nobody.
    Object.assign(window, { pymeshGraph: made });
    const stop = onChange(() => made.recolour());
    return () => {
      stop();
      made.destroy();
      view.current = null;
    };
  }, []);

  useEffect(() => {
    if (live.sequence === 0) return;
    view.current?.show(drawing, shownOf.current !== namespace);
    shownOf.current = namespace;
  }, [state.nodes, state.edges]);
  useEffect(() => view.current?.choose(chosen), [chosen, drawing]);

  const edges = [...state.edges.values()]
    .filter((edge) => `${edge.source} ${edge.target}`.includes(filter.trim().toLowerCase()))
    .sort((a, b) => a.source.localeCompare(b.source) || a.target.localeCompare(b.target));
  const columns: Column<Edge>[] = [
    { title: "From", by: (edge) => edge.source, cell: (edge) => shortName(edge.source, here) },
    { title: "To", by: (edge) => edge.target, cell: (edge) => shortName(edge.target, here) },
    { title: "Requests/s", numeric: true, by: (edge) => edge.rate, cell: (edge) => rate(edge.rate) },
    { title: "Success", numeric: true, by: (edge) => edge.success, cell: (edge) => <Success of={edge} /> },
    { title: "p50", numeric: true, by: (edge) => edge.p50, cell: (edge) => milliseconds(edge.p50) },
    { title: "p99", numeric: true, by: (edge) => edge.p99, cell: (edge) => milliseconds(edge.p99) },
    { title: "Security", by: (edge) => edge.mtls, cell: (edge) => <Lock mtls={edge.mtls} /> },
  ];

  return (
    <div class="graph-page">
      <section class="graph" aria-label="Graph of the mesh">
        <div
          class="canvas"
          ref={container}
          role="img"
          aria-label={`${state.nodes.size} workloads and ${state.edges.size} connections; the table below says the same`}
        />
        <div class="tools" role="toolbar" aria-label="View of the graph">
          <button type="button" onClick={() => view.current?.zoom(1.3)} aria-label="Zoom in">+</button>
          <button type="button" onClick={() => view.current?.zoom(1 / 1.3)} aria-label="Zoom out">−</button>
          <button type="button" onClick={() => view.current?.fit()}>Fit</button>
          <button type="button" onClick={() => view.current?.layOut()}>Arrange</button>
        </div>
        <Legend />
        {chosen && <Details chosen={chosen} drawing={drawing} edges={state.edges} close={() => setChosen(null)} />}
        {live.sequence === 0 && <p class="waiting">{live.connected ? "" : "waiting for the control plane…"}</p>}
      </section>
      <section class="twin" aria-label="Connections">
        <header>
          <h2>Connections</h2>
          <Search value={filter} set={setFilter} label="Filter by name" />
        </header>
        <div class="scroll">
          <Table
            label="Connections"
            rows={edges}
            columns={columns}
            id={(edge) => edge.id}
            chosen={chosen?.id ?? null}
            at={(edge) => setChosen(edge && { kind: "edge", id: edge.id })}
            open={(edge) => {
              const target = state.nodes.get(edge.target);
              if (target) location.hash = toService(serviceOf(target));
            }}
            empty={filter ? "No connection has such a name." : "No requests have been seen yet."}
          />
        </div>
      </section>
    </div>
  );
}

function serviceOf(node: Node): string {
  return `${node.namespace}/${node.service}`;
}

function open(node: Node): void {
  if (node.kind === "namespace") choose(node.service);
  else location.hash = toService(serviceOf(node));
}

interface DetailsProps {
  chosen: Chosen;
  drawing: Drawing;
  edges: Map<string, Edge>;
  close: () => void;
}

function Details({ chosen, drawing, edges, close }: DetailsProps) {
  const item = chosen.kind === "node" ? drawing.nodes.get(chosen.id) : (edges.get(chosen.id) ?? drawing.edges.get(chosen.id));
  if (!item) return null;
  const node = chosen.kind === "node" ? (item as Node) : null;
  const edge = chosen.kind === "edge" ? (item as Edge) : null;
  const target = node ?? drawing.nodes.get(edge!.target);
  return (
    <aside class="details" aria-label="Details">
      <button type="button" class="close" onClick={close} aria-label="Close">×</button>
      {node && <h3>{node.service} {node.version && <small>{node.version}</small>}</h3>}
      {edge && <h3>{shortName(edge.source, target?.namespace ?? "")} <small>→</small> {shortName(edge.target, target?.namespace ?? "")}</h3>}
      <dl>
        <dt>Requests</dt><dd>{rate(item.rate)}/s</dd>
        <dt>Success</dt><dd>{percent(item.success)}</dd>
        <dt>Median</dt><dd>{milliseconds(item.p50)}</dd>
        <dt>p99</dt><dd>{milliseconds(item.p99)}</dd>
        {edge && <><dt>Security</dt><dd><Lock mtls={edge.mtls} /></dd></>}
        {node && node.kind !== "namespace" && node.workloads > 0 && <><dt>Proxies</dt><dd>{node.proxies} of {node.workloads}</dd></>}
      </dl>
      {target && <button type="button" class="link" onClick={() => open(target)}>Open {target.service}</button>}
    </aside>
  );
}

function Legend() {
  return (
    <ul class="legend" aria-label="Legend">
      <li><i class="good" />≥ 99.9% success</li>
      <li><i class="degraded" />below</li>
      <li><i class="failing" />under 90%</li>
      <li><i class="dashed" />idle</li>
      <li><Lock mtls="mutual_tls" /></li>
      <li><Lock mtls="none" /></li>
    </ul>
  );
}
