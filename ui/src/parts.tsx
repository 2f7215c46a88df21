// Small parts that several pages use.

import type { ComponentChildren } from "preact";
import { useRef, useState } from "preact/hooks";
import { health, percent } from "./format";
import type { Security, Signals } from "./model";

const SECURITY: Record<Security, string> = {
  mutual_tls: "mutual TLS",
  none: "in the clear",
  mixed: "mutual TLS and in the clear",
  unknown: "not known",
};

export function Lock({ mtls, text = true }: { mtls: Security; text?: boolean }) {
  const label = SECURITY[mtls];
  if (mtls === "unknown") return <span class="muted">{label}</span>;
  return (
    <span class={`lock ${mtls}`} title={label}>
      <svg viewBox="0 0 14 14" aria-hidden="true">
        <rect x="2.500" y="6.200" width="9" height="6.500" rx="1.400" fill="currentColor" />
        <path
          d={mtls === "mutual_tls" ? "M4.600 6.500V4.600a2.400 2.400 0 0 1 4.800 0v1.900" : "M8.600 6.500V4.200a2.200 2.200 0 0 1 4.400 0v.8"}
          fill="none"
          stroke="currentColor"
          stroke-width="1.500"
        />
      </svg>
      {text ? label : <span class="hidden">{label}</span>}
    </span>
  );
}

export function Success({ of }: { of: Signals }) {
  const state = health(of);
  if (state === "idle") return <span class="muted">{of.success === null ? "–" : percent(of.success)}</span>;
  return (
    <span class={`health ${state}`}>
      <i aria-hidden="true" />
      {percent(of.success)}
    </span>
  );
}

export function Badge({ tone, children }: { tone: "good" | "degraded" | "failing" | "plain"; children: ComponentChildren }) {
  return <span class={`badge ${tone}`}>{children}</span>;
}

export function Empty({ children }: { children: ComponentChildren }) {
  return <p class="empty">{children}</p>;
}

export interface Column<Row> {
  title: string;
  /** What it is sorted by; columns without are not sorted by. */
  by?: (row: Row) => string | number | null;
  numeric?: boolean;
  cell: (row: Row) => ComponentChildren;
}

interface TableProps<Row> {
  label: string;
  rows: Row[];
  columns: Column<Row>[];
  id: (row: Row) => string;
  /** Enter, or a click. */
  open?: (row: Row) => void;
  /** The row that the person is at. */
  at?: (row: Row | null) => void;
  chosen?: string | null;
  empty: ComponentChildren;
}

/** A browser draws so many again each second without effort. */
const MOST_ROWS = 100;

/** A table in which arrow keys go from row to row, as in a grid of one column: one stop of the Tab key. */
export function Table<Row>({ label, rows, columns, id, open, at, chosen, empty }: TableProps<Row>) {
  const [sort, setSort] = useState<{ column: number; down: boolean } | null>(null);
  const [all, setAll] = useState(false);
  const [active, setActive] = useState<string | null>(null);
  const body = useRef<HTMLTableSectionElement>(null);
  const by = sort && columns[sort.column]?.by;
  const shown = by ? [...rows].sort((a, b) => compare(by(a), by(b)) * (sort.down ? -1 : 1)) : rows;
  const listed = all ? shown : shown.slice(0, MOST_ROWS);
  const stop = listed.some((row) => id(row) === active) ? active : listed[0] && id(listed[0]);

  function key(event: KeyboardEvent, row: Row, index: number) {
    const last = listed.length - 1;
    const steps: Record<string, number> = { ArrowDown: index + 1, ArrowUp: index - 1, Home: 0, End: last, PageDown: index + 10, PageUp: index - 10 };
    if (event.key === "Enter" && open && event.target === event.currentTarget) open(row);
    const step = steps[event.key];
    if (step === undefined) return;
    event.preventDefault();
    (body.current?.rows[Math.max(0, Math.min(last, step))] as HTMLElement | undefined)?.focus();
  }

  if (rows.length === 0) return <Empty>{empty}</Empty>;
  return (
    <>
    <table aria-label={label}>
      <thead>
        <tr>
          {columns.map((column, number) => {
            const order = sort?.column === number ? (sort.down ? "descending" : "ascending") : "none";
            return (
              <th scope="col" class={column.numeric ? "numeric" : ""} aria-sort={column.by ? order : undefined}>
                {column.by ? (
                  <button
                    type="button"
                    onClick={() => setSort({ column: number, down: sort?.column === number ? !sort.down : !!column.numeric })}
                  >
                    {column.title}
                    <i aria-hidden="true" class={order}>{order === "descending" ? "↓" : "↑"}</i>
                  </button>
                ) : (
                  column.title
                )}
              </th>
            );
          })}
        </tr>
      </thead>
      <tbody ref={body}>
        {listed.map((row, index) => (
          <tr
            key={id(row)}
            tabIndex={id(row) === stop ? 0 : -1}
            class={`${open ? "opens" : ""} ${chosen === id(row) ? "chosen" : ""}`}
            onKeyDown={(event) => key(event, row, index)}
            onFocus={() => {
              setActive(id(row));
              at?.(row);
            }}
            onBlur={() => at?.(null)}
            onClick={(event) => !(event.target as Element).closest("a, button") && open?.(row)}
          >
            {columns.map((column, number) => {
              const content = column.cell(row);
              const kind = column.numeric ? "numeric" : "";
              return number === 0 ? <th scope="row" class={kind}>{content}</th> : <td class={kind}>{content}</td>;
            })}
          </tr>
        ))}
      </tbody>
    </table>
    {listed.length < shown.length && (
      <p class="more">
        {listed.length} of {shown.length} shown. <button type="button" class="link" onClick={() => setAll(true)}>Show all</button>
      </p>
    )}
    </>
  );
}

function compare(a: string | number | null, b: string | number | null): number {
  if (a === null || b === null) return a === b ? 0 : a === null ? -1 : 1;
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
}

export function Search({ value, set, label }: { value: string; set: (value: string) => void; label: string }) {
  return (
    <input
      type="search"
      value={value}
      placeholder={label}
      aria-label={label}
      onInput={(event) => set((event.target as HTMLInputElement).value)}
    />
  );
}
