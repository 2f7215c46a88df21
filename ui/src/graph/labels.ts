// Where the labels of edges go: on their edge, over no node and over no other label. Pure.

import { at, type Curve, type Point } from "./curve";

export interface Box {
  /** Centre. */
  x: number;
  y: number;
  width: number;
  height: number;
}

export interface Wanted {
  id: string;
  curve: Curve;
  width: number;
  height: number;
  /** Those that say most find their place first. */
  weight: number;
  /** Where on the edge it should be, 0 to 1. */
  towards: number;
}

/** Steps along the edge from where a label should be, tried in this order. */
const STEPS = [0, 0.08, -0.08, 0.16, -0.16, 0.24, -0.24, 0.32, -0.32, 0.4, -0.4];
/** Nearer to an end, it would not be told which edge it is of. */
const [FIRST, LAST] = [0.14, 0.86];
const GAP = 3;
const CELL = 200;

/** The place of each label that has one; those left out would hide something. */
export function placed(wanted: Wanted[], nodes: Box[]): Map<string, Point> {
  const taken = new Grid();
  for (const node of nodes) taken.add(node);
  const found = new Map<string, Point>();
  for (const label of [...wanted].sort((a, b) => b.weight - a.weight || (a.id < b.id ? -1 : 1))) {
    for (const step of STEPS) {
      const t = label.towards + step;
      if (t < FIRST || t > LAST) continue;
      const box = { ...at(label.curve, t), width: label.width + GAP, height: label.height + GAP };
      if (taken.isTaken(box)) continue;
      taken.add(box);
      found.set(label.id, { x: box.x, y: box.y });
      break;
    }
  }
  return found;
}

/** Boxes by the cells that they touch, so that a thousand labels do not ask a thousand each. */
class Grid {
  #cells = new Map<string, Box[]>();

  add(box: Box): void {
    for (const cell of cells(box)) this.#cells.set(cell, [...(this.#cells.get(cell) ?? []), box]);
  }

  isTaken(box: Box): boolean {
    return cells(box).some((cell) => this.#cells.get(cell)?.some((other) => touch(box, other)));
  }
}

function cells({ x, y, width, height }: Box): string[] {
  const found = [];
  for (let i = Math.floor((x - width / 2) / CELL); i <= Math.floor((x + width / 2) / CELL); i++)
    for (let j = Math.floor((y - height / 2) / CELL); j <= Math.floor((y + height / 2) / CELL); j++)
      found.push(`${i}:${j}`);
  return found;
}

function touch(a: Box, b: Box): boolean {
  return Math.abs(a.x - b.x) * 2 < a.width + b.width && Math.abs(a.y - b.y) * 2 < a.height + b.height;
}
