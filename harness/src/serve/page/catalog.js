// The models that are served: asked for once, shown in pickers, found again by the stage run that made them.

import { models } from "./api.js";
import { el } from "./dom.js";
import { count } from "./i18n.js";

let asked = null;

// The models; asks again after a failure.
export function catalog() {
  asked ??= models().catch((error) => {
    asked = null;
    throw error;
  });
  return asked;
}

// A model's name with what tells it from others.
export function caption({ name, stage, params }) {
  return [name, stage, params && count(params)].filter(Boolean).join(" · ");
}

// Whether a model only continues text.
export const isRawModel = (model) => model?.stage === "pretrain";

// Fills a `<select>`; a chosen name that is not served stays visible.
export function fillPicker(select, list, chosen) {
  const options = list.map((model) => el("option", { value: model.name }, caption(model)));
  if (chosen && !list.some(({ name }) => name === chosen)) {
    options.unshift(el("option", { value: chosen, t: "model.gone", p: { name: chosen } }));
  }
  select.replaceChildren(...options);
  select.value = chosen ?? list[0]?.name ?? "";
}

// The served model of a stage run such as `sft-cedd4909`, if any.
export function modelOf(list, run) {
  const id = run.split("-").at(-1);
  const isOf = (words) => words && words.replaceAll("-", "").includes(id);
  return list.find(({ name }) => name === run) ?? list.find(({ source }) => isOf(source)) ?? null;
}
