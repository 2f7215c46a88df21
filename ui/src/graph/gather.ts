// What of the state is drawn: a large mesh namespace by namespace, and around one namespace the others as one node each.
// Pure. The table beside the drawing leaves nothing out.

import type { Edge, Namespace, Node, Security, State } from "../model";

/** So many workloads can be read in one picture. */
const READABLE = 60;

export interface Drawing {
  nodes: Map<string, Node>;
  edges: Map<string, Edge>;
}

export function gathered(state: State, namespace: string): Drawing {
  if (!namespace && state.nodes.size <= READABLE) return state;
  const isWhole = (node: Node) => !node.namespace || node.namespace === namespace;
  const nodes = new Map<string, Node>();
  const shownAs = new Map<string, string>();
  for (const node of state.nodes.values()) {
    const shown = isWhole(node) ? node : nodes.get(`${node.namespace}/`) ?? ofNamespace(node.namespace, state.namespaces.get(node.namespace));
    nodes.set(shown.id, shown);
    shownAs.set(node.id, shown.id);
  }
  const edges = new Map<string, Edge>();
  for (const edge of state.edges.values()) {
    const source = shownAs.get(edge.source);
    const target = shownAs.get(edge.target);
    if (!source || !target || source === target) continue;
    const id = `${source}>${target}`;
    const known = edges.get(id);
    edges.set(id, known ? together(known, edge) : { ...edge, id, source, target });
  }
  return { nodes, edges };
}

function ofNamespace(name: string, sums: Namespace | undefined): Node {
  const { rate = null, success = null, p50 = null, p99 = null, services = 0 } = sums ?? {};
  return { id: `${name}/`, namespace: "", service: name, version: "", kind: "namespace", workloads: services, proxies: 0, inFlight: 0, rate, success, p50, p99 };
}

/** The sum of two edges. Percentiles cannot be added: the slower one is shown. */
function together(a: Edge, b: Edge): Edge {
  const rate = a.rate === null && b.rate === null ? null : (a.rate ?? 0) + (b.rate ?? 0);
  const failing = (edge: Edge) => (edge.rate ?? 0) * (1 - (edge.success ?? 1));
  const success = rate ? 1 - (failing(a) + failing(b)) / rate : (a.success ?? b.success);
  const slower = (x: number | null, y: number | null) => (x === null ? y : y === null ? x : Math.max(x, y));
  return { ...a, rate, success, p50: slower(a.p50, b.p50), p99: slower(a.p99, b.p99), mtls: both(a.mtls, b.mtls) };
}

function both(a: Security, b: Security): Security {
  if (a === b || b === "unknown") return a;
  return a === "unknown" ? b : "mixed";
}
