// How many trials are done, run, failed, were stopped, wait: a bar and words.

import { el, write } from "./dom.js";
import { counted, duration, text } from "./i18n.js";

const STATES = ["done", "running", "failed", "stopped", "pending"];

// A bar with words; `update(counts, total, secondsLeft)`.
export function progress() {
  const parts = Object.fromEntries(STATES.map((state) => [state, el("span", { class: `part ${state}` })]));
  const bar = el("div", { class: "progress", role: "img" }, Object.values(parts));
  const words = el("p", { class: "faint" });
  return {
    node: el("div", { class: "progress-box" }, bar, words),
    update(counts, total, secondsLeft) {
      for (const state of STATES) parts[state].style.flexGrow = counts?.[state] ?? 0;
      const states = STATES.filter((state) => counts?.[state]).map((state) => text(`count.${state}`, { n: counts[state] }));
      const left = Number.isFinite(secondsLeft) && secondsLeft > 0 && text("left", { time: duration(secondsLeft) });
      const line = [counted(total, "trial"), ...states, left].filter(Boolean).join(" · ");
      write(words, line);
      bar.setAttribute("aria-label", line);
    },
  };
}

// A small label of a state; `update(state)`.
export function badge(state) {
  const node = el("span", {});
  const update = (now) => {
    node.className = `badge ${now}`;
    write(node, text(`state.${now}`));
  };
  update(state);
  return { node, update };
}

// How a trial stands: at work where one of its stage runs is.
export function stateOf(trial) {
  if (trial.status === "done") return "done";
  return trial.stages.some(({ state }) => state === "running") ? "running" : trial.status;
}

// A stage run's name as it is shown: `sft-cedd4909`.
export const runOf = ({ stage, uuid }) => `${stage}-${uuid.replaceAll("-", "").slice(0, 8)}`;
