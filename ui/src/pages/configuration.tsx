// The users' resources: which are in force, and what is wrong with the newest files, each with its place.

import { useState } from "preact/hooks";
import { ago } from "../format";
import { Badge, Empty, Search, Table } from "../parts";
import { usePolled } from "../polled";

interface Resource {
  kind: string;
  namespace: string;
  name: string;
  at: string;
}

interface Finding {
  at: string;
  severity: "error" | "warning";
  message: string;
  hint: string;
}

interface Configuration {
  inForceSince: string | null;
  refusedSince: string | null;
  resources: Resource[];
  diagnostics: Finding[];
}

export function ConfigurationPage() {
  const { answer, problem } = usePolled<Configuration>("/api/v1/configuration", 1500);
  const [filter, setFilter] = useState("");
  if (!answer) return <section class="page"><header><h1>Configuration</h1></header><Empty>{problem ?? "Loading…"}</Empty></section>;
  const errors = answer.diagnostics.filter((one) => one.severity === "error");
  const warnings = answer.diagnostics.filter((one) => one.severity === "warning");
  const words = filter.trim().toLowerCase();
  const resources = answer.resources
    .filter((one) => `${one.kind} ${one.namespace}/${one.name} ${one.at}`.toLowerCase().includes(words))
    .sort((a, b) => a.kind.localeCompare(b.kind) || a.namespace.localeCompare(b.namespace) || a.name.localeCompare(b.name));
  return (
    <section class="page configuration">
      <header><h1>Configuration</h1></header>
      <div class={`standing ${errors.length ? "failing" : "good"}`} role="status">
        {errors.length ? (
          <p><strong>The newest files are refused.</strong> What was good before stays in force, for {ago(answer.inForceSince)}; {count(errors.length, "error")} to mend.</p>
        ) : (
          <p><strong>All files are in force</strong>, for {ago(answer.inForceSince)}{warnings.length ? `; ${count(warnings.length, "warning")}.` : "."}</p>
        )}
      </div>
      {answer.diagnostics.length > 0 && (
        <section>
          <h2>What is wrong</h2>
          <ul class="findings">
            {[...errors, ...warnings].map((one) => (
              <li class={one.severity} tabIndex={0}>
                <Badge tone={one.severity === "error" ? "failing" : "degraded"}>{one.severity}</Badge>
                <div>
                  <p>{one.message}</p>
                  {one.hint && <p class="hint">{one.hint}</p>}
                  <code class="place">{one.at}</code>
                </div>
              </li>
            ))}
          </ul>
        </section>
      )}
      <section>
        <header>
          <h2>Resources in force</h2>
          <Search value={filter} set={setFilter} label="Filter by kind, name or file" />
        </header>
        <Table
          label="Resources in force"
          rows={resources}
          id={(one) => `${one.kind} ${one.namespace}/${one.name} ${one.at}`}
          empty={words ? "No resource matches." : "There are no resources."}
          columns={[
            { title: "Kind", by: (one) => one.kind, cell: (one) => one.kind },
            { title: "Namespace", by: (one) => one.namespace, cell: (one) => one.namespace },
            { title: "Name", by: (one) => one.name, cell: (one) => one.name },
            { title: "State", cell: (one) => <Standing of={one} findings={answer.diagnostics} /> },
            { title: "Place", by: (one) => one.at, cell: (one) => <code class="place">{one.at}</code> },
          ]}
        />
      </section>
    </section>
  );
}

/** A resource is one in force; its file may have become something else since. */
function Standing({ of, findings }: { of: Resource; findings: Finding[] }) {
  const near = findings.filter((one) => file(one.at) === file(of.at));
  if (near.some((one) => one.severity === "error")) return <Badge tone="failing">newer refused</Badge>;
  if (near.length) return <Badge tone="degraded">warning in file</Badge>;
  return <Badge tone="good">in force</Badge>;
}

function file(place: string): string {
  return place.replace(/(:\d+){1,2}$/, "");
}

function count(number: number, what: string): string {
  return `${number} ${what}${number === 1 ? "" : "s"}`;
}
