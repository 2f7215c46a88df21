// The shape of an edge: from the right side of its source to the left side of its target, level at both ends.
//
// Cytoscape draws two quadratic curves through control points that it wants relative to the straight line; labels need
// points on the same curve. Both come from here.

export interface Point {
  x: number;
  y: number;
}

export interface Curve {
  start: Point;
  end: Point;
  /** Absolute. */
  controls: [Point, Point];
}

/** Edges that run back, or stay in their column, swing out to the right of one and come in from the left of the other. */
const SWING = 60;

export function curve(start: Point, end: Point): Curve {
  const half = (end.x - start.x) / 2;
  const reach = half > 20 ? half : SWING;
  return { start, end, controls: [{ x: start.x + reach, y: start.y }, { x: end.x - reach, y: end.y }] };
}

/** Cytoscape's weights along the line between the ends, and distances from it. */
export function relative({ start, end, controls }: Curve): { weights: number[]; distances: number[] } {
  const dx = end.x - start.x;
  const dy = end.y - start.y;
  const length = Math.max(Math.hypot(dx, dy), 1);
  const weights = controls.map((c) => ((c.x - start.x) * dx + (c.y - start.y) * dy) / (length * length));
  const distances = controls.map((c) => ((c.y - start.y) * dx - (c.x - start.x) * dy) / length);
  return { weights, distances };
}

/** The point at `t`, 0 at the start and 1 at the end. */
export function at({ start, end, controls: [first, second] }: Curve, t: number): Point {
  const middle = { x: (first.x + second.x) / 2, y: (first.y + second.y) / 2 };
  return t < 0.5 ? quadratic(start, first, middle, t * 2) : quadratic(middle, second, end, t * 2 - 1);
}

function quadratic(a: Point, b: Point, c: Point, t: number): Point {
  const u = 1 - t;
  return { x: u * u * a.x + 2 * u * t * b.x + t * t * c.x, y: u * u * a.y + 2 * u * t * b.y + t * t * c.y };
}
