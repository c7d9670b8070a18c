// The page's words in English and Chinese, and numbers, times and durations as people read them.

import { WORDS } from "./words.js";
import { read, write } from "./store.js";

const PLACE = "mindscale.language";
const listeners = new Set();
let chosen = read(PLACE) ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");

// `en` or `zh`.
export const language = () => chosen;

// Chooses a language and tells everybody who shows words that are not bound to nodes.
export function setLanguage(name) {
  chosen = name;
  write(PLACE, name);
  listeners.forEach((listener) => listener());
}

// Calls `listener` after the language has changed; returns how to end that.
export function onLanguage(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

// The words of a key; `{n}` and the like stand for parameters.
export function text(key, params = {}) {
  const words = WORDS[key]?.[chosen === "zh" ? 1 : 0];
  if (words === undefined) throw new Error(`no words for ${key}`);
  return words.replace(/\{(\w+)\}/g, (whole, name) => params[name] ?? whole);
}

// A number of things: 1 trial, 2 trials. `thing`: `token` or `trial`.
export const counted = (n, thing) => text(n === 1 ? `count.${thing}` : `count.${thing}s`, { n });

// Four significant digits; integers in full.
export function number(value) {
  if (Number.isInteger(value) && Math.abs(value) < 1e9) return value.toLocaleString("en");
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) return value.toExponential(2).replace("e+", "e");
  return value.toLocaleString("en", { maximumSignificantDigits: 4 });
}

// Three digits, for what is measured roughly.
export const rough = (value) => number(Number(value.toPrecision(3)));

// A count of parameters: 26.9 M.
export function count(value) {
  const [unit, sign] = [[1e9, "B"], [1e6, "M"], [1e3, "k"]].find(([size]) => value >= size) ?? [1, ""];
  return `${(value / unit).toLocaleString("en", { maximumSignificantDigits: 3 })}${sign && ` ${sign}`}`;
}

// A share as per cent.
export function percent(share) {
  if (share > 0 && share < 0.0005) return "<0.1 %";
  return `${(100 * share).toFixed(share >= 0.0995 ? 0 : 1)} %`;
}

// A cell of a table, by the name of its column; unknown is empty.
export function cell(value, name) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number") return String(value);
  return /(^|\.)(seed|id)$/.test(name) ? String(value) : number(value);
}

// A moment of the past.
export function when(milliseconds) {
  const date = new Date(milliseconds);
  const isToday = date.toDateString() === new Date().toDateString();
  const form = isToday ? { hour: "2-digit", minute: "2-digit" } : { month: "short", day: "numeric" };
  return date.toLocaleString(chosen === "zh" ? "zh-CN" : "en", form);
}

// Seconds as `2 h 5 min`.
export function duration(seconds) {
  const whole = Math.round(seconds);
  if (whole < 60) return text("time.s", { s: whole });
  const minutes = Math.round(whole / 60);
  if (minutes < 60) return text("time.min", { m: minutes });
  return text("time.h", { h: Math.floor(minutes / 60), m: minutes % 60 });
}
