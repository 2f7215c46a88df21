// What Cytoscape cannot draw well, on a canvas above its own: the text in nodes, and a label with a lock on each edge.

import type { Core, EdgeSingular, NodeSingular } from "cytoscape";
import type { Edge, Node } from "../model";
import { health, milliseconds, percent, rate, type Health } from "../format";
import { type Colours, ofHealth } from "./colours";
import { curve, type Curve } from "./curve";
import { type Box, placed } from "./labels";

export const NODE = { width: 152, height: 50 };
const LABEL = { height: 20, padding: 7, lock: 12 };
/** Below this zoom nobody could read it. */
const LEGIBLE = 0.5;

interface Label {
  x: number;
  y: number;
  width: number;
  text: string;
  edge: Edge;
  health: Health;
}

export class Painter {
  #cy: Core;
  #canvas = document.createElement("canvas");
  #context: CanvasRenderingContext2D;
  #labels = new Map<string, Label>();
  /** Where each label was put; kept while neither a node moves nor a label grows, so that labels stand still. */
  #stale = true;
  #texts = "";
  colours: Colours;

  constructor(cy: Core, colours: Colours) {
    this.#cy = cy;
    this.colours = colours;
    this.#canvas.className = "graph-labels";
    cy.container()!.append(this.#canvas);
    this.#context = this.#canvas.getContext("2d")!;
    cy.on("render", () => this.#paint());
    cy.on("position", "node", () => (this.#stale = true));
  }

  /** The state, or what is in the graph, has changed. */
  refresh(): void {
    this.#cy.forceRender();
  }

  moved(): void {
    this.#stale = true;
    this.refresh();
  }

  /** How many labels found a place, for tests. */
  get labels(): { id: string; box: Box }[] {
    return [...this.#labels].map(([id, one]) => ({ id, box: { ...one, height: LABEL.height } }));
  }

  #paint(): void {
    const scale = devicePixelRatio;
    const { clientWidth: width, clientHeight: height } = this.#cy.container()!;
    if (this.#canvas.width !== width * scale || this.#canvas.height !== height * scale) {
      this.#canvas.width = width * scale;
      this.#canvas.height = height * scale;
    }
    const context = this.#context;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
    const zoom = this.#cy.zoom();
    if (zoom < LEGIBLE / 3) return;
    const pan = this.#cy.pan();
    context.setTransform(zoom * scale, 0, 0, zoom * scale, pan.x * scale, pan.y * scale);
    const seen = this.#cy.extent();
    const isSeen = (x: number, y: number) =>
      x > seen.x1 - NODE.width && x < seen.x2 + NODE.width && y > seen.y1 - NODE.height && y < seen.y2 + NODE.height;
    for (const node of this.#cy.nodes(".leaf")) {
      const { x, y } = node.position();
      if (isSeen(x, y)) this.#node(node, x, y, zoom);
    }
    if (zoom < LEGIBLE) return;
    this.#place();
    for (const label of this.#labels.values()) if (isSeen(label.x, label.y)) this.#label(label);
  }

  #node(element: NodeSingular, x: number, y: number, zoom: number): void {
    const context = this.#context;
    const node = element.scratch("node") as Node;
    const isGrouped = (element.parent() as unknown as NodeSingular).hasClass("of-service");
    context.globalAlpha = element.hasClass("faded") ? 0.25 : 1;
    const left = x - NODE.width / 2 + 14;
    const room = NODE.width - 26;
    context.textBaseline = "alphabetic";
    context.textAlign = "left";
    context.fillStyle = this.colours.text;
    const title = isGrouped && node.version ? node.version : node.service;
    context.font = `600 ${zoom < LEGIBLE ? Math.min(24, 9 / zoom) : 13}px ${this.colours.font}`;
    if (zoom < LEGIBLE) {
      context.fillText(this.#fitted(title, room), left, y + 6);
    } else {
      context.fillText(this.#fitted(title, room), left, y - 3);
      context.font = `12px ${this.colours.font}`;
      context.fillStyle = this.colours.muted;
      context.fillText(this.#fitted(this.#about(node, isGrouped), room), left, y + 14);
    }
    context.globalAlpha = 1;
  }

  #about(node: Node, isGrouped: boolean): string {
    const parts = [];
    if (node.kind === "namespace") parts.push(`${node.workloads} services`);
    else if (node.kind !== "service") parts.push(node.kind === "unknown" ? "" : node.kind);
    if (node.version && !isGrouped) parts.push(node.version);
    if (node.rate) parts.push(`${rate(node.rate)}/s`);
    else if (node.rate === 0 && node.kind !== "unknown") parts.push("idle");
    return parts.filter(Boolean).join(" · ");
  }

  #fitted(text: string, room: number): string {
    if (this.#context.measureText(text).width <= room) return text;
    let short = text;
    while (short.length > 1 && this.#context.measureText(`${short}…`).width > room) short = short.slice(0, -1);
    return `${short}…`;
  }

  /** Labels keep their place until something forces them to look for another. */
  #place(): void {
    const edges = this.#cy.edges();
    const context = this.#context;
    context.font = `500 11.500px ${this.colours.font}`;
    const wanted = [];
    const about = new Map<string, { text: string; edge: Edge; width: number; health: Health }>();
    for (const element of edges) {
      const edge = element.scratch("edge") as Edge;
      const of = health(edge);
      const text = of === "idle" ? "" : labelOf(edge, of);
      if (!text && edge.mtls !== "none" && edge.mtls !== "mixed") continue;
      const lock = edge.mtls === "unknown" ? 0 : LABEL.lock + (text ? 3 : 0);
      // Steps of 12, so that a digit more or less moves nothing.
      const width = Math.ceil((context.measureText(text).width + lock + 2 * LABEL.padding) / 12) * 12;
      about.set(edge.id, { text, edge, width, health: of });
      // Where edges fan out of one node, they are apart near their targets, and the other way round.
      const out = element.source().outgoers("edge").length;
      const into = element.target().incomers("edge").length;
      const towards = out > into ? 0.64 : into > out ? 0.36 : 0.5;
      wanted.push({ id: edge.id, curve: curveOf(element), width, height: LABEL.height, weight: weightOf(edge, of), towards });
    }
    const texts = [...about].map(([id, one]) => `${id}=${one.width}`).join("\n");
    if (this.#stale || texts !== this.#texts) {
      const boxes = this.#cy.nodes(".leaf").map((node) => ({ ...node.position(), ...NODE }));
      const places = placed(wanted, boxes);
      this.#labels = new Map([...places].map(([id, place]) => [id, { ...place, ...about.get(id)! }]));
      this.#stale = false;
      this.#texts = texts;
    } else {
      for (const [id, label] of this.#labels) Object.assign(label, about.get(id));
    }
  }

  #label({ x, y, width, text, edge, health: of }: Label): void {
    const context = this.#context;
    const element = this.#cy.getElementById(edge.id);
    context.globalAlpha = element.hasClass("faded") ? 0.15 : 1;
    const tint = of === "failing" || of === "degraded" ? this.colours[of] : this.colours.line;
    context.beginPath();
    context.roundRect(x - width / 2, y - LABEL.height / 2, width, LABEL.height, LABEL.height / 2);
    context.fillStyle = this.colours.raised;
    context.fill();
    context.lineWidth = 1;
    context.strokeStyle = element.hasClass("chosen") ? this.colours.accent : tint;
    context.stroke();
    context.font = `500 11.500px ${this.colours.font}`;
    const lock = edge.mtls === "unknown" ? 0 : LABEL.lock + (text ? 3 : 0);
    const content = context.measureText(text).width + lock;
    const left = x - content / 2;
    if (lock) this.#lock(left, y, edge.mtls === "mutual_tls");
    context.textAlign = "left";
    context.textBaseline = "middle";
    context.fillStyle = of === "failing" || of === "degraded" ? this.colours[of] : this.colours.text;
    context.fillText(text, left + lock, y + 0.5);
    context.globalAlpha = 1;
  }

  /** A padlock; open where requests come in the clear. */
  #lock(x: number, y: number, closed: boolean): void {
    const context = this.#context;
    context.fillStyle = context.strokeStyle = closed ? this.colours.good : this.colours.degraded;
    context.lineWidth = 1.4;
    context.beginPath();
    context.roundRect(x + 1.5, y - 0.5, 8, 6, 1.2);
    context.fill();
    // The shackle: both legs in the body, or swung out to the right.
    const left = closed ? x + 3.2 : x + 7;
    context.beginPath();
    context.moveTo(left, y - 0.5);
    context.lineTo(left, y - 2.2);
    context.arc(left + 2.3, y - 2.2, 2.3, Math.PI, 0);
    if (closed) context.lineTo(left + 4.6, y - 0.5);
    context.stroke();
  }
}

/** Most of what is wrong, and then of what is much. */
function weightOf(edge: Edge, of: Health): number {
  return { failing: 3e9, degraded: 2e9, good: 0, idle: -1 }[of] + (edge.rate ?? 0);
}

function labelOf(edge: Edge, of: Health): string {
  const parts = [`${rate(edge.rate)}/s`];
  if (of !== "good") parts.push(percent(edge.success));
  if (edge.p99 !== null) parts.push(milliseconds(edge.p99));
  return parts.join(" · ");
}

export function curveOf(edge: EdgeSingular): Curve {
  const from = edge.source().position();
  const to = edge.target().position();
  return curve({ x: from.x + NODE.width / 2, y: from.y }, { x: to.x - NODE.width / 2, y: to.y });
}

export function tone(colours: Colours, signals: { rate: number | null; success: number | null }): string {
  return ofHealth(colours, health(signals));
}
