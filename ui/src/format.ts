// Numbers as people read them.

export const DASH = "–";

export function rate(value: number | null): string {
  if (value === null) return DASH;
  if (value === 0) return "0";
  if (value >= 10_000) return `${(value / 1000).toFixed(0)}k`;
  if (value >= 1000) return `${(value / 1000).toFixed(1)}k`;
  return value >= 100 ? value.toFixed(0) : value >= 0.1 ? value.toFixed(1) : "<0.1";
}

export function milliseconds(value: number | null): string {
  if (value === null) return DASH;
  if (value >= 10_000) return `${(value / 1000).toFixed(0)} s`;
  if (value >= 1000) return `${(value / 1000).toFixed(1)} s`;
  return value >= 10 ? `${value.toFixed(0)} ms` : `${value.toFixed(1)} ms`;
}

/** Never 100 % for less than all. */
export function percent(share: number | null): string {
  if (share === null) return DASH;
  if (share === 1) return "100%";
  return `${Math.min(Math.floor(share * 1000) / 10, 99.9).toFixed(1)}%`;
}

export type Health = "good" | "degraded" | "failing" | "idle";

/** From one failure in a thousand, and from one in ten: the thresholds that Kiali has made usual. */
export function health(signals: { rate: number | null; success: number | null }): Health {
  if (!signals.rate || signals.success === null) return "idle";
  if (signals.success < 0.9) return "failing";
  return signals.success < 0.999 ? "degraded" : "good";
}

export function ago(iso: string | null, now = Date.now()): string {
  if (iso === null) return DASH;
  const seconds = Math.max(0, Math.round((now - Date.parse(iso)) / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86_400)} d`;
}

/** What a person calls a service: its name, and its namespace where that is another one. */
export function shortName(id: string, namespace: string): string {
  const [of, ...rest] = id.split("/");
  return of === namespace || of === "" ? rest.join(" ") : `${rest.join(" ")} (${of})`;
}
