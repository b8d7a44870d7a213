// Talking to the gateway. The session is a cookie that scripts cannot see.

export class Refused extends Error {
  constructor(status, found) {
    super(found?.error?.message ?? `the gateway answered ${status}`);
    this.status = status;
    this.refusals = found?.error?.refusals;
  }
}

async function ask(path, options) {
  const reply = await fetch(path, { credentials: "same-origin", cache: "no-store", ...options });
  const found = await reply.json().catch(() => null);
  if (!reply.ok) throw new Refused(reply.status, found);
  return found;
}

export const get = (path, query = {}) => {
  const asked = new URLSearchParams(Object.entries(query).filter(([, v]) => v !== "" && v !== undefined && v !== null));
  return ask(`/admin/${path}${asked.size ? "?" + asked : ""}`);
};
export const post = (path, body) => ask(`/admin/${path}`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
