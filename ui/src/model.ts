// What the API tells, and how a delta changes it. The counterpart of control/live/deltas.py.

export interface Signals {
  /** Requests a second. */
  rate: number | null;
  /** Share of requests that did not fail, 0 to 1. */
  success: number | null;
  /** Milliseconds. */
  p50: number | null;
  p99: number | null;
}

/** `namespace` stands for all that is in one; only drawings have it. */
export type Kind = "service" | "gateway" | "external" | "unknown" | "namespace";
export type Security = "mutual_tls" | "none" | "mixed" | "unknown";

export interface Node extends Signals {
  id: string;
  namespace: string;
  service: string;
  version: string;
  kind: Kind;
  workloads: number;
  proxies: number;
  inFlight: number;
}

export interface Edge extends Signals {
  id: string;
  source: string;
  target: string;
  mtls: Security;
}

export interface Service extends Signals {
  id: string;
  namespace: string;
  service: string;
  kind: Kind;
  versions: string[];
  workloads: number;
  proxies: number;
  errors: number | null;
  inFlight: number;
  answers: Record<string, number>;
}

export interface Namespace extends Signals {
  id: string;
  services: number;
}

export interface Totals {
  id: string;
  proxies: number;
  /** Proxies whose metrics could not be read. */
  silent: number;
  synced: number;
  rejected: number;
  errors: number;
  warnings: number;
  seconds: number;
  window: number;
}

export interface State {
  nodes: Map<string, Node>;
  edges: Map<string, Edge>;
  services: Map<string, Service>;
  namespaces: Map<string, Namespace>;
  mesh: Map<string, Totals>;
}

type Lists = { [kind in keyof State]?: { id: string }[] };
export type Snapshot = Lists & { sequence: number; at: number };
export interface Delta {
  from: number;
  sequence: number;
  at: number;
  set?: Lists;
  gone?: { [kind in keyof State]?: string[] };
}

const KINDS = ["nodes", "edges", "services", "namespaces", "mesh"] as const;

export function empty(): State {
  return { nodes: new Map(), edges: new Map(), services: new Map(), namespaces: new Map(), mesh: new Map() };
}

export function whole(snapshot: Snapshot): State {
  return applied(empty(), snapshot, {});
}

export function changed(state: State, delta: Delta): State {
  return applied(state, delta.set ?? {}, delta.gone ?? {});
}

/** A new state; maps that nothing changed stay the same objects. */
function applied(state: State, set: Lists, gone: NonNullable<Delta["gone"]>): State {
  const next = { ...state } as Record<string, Map<string, unknown>>;
  for (const kind of KINDS) {
    if (!set[kind]?.length && !gone[kind]?.length) continue;
    const items = new Map<string, unknown>(state[kind]);
    for (const item of set[kind] ?? []) items.set(item.id, item);
    for (const id of gone[kind] ?? []) items.delete(id);
    next[kind] = items;
  }
  return next as unknown as State;
}
