// Prints each promotion into a model once, as examples/README.md says: over HTTP, with Server-Sent Events and nothing
// generated. EventSource opens a stream that has ended again by itself, behind the last event that came.

import { EventSource } from "eventsource";

import { token } from "./token.js";

const { MODELREGISTRY_URL } = process.env;
const type = "modelregistry.version.promoted.v1";

/**
 * Prints promotions behind a cursor. EventSource remembers where it is only from events, and not from bookmarks: one
 * that loses its stream before the first event asks for the same URL again, so it says where to begin.
 */
function watch(modelRid: string, afterCursor: string): void {
  const url = `${MODELREGISTRY_URL}/api/v2/events?${new URLSearchParams({ modelRid, types: type, afterCursor })}`;
  const source = new EventSource(url, {
    // Asks for the token each time, as that of the time before may have expired.
    fetch: (input, init) => fetch(input, { ...init, headers: { ...init.headers, Authorization: `Bearer ${token()}` } }),
  });
  let last = afterCursor;
  source.addEventListener("open", () => console.error(`watches ${modelRid}`));
  source.addEventListener(type, ({ data, lastEventId }) => {
    const { branch, modelVersionRid, subject } = JSON.parse(data);
    console.log(branch, subject.versionNumber, modelVersionRid, lastEventId);
    last = lastEventId;
  });
  source.addEventListener("end", ({ data }) => console.error(`ends with ${JSON.parse(data).errorName}`));
  source.addEventListener("error", ({ code, message }) => {
    if (source.readyState !== EventSource.CLOSED) {
      console.error(`goes on after ${message ?? "the end of the stream"}`);
    } else if (code === 429 || code === 503) {
      // EventSource gives up on every answer but 200. These pass.
      console.error(`goes on after ${code}`);
      setTimeout(() => watch(modelRid, last), 1_000 + 4_000 * Math.random());
    } else {
      console.error(`failed with ${message}`);
      process.exitCode = 1;
    }
  });
}

watch(process.argv[2], process.argv[3]);
