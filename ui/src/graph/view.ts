// The graph on the page: Cytoscape holds nodes and edges, this keeps them in step with the state.
//
// The layout runs when the graph is first shown, when another part of the mesh is, and when it is asked for; never on a
// tick and never on a click. What joins while somebody looks is put beside its neighbours, and nothing else moves.

import cytoscape, { type Core, type NodeSingular } from "cytoscape";
import dagre from "cytoscape-dagre";
import type { Node } from "../model";
import { health } from "../format";
import { type Colours, colours, ofHealth } from "./colours";
import { relative } from "./curve";
import type { Drawing } from "./gather";
import { curveOf, NODE, Painter } from "./paint";

cytoscape.use(dagre);

/** Nothing begins smaller than this. */
const COMFORTABLE = 0.75;

export interface Chosen {
  kind: "node" | "edge";
  id: string;
}

export class GraphView {
  #cy: Core;
  #painter: Painter;
  #colours: Colours = colours();
  #touched = false;
  #arranging = false;
  #state: Drawing | undefined;
  /** How often the layout ran, for tests. */
  layouts = 0;

  constructor(container: HTMLElement, chosen: (what: Chosen | null) => void, opened: (node: Node) => void) {
    this.#cy = cytoscape({
      container,
      style: this.#style(),
      minZoom: 0.08,
      maxZoom: 2,
      boxSelectionEnabled: false,
      autoungrabify: false,
      hideEdgesOnViewport: false,
    });
    this.#painter = new Painter(this.#cy, this.#colours);
    this.#cy.on("tap", (event) => {
      if (event.target === this.#cy) chosen(null);
      else if (event.target.isEdge()) chosen({ kind: "edge", id: event.target.id() });
      else if (event.target.hasClass("leaf")) chosen({ kind: "node", id: event.target.id() });
    });
    this.#cy.on("dbltap", "node.leaf", (event) => opened(event.target.scratch("node") as Node));
    this.#cy.on("position", "node.leaf", (event) => {
      if (!this.#arranging) this.#bend((event.target as NodeSingular).connectedEdges());
    });
    this.#cy.on("dragpan pinchzoom scrollzoom grab", () => (this.#touched = true));
    const observer = new ResizeObserver(() => {
      this.#cy.resize();
      if (!this.#touched && this.#cy.zoom() > COMFORTABLE) this.fit();
    });
    observer.observe(container);
    this.#cy.on("destroy", () => observer.disconnect());
  }

  destroy(): void {
    this.#cy.destroy();
  }

  /** Take over the colours of the page. */
  recolour(): void {
    this.#colours = this.#painter.colours = colours();
    this.#cy.style(this.#style());
    if (this.#state) this.#paint(this.#state);
    this.#painter.moved();
  }

  /** Show this state; `fresh` if it is another part of the mesh than the last one. */
  show(state: Drawing, fresh: boolean): void {
    if (fresh) {
      this.#cy.elements().remove();
      this.#touched = false;
    }
    this.#state = state;
    const before = this.#cy.nodes(".leaf").length;
    const added: NodeSingular[] = [];
    let joined = false;
    this.#cy.batch(() => {
      for (const edge of this.#cy.edges().toArray()) if (!state.edges.has(edge.id())) edge.remove();
      for (const node of this.#cy.nodes(".leaf").toArray()) if (!state.nodes.has(node.id())) node.remove();
      const several = shared(state);
      for (const node of state.nodes.values()) {
        const parent = this.#parent(node, several);
        const known = this.#cy.getElementById(node.id) as NodeSingular;
        if (known.empty()) added.push(this.#add(node, parent));
        else if ((known.data("parent") ?? null) !== parent) known.move({ parent });
      }
      const used = new Set<string>();
      for (const node of this.#cy.nodes(".leaf")) for (const group of node.ancestors()) used.add(group.id());
      for (const group of this.#cy.nodes(".group").toArray()) if (!used.has(group.id())) group.remove();
      for (const edge of state.edges.values()) {
        if (this.#cy.getElementById(edge.id).nonempty()) continue;
        joined = true;
        this.#cy.add({ group: "edges", data: { id: edge.id, source: edge.source, target: edge.target } });
      }
    });
    this.#paint(state);
    if (before === 0 || (added.length > 0 && !this.#touched)) this.layOut();
    else if (added.length > 0) this.#settle(added);
    if (joined) this.#bend(this.#cy.edges());
    this.#painter.refresh();
  }

  /** Bring everything into order. */
  layOut(): void {
    if (this.#cy.nodes().empty()) return;
    this.layouts++;
    this.#touched = false;
    const options = { name: "dagre", rankDir: "LR", nodeSep: 24, edgeSep: 24, rankSep: 160, animate: false, fit: false };
    this.#arranging = true;
    this.#cy.layout(options as cytoscape.LayoutOptions).run();
    this.#arranging = false;
    this.#cy.batch(() => this.#bend(this.#cy.edges()));
    this.#painter.moved();
    this.fit();
    if (this.#cy.zoom() >= COMFORTABLE) return;
    // Better a part that can be read, from where requests come in, than a whole that cannot.
    this.#cy.zoom(COMFORTABLE);
    this.#cy.center();
    const { x1 } = this.#cy.elements().boundingBox();
    this.#cy.pan({ x: 28 - x1 * COMFORTABLE, y: this.#cy.pan().y });
  }

  /** All of it. */
  fit(): void {
    if (this.#cy.nodes().empty()) return;
    this.#cy.fit(undefined, 28);
    if (this.#cy.zoom() > 1.15) {
      this.#cy.zoom(1.15);
      this.#cy.center();
    }
  }

  zoom(factor: number): void {
    this.#touched = true;
    const { clientWidth, clientHeight } = this.#cy.container()!;
    const renderedPosition = { x: clientWidth / 2, y: clientHeight / 2 };
    this.#cy.zoom({ level: this.#cy.zoom() * factor, renderedPosition });
  }

  /** Let everything but this and what it touches step back. */
  choose(what: Chosen | null): void {
    this.#cy.batch(() => {
      this.#cy.elements().removeClass("faded chosen");
      if (!what) return;
      const element = this.#cy.getElementById(what.id);
      if (element.empty()) return;
      const near = what.kind === "node" ? element.closedNeighborhood() : element.union(element.connectedNodes());
      this.#cy.elements("node.leaf, edge").difference(near).addClass("faded");
      element.addClass("chosen");
    });
    this.#painter.refresh();
  }

  /** For tests: what a person would see. */
  get seen(): { nodes: { id: string; x: number; y: number }[]; labels: { id: string; box: object }[]; zoom: number } {
    const nodes = this.#cy.nodes(".leaf").map((node) => ({ id: node.id(), ...node.position() }));
    return { nodes, labels: this.#painter.labels, zoom: this.#cy.zoom() };
  }

  #add(node: Node, parent: string | null): NodeSingular {
    const data = { id: node.id, parent: parent ?? undefined };
    return this.#cy.add({ group: "nodes", data, classes: `leaf ${node.kind}` }) as unknown as NodeSingular;
  }

  /** The box that a node is in, made if it is new: its namespace, or its service where that has versions. */
  #parent(node: Node, several: Set<string>): string | null {
    if (!node.namespace) return null;
    const namespace = this.#group(`namespace:${node.namespace}`, "namespace", node.namespace, null);
    const service = `${node.namespace}/${node.service}`;
    return several.has(service) ? this.#group(`service:${service}`, "service", node.service, namespace) : namespace;
  }

  #group(id: string, kind: string, label: string, parent: string | null): string {
    if (this.#cy.getElementById(id).empty()) {
      this.#cy.add({ group: "nodes", data: { id, label, parent: parent ?? undefined }, classes: `group of-${kind}`, selectable: false, grabbable: false });
    }
    return id;
  }

  /** Colours and widths by the newest signals. */
  #paint(state: Drawing): void {
    this.#cy.batch(() => {
      for (const node of state.nodes.values()) {
        const element = this.#cy.getElementById(node.id);
        element.scratch("node", node);
        setIfNew(element, "tone", ofHealth(this.#colours, health(node)));
      }
      for (const edge of state.edges.values()) {
        const element = this.#cy.getElementById(edge.id);
        element.scratch("edge", edge);
        const of = health(edge);
        setIfNew(element, "tone", of === "good" || of === "idle" ? this.#colours.edge : this.#colours[of]);
        // In coarse steps: few edges change at a tick.
        setIfNew(element, "width", of === "idle" ? 1.2 : Math.round(2 * (1.4 + Math.log10(1 + (edge.rate ?? 0)))) / 2);
        element.toggleClass("idle", of === "idle");
      }
    });
  }

  /** Newcomers: below those that they speak with, or below everything. */
  #settle(added: NodeSingular[]): void {
    for (const node of added) {
      const friends = node.neighborhood("node.leaf").difference(this.#cy.collection(added as never));
      const box = this.#cy.nodes(".leaf").difference(this.#cy.collection(added as never)).boundingBox();
      const x = friends.nonempty() ? friends[0]!.position().x + NODE.width + 170 : (box.x1 + box.x2) / 2;
      let y = friends.nonempty() ? friends[0]!.position().y : box.y2 + NODE.height;
      const others = this.#cy.nodes(".leaf").toArray().filter((one) => one.id() !== node.id()).map((one) => one.position());
      const isFree = () => others.every((one) => Math.abs(one.x - x) > NODE.width || Math.abs(one.y - y) > NODE.height + 10);
      while (!isFree()) y += NODE.height + 20;
      node.position({ x, y });
    }
    this.#painter.moved();
  }

  #bend(edges: cytoscape.EdgeCollection): void {
    for (const edge of edges) {
      const { weights, distances } = relative(curveOf(edge));
      setIfNew(edge, "weights", weights.map((one) => one.toFixed(3)).join(" "));
      setIfNew(edge, "distances", distances.map((one) => one.toFixed(1)).join(" "));
    }
  }

  #style(): cytoscape.StylesheetJson {
    const c = this.#colours;
    const font = { "font-family": c.font, color: c.muted };
    return [
      {
        selector: "node.leaf",
        style: {
          ...{ shape: "round-rectangle", "corner-radius": 9, width: NODE.width, height: NODE.height },
          ...{ "background-color": c.raised, "border-width": 1.5, "border-color": "data(tone)" },
          ...{ "overlay-opacity": 0, "outline-width": 0 },
        },
      },
      { selector: "node.external, node.unknown", style: { "border-style": "dashed", "background-color": c.surface } },
      { selector: "node.gateway", style: { shape: "cut-rectangle" } },
      { selector: "node.leaf.namespace", style: { "border-style": "double", "border-width": 4 } },
      {
        selector: "node.group",
        style: {
          ...font,
          ...{ label: "data(label)", "text-valign": "top", "text-halign": "center", "text-margin-y": -6 },
          ...{ shape: "round-rectangle", "corner-radius": 12, "border-width": 1, "border-color": c.line },
          ...{ "background-color": c.surface, "background-opacity": 0.6, "font-size": 13, "font-weight": 600 },
          ...{ padding: "22px", "overlay-opacity": 0, events: "no" },
        },
      },
      {
        selector: "node.of-service",
        style: { "background-color": c.line, "background-opacity": 0.16, padding: "14px", color: c.text, "border-width": 0 },
      },
      {
        selector: "edge",
        style: {
          ...{ "curve-style": "unbundled-bezier", "edge-distances": "endpoints" },
          ...{ "control-point-weights": "data(weights)", "control-point-distances": "data(distances)" },
          ...{ "source-endpoint": "50% 0%", "target-endpoint": "-50% 0%", width: "data(width)" },
          ...{ "line-color": "data(tone)", "target-arrow-color": "data(tone)", "target-arrow-shape": "triangle" },
          ...{ "arrow-scale": 0.9, "overlay-opacity": 0 },
        },
      },
      { selector: "edge.idle", style: { "line-style": "dashed", "line-dash-pattern": [4, 4], opacity: 0.7 } },
      { selector: ".faded", style: { opacity: 0.18 } },
      { selector: "node.chosen", style: { "border-width": 2.5, "border-color": c.accent } },
      { selector: "edge.chosen", style: { "line-color": c.accent, "target-arrow-color": c.accent } },
    ] as unknown as cytoscape.StylesheetJson;
  }
}

/** Services with more than one version: they get a box. */
function shared(state: Drawing): Set<string> {
  const seen = new Set<string>();
  const several = new Set<string>();
  for (const node of state.nodes.values()) {
    const service = `${node.namespace}/${node.service}`;
    if (seen.has(service)) several.add(service);
    seen.add(service);
  }
  return several;
}

/** Cytoscape works for each value that is set, also for the same one. */
function setIfNew(element: cytoscape.SingularElementArgument, key: string, value: unknown): void {
  if (element.data(key) !== value) element.data(key, value);
}
