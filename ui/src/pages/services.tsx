// All services of the namespaces that are shown, with their golden signals.

import { useState } from "preact/hooks";
import { milliseconds, rate } from "../format";
import { useLive } from "../live";
import type { Service } from "../model";
import { type Column, Search, Success, Table } from "../parts";
import { toService } from "../routes";

export function ServicesPage() {
  const { state } = useLive();
  const [filter, setFilter] = useState("");
  const services = [...state.services.values()]
    .filter((one) => one.kind !== "unknown" && one.id.includes(filter.trim().toLowerCase()))
    .sort((a, b) => a.id.localeCompare(b.id));
  const columns: Column<Service>[] = [
    { title: "Service", by: (one) => one.service, cell: (one) => <a tabIndex={-1} href={toService(one.id)}>{one.service}</a> },
    { title: "Namespace", by: (one) => one.namespace, cell: (one) => one.namespace || "–" },
    { title: "Versions", cell: (one) => <span class="muted">{one.kind === "service" ? one.versions.join(", ") || "–" : one.kind}</span> },
    { title: "Requests/s", numeric: true, by: (one) => one.rate, cell: (one) => rate(one.rate) },
    { title: "Success", numeric: true, by: (one) => one.success, cell: (one) => <Success of={one} /> },
    { title: "p50", numeric: true, by: (one) => one.p50, cell: (one) => milliseconds(one.p50) },
    { title: "p99", numeric: true, by: (one) => one.p99, cell: (one) => milliseconds(one.p99) },
    { title: "In flight", numeric: true, by: (one) => one.inFlight, cell: (one) => one.inFlight },
    { title: "Proxies", numeric: true, by: (one) => one.proxies, cell: (one) => (one.workloads ? `${one.proxies} of ${one.workloads}` : "–") },
  ];
  return (
    <section class="page">
      <header>
        <h1>Services</h1>
        <Search value={filter} set={setFilter} label="Filter by name" />
      </header>
      <Table
        label="Services"
        rows={services}
        columns={columns}
        id={(one) => one.id}
        open={(one) => (location.hash = toService(one.id))}
        empty={filter ? "No service has such a name." : "No services are known yet."}
      />
    </section>
  );
}
