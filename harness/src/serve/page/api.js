// What the server is asked: OpenAI's endpoints, streamed, and the sweeps. The key lies in sessionStorage.

import { text } from "./i18n.js";

const KEY = "mindscale.key";
let askForKey = async () => null;
let asking = null;

// Who asks the user for a key: a function `(isWrong) -> Promise<string | null>`.
export function onKeyWanted(ask) {
  askForKey = ask;
}

// An error as the server tells it, in OpenAI's shape.
export class ApiError extends Error {
  constructor(message, { status = 0, type = null, param = null, code = null } = {}) {
    super(message);
    Object.assign(this, { status, type, param, code });
  }
}

async function failure(response) {
  try {
    const { error } = await response.json();
    return new ApiError(error.message, { status: response.status, ...error });
  } catch {
    return new ApiError(text("error.status", { status: response.status }), { status: response.status });
  }
}

// A response that is all right; asks for the key, once for all requests that want it, where the server does.
export async function request(path, { body, signal } = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = {};
    if (key) headers.Authorization = `Bearer ${key}`;
    if (body) headers["Content-Type"] = "application/json";
    let response;
    try {
      response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
    } catch (error) {
      throw error.name === "AbortError" ? error : new ApiError(text("error.network"));
    }
    if (response.ok) return response;
    if (response.status !== 401) throw await failure(response);
    if (sessionStorage.getItem(KEY) !== key) continue; // somebody else has been given another one meanwhile
    const error = await failure(response);
    asking ??= askForKey(key !== null).finally(() => (asking = null));
    const given = await asking;
    if (!given) throw error;
    sessionStorage.setItem(KEY, given);
  }
}

// What lies at a path, as JSON.
export async function getJson(path, signal) {
  return (await request(path, { signal })).json();
}

// Models with what is known of them; servers that know only OpenAI's list give names.
export async function models() {
  try {
    return await getJson("/api/models");
  } catch (error) {
    if (error.status !== 404) throw error;
    return (await getJson("/v1/models")).data.map(({ id }) => ({ name: id, stage: null, params: null, context: null }));
  }
}

// The `data` of server-sent events.
export async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      const lines = (rest + (value ?? "")).split(/\r\n|\n/);
      rest = done ? "" : lines.pop();
      for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// Streams an answer. `ask`: `model`, either `messages` (chat) or `prompt` (continuation), `sampling`, `logprobs`,
// `signal`. `onPiece({ text, tokens })` gets what comes; returns `{ finish, usage, seconds }`.
export async function complete(ask, onPiece) {
  const isChat = ask.messages !== undefined;
  const body = {
    model: ask.model,
    ...(isChat ? { messages: ask.messages } : { prompt: ask.prompt }),
    ...ask.sampling,
    stream: true,
    stream_options: { include_usage: true },
    ...(ask.logprobs && (isChat ? { logprobs: true, top_logprobs: 5 } : { logprobs: 5 })),
  };
  const response = await request(isChat ? "/v1/chat/completions" : "/v1/completions", { body, signal: ask.signal });
  const outcome = { finish: null, usage: null, seconds: 0 };
  let begun = 0;
  let isDone = false;
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") {
        isDone = true;
        break;
      }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message, chunk.error);
      outcome.usage = chunk.usage ?? outcome.usage;
      const choice = chunk.choices?.[0];
      if (!choice) continue;
      begun ||= performance.now();
      const words = (isChat ? choice.delta?.content : choice.text) ?? "";
      const tokens = choice.logprobs ? (isChat ? chatTokens : textTokens)(choice.logprobs) : [];
      if (words || tokens.length) onPiece({ text: words, tokens });
      outcome.seconds = (performance.now() - begun) / 1000;
      outcome.finish = choice.finish_reason ?? outcome.finish;
    }
  } catch (error) {
    if (error instanceof ApiError || error.name === "AbortError") throw error;
    throw new ApiError(text("error.broken"));
  }
  if (!isDone && !outcome.finish) throw new ApiError(text("error.broken"));
  return outcome;
}

// A token: `{ text, bytes, logprob, top: [{ text, bytes, logprob }] }`, of chat's log-probabilities ...
function chatTokens(logprobs) {
  const one = ({ token, bytes, logprob }) => ({ text: token, bytes: bytes ?? bytesOf(token), logprob });
  return (logprobs.content ?? []).map((item) => ({ ...one(item), top: (item.top_logprobs ?? []).map(one) }));
}

// ... and of the older endpoint's.
function textTokens({ tokens = [], token_logprobs = [], top_logprobs = null }) {
  const one = (token, logprob) => ({ text: token, bytes: bytesOf(token), logprob });
  return tokens.map((token, i) => ({
    ...one(token, token_logprobs[i]),
    top: Object.entries(top_logprobs?.[i] ?? {}).map(([other, logprob]) => one(other, logprob)),
  }));
}

// A token's bytes; parts of characters are written `bytes:\xe4\xbd`.
function bytesOf(token) {
  const parts = /^bytes:((?:\\x[0-9a-fA-F]{2})+)$/.exec(token);
  if (parts) return parts[1].split("\\x").slice(1).map((digits) => parseInt(digits, 16));
  return [...new TextEncoder().encode(token)];
}
