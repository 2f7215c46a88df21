// A golden signal over the last minutes: its newest value, large, and uPlot's line.

import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import { onChange } from "./theme";

export type Column = (number | null)[];

interface Props {
  title: string;
  now: string;
  about: string;
  at: number[];
  series: { label: string; values: Column; colour: string; fill?: boolean }[];
  shown: (value: number | null) => string;
  /** The scale goes up to this at least. */
  least: number;
}

/** What is shown at most, and at least. */
const SECONDS = { most: 300, least: 60 };

export function Chart({ title, now, about, at, series, shown, least }: Props) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const [theme, setTheme] = useState(0);
  useEffect(() => onChange(() => setTheme((count) => count + 1)), []);

  useEffect(() => {
    const box = place.current!;
    const style = getComputedStyle(document.documentElement);
    const colour = (name: string) => style.getPropertyValue(`--${name}`).trim();
    const axis = { stroke: colour("muted"), font: `11px ${getComputedStyle(document.body).fontFamily}` };
    const faint = { stroke: colour("line"), width: 1 };
    const made = new uPlot(
      {
        width: box.clientWidth || 300,
        height: 150,
        legend: { show: false },
        cursor: { y: false, points: { size: 6 } },
        scales: { x: { time: true }, y: { range: (_, __, max) => [0, Math.max(max * 1.15, least)] } },
        axes: [
          { ...axis, grid: { show: false }, ticks: { show: false }, size: 24, space: 70, values: (_, at) => at.map(clock) },
          { ...axis, grid: faint, ticks: { show: false }, size: 58, space: 36, values: (_, ticks) => ticks.map(shown) },
        ],
        series: [
          {},
          ...series.map((one) => ({
            label: one.label,
            stroke: colour(one.colour),
            width: 1.8,
            points: { show: false },
            ...(one.fill ? { fill: `${colour(one.colour)}22` } : {}),
          })),
        ],
      },
      [[], ...series.map(() => [])],
      box,
    );
    plot.current = made;
    const observer = new ResizeObserver(() => made.setSize({ width: box.clientWidth, height: 150 }));
    observer.observe(box);
    return () => {
      observer.disconnect();
      made.destroy();
    };
  }, [theme]);

  useEffect(() => {
    const last = at.at(-1) ?? Date.now() / 1000;
    plot.current?.batch(() => {
      plot.current?.setData([at, ...series.map((one) => one.values)], false);
      const seconds = Math.min(SECONDS.most, Math.max(SECONDS.least, last - (at[0] ?? last)));
      plot.current?.setScale("x", { min: last - seconds, max: last });
    });
  }, [at, theme]);

  return (
    <figure class="chart">
      <figcaption>
        <span>{title}</span>
        <strong>{now}</strong>
        <small>{about}</small>
      </figcaption>
      <div ref={place} aria-hidden="true" />
      {series.length > 1 && (
        <ul class="keys">{series.map((one) => <li class={`key-${one.colour}`}><i />{one.label}</li>)}</ul>
      )}
    </figure>
  );
}

function clock(seconds: number): string {
  return new Date(seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
}
