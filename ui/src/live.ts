// The live state: one stream of server-sent events, for all pages. A gap or another namespace begins it anew.

import { useEffect, useState } from "preact/hooks";
import * as model from "./model";

export interface Live {
  state: model.State;
  /** Which namespace it is of; all if empty. */
  namespace: string;
  /** Unix time of the picture. */
  at: number;
  sequence: number;
  connected: boolean;
}

/** Up to so many services are shown at once to somebody who has not chosen. */
const READABLE = 40;

let live: Live = { state: model.empty(), namespace: "", at: 0, sequence: 0, connected: false };
let source: EventSource | undefined;
const listeners = new Set<() => void>();

export function current(): Live {
  return live;
}

/** The live state, in a component that is drawn again with each change. */
export function useLive(): Live {
  const [, redraw] = useState(0);
  useEffect(() => listen(() => redraw((count) => count + 1)), []);
  return live;
}

export function listen(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

const KEPT = "pymesh.namespace";

/** Begin, with the namespace that the person saw last, or one that can be read. */
export async function start(): Promise<void> {
  follow(sessionStorage.getItem(KEPT) ?? (await readable()));
}

/** Show another namespace, and come back to it when the page is loaded again. */
export function choose(namespace: string): void {
  sessionStorage.setItem(KEPT, namespace);
  follow(namespace);
}

function follow(namespace: string): void {
  source?.close();
  update({ state: model.empty(), namespace, sequence: 0, connected: false });
  const stream = new EventSource(`/api/v1/stream?namespace=${encodeURIComponent(namespace)}`);
  source = stream;
  stream.addEventListener("snapshot", (event) => {
    const snapshot = JSON.parse(event.data) as model.Snapshot;
    update({ state: model.whole(snapshot), sequence: snapshot.sequence, at: snapshot.at, connected: true });
  });
  stream.addEventListener("delta", (event) => {
    const delta = JSON.parse(event.data) as model.Delta;
    if (delta.from !== live.sequence) return follow(namespace);
    update({ state: model.changed(live.state, delta), sequence: delta.sequence, at: delta.at, connected: true });
  });
  stream.addEventListener("error", () => {
    update({ connected: false });
    // The browser comes back by itself after a broken connection, but not after an answer that is an error.
    if (stream.readyState === EventSource.CLOSED) setTimeout(() => source === stream && follow(namespace), 2000);
  });
}

async function readable(): Promise<string> {
  try {
    // No namespace has this name: the answer is the list of them.
    const answer = await fetch("/api/v1/graph?namespace=%20");
    const { namespaces } = (await answer.json()) as { namespaces: model.Namespace[] };
    if (namespaces.reduce((sum, one) => sum + one.services, 0) <= READABLE) return "";
    const busiest = [...namespaces].sort((a, b) => (b.rate ?? 0) - (a.rate ?? 0) || b.services - a.services);
    return busiest[0]?.id ?? "";
  } catch {
    return "";
  }
}

function update(change: Partial<Live>): void {
  live = { ...live, ...change };
  for (const listener of listeners) listener();
}
