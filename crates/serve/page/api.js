// Requests to the server that sent this page, with the key where there is one. Knows nothing of what is on the page.

const KEY = "ounce-api-key";

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (text) => (text ? sessionStorage.setItem(KEY, text) : sessionStorage.removeItem(KEY)),
};

// An answer that is none: `status` 401 is a missing key, 0 a server that cannot be reached.
export class Fault extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Fault(0, "The server cannot be reached. Is it still running?");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new Fault(response.status, body?.error?.message ?? `The server answered with status ${response.status}.`);
}

export async function models() {
  const list = await (await ask("/v1/models")).json();
  return list.data.map((model) => model.id);
}

// The objects of a streamed chat answer, one after the other.
export async function* chat(request, signal) {
  const response = await ask("/v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new Fault(0, "The connection broke before the answer was complete.");
    });
    if (done) throw new Fault(0, "The answer ended before it was complete.");
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const object = JSON.parse(data);
      if (object.error) throw new Fault(500, object.error.message);
      yield object;
    }
  }
}
