// Where the person is: the part of the address after '#'. Pages are links, so that back, forward and bookmarks work.

import { useEffect, useState } from "preact/hooks";

export type Route =
  | { page: "graph" }
  | { page: "services" }
  | { page: "service"; id: string }
  | { page: "configuration" }
  | { page: "proxies" };

export function parse(hash: string): Route {
  const [page = "", ...rest] = hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  if (page === "services" && rest.length === 2) return { page: "service", id: rest[0] === "-" ? `/${rest[1]}` : rest.join("/") };
  if (page === "services" || page === "configuration" || page === "proxies") return { page };
  return { page: "graph" };
}

export function toService(id: string): string {
  const [namespace, ...name] = id.split("/");
  return `#/services/${encodeURIComponent(namespace || "-")}/${encodeURIComponent(name.join("/"))}`;
}

export function useRoute(): Route {
  const [hash, setHash] = useState(location.hash);
  useEffect(() => {
    const moved = () => setHash(location.hash);
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  return parse(hash);
}
