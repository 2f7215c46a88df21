// The colours of the drawing are those of the page: custom properties of app.css.

import type { Health } from "../format";

export interface Colours {
  text: string;
  muted: string;
  surface: string;
  raised: string;
  line: string;
  accent: string;
  edge: string;
  good: string;
  degraded: string;
  failing: string;
  font: string;
}

export function colours(): Colours {
  const style = getComputedStyle(document.documentElement);
  const value = (name: string) => style.getPropertyValue(`--${name}`).trim();
  return {
    text: value("text"),
    muted: value("muted"),
    surface: value("surface"),
    raised: value("raised"),
    line: value("line-strong"),
    accent: value("accent"),
    edge: value("edge"),
    good: value("good"),
    degraded: value("degraded"),
    failing: value("failing"),
    font: getComputedStyle(document.body).fontFamily,
  };
}

export function ofHealth(all: Colours, health: Health): string {
  return health === "idle" ? all.line : all[health];
}
