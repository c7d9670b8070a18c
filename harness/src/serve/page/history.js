// Conversations kept in localStorage, newest first, one entry each; and their export.

import { read, write } from "./store.js";

const LIST = "mindscale.conversations"; // ids
const place = (id) => `mindscale.conversation.${id}`;

// A conversation: `messages` are `{ role, content, finish?, usage? }`; `isRaw` continues text instead of answering.
export function blank(model, isRaw, system) {
  const id = Array.from(crypto.getRandomValues(new Uint8Array(6)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  return { id, model, isRaw, system, messages: [], updated: Date.now() };
}

// Ids of all conversations that are kept, newest first.
const ids = () => read(LIST) ?? [];

// All conversations, the one that changed last first.
export function all() {
  return ids().map((id) => read(place(id))).filter(Boolean).sort((a, b) => b.updated - a.updated);
}

// One conversation, or null.
export const load = (id) => read(place(id));

// Keeps a conversation; false where there is no room.
export function save(conversation) {
  const kept = ids();
  if (!kept.includes(conversation.id) && !write(LIST, [conversation.id, ...kept])) return false;
  return write(place(conversation.id), conversation);
}

// Forgets one.
export function remove(id) {
  localStorage.removeItem(place(id));
  write(LIST, ids().filter((other) => other !== id));
}

// What a conversation is called: its first words.
export function titleOf(conversation) {
  const first = conversation.messages.find(({ role }) => role === "user")?.content ?? "";
  const words = first.replace(/\s+/g, " ").trim();
  return words.length > 60 ? `${words.slice(0, 60)}…` : words;
}

// As Markdown for people.
export function toMarkdown(conversation) {
  const parts = [`# ${titleOf(conversation)}`, `*${conversation.model}, ${new Date(conversation.updated).toISOString()}*`];
  if (conversation.system) parts.push(`## system\n\n${conversation.system}`);
  for (const { role, content } of conversation.messages) parts.push(`## ${role}\n\n${content}`);
  return `${parts.join("\n\n")}\n`;
}

// As JSON for programs: `messages` as the chat endpoint takes them.
export function toJson({ model, isRaw, system, messages, updated }) {
  const spoken = messages.map(({ role, content }) => ({ role, content }));
  const asked = system ? [{ role: "system", content: system }, ...spoken] : spoken;
  return `${JSON.stringify({ model, mode: isRaw ? "continuation" : "chat", updated: new Date(updated).toISOString(), messages: asked }, null, 2)}\n`;
}
