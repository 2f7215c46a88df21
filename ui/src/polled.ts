// An answer of the API that is asked for again and again while its page is shown.

import { useEffect, useState } from "preact/hooks";

export interface Polled<Answer> {
  answer: Answer | null;
  /** Why there is no newer answer. */
  problem: string | null;
}

export function usePolled<Answer>(path: string, everyMs: number): Polled<Answer> {
  const [polled, set] = useState<Polled<Answer>>({ answer: null, problem: null });
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout>;
    let left = false;
    async function ask() {
      try {
        const response = await fetch(path);
        if (!response.ok) throw new Error(`the control plane answers ${response.status}`);
        const answer = (await response.json()) as Answer;
        if (!left) set({ answer, problem: null });
      } catch (error) {
        if (!left) set((last) => ({ ...last, problem: error instanceof Error ? error.message : String(error) }));
      }
      if (!left) timer = setTimeout(ask, everyMs);
    }
    void ask();
    return () => {
      left = true;
      clearTimeout(timer);
    };
  }, [path]);
  return polled;
}
